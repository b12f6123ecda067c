"""What it is: a double-entry ledger of prepaid wallets, with holds, inside PostgreSQL.

Owns: accounts, holds, transfers, usage events, spend limits; the functions that move money; group commit.
Does not own: what an answer costs (`rating`), who may ask (`tenants`), money across the border (payments).
Invariants: a transfer names both sides; no wallet below zero, holds included; a hold is resolved once; transfers
and usage events never change; every way money can move is a function in `moves.py`.
"""
