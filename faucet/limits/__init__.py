"""What it is: how fast somebody may ask.

Owns: the rate-limit arithmetic (GCRA) and where its state lives: in this process, and later in Redis.
Does not own: money; spend limits are the ledger's, reserved with the hold.
Invariants: state here may be lost at any time and nobody is charged wrongly for it.
"""
