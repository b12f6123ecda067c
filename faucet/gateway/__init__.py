"""What it is: the data plane, an OpenAI-compatible door for apps' end users.

Owns: one request from its bearer to its last byte: admit, plan, hold, call, relay, settle.
Does not own: prices and shares (`rating`), balances (`ledger`), who may ask (`tenants`).
Invariants: nothing is called before its ceiling is held; nothing ends before it is settled or released; a
provider's key never leaves towards a client.
"""
