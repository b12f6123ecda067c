"""What it is: who publishes what, and who may ask: developers, apps, features, end users, sessions.

Owns: their rows and every SQL statement over them; the words of a feature's policy; minting and revoking
sessions; the demo's data.
Does not own: balances (`ledger`), prices (`rating`), the choice of a provider (`routing`).
Invariants: a bearer and an external user id are stored as hashes only; an end user has one wallet per app; a
policy word that we don't know is refused, never ignored.
"""
