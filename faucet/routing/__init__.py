"""What it is: which model of which provider answers a request and who pays for it, decided purely.

Owns: the words of a route policy (`policy`), turning them, what was asked and what there is into ordered attempts
(`plan`), and what recent answers say of an upstream (`health`).
Does not own: calling anybody, opening a credential, or what an answer costs.
Invariants: no I/O and no clock in here; an attempt names its payer, and another payer follows one only where the
policy names it and the owner of every key before it lets go.
"""
