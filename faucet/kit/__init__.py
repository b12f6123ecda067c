"""What it is: mechanism without nouns (money as integers, time, ids, errors, database, HTTP, settings).

Owns: the lowest floor; anything here could be lifted into another project.
Does not own: any word of the business (wallet, session, model); those start at `faucet.terms`.
Invariants: imports nothing of `faucet` outside `kit`; no rule about money beyond the integer itself.
"""
