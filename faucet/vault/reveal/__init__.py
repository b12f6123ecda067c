"""The read side of the vault: private keys, what wraps them, opening, rotation.

Only gateways and the operator's key commands may import from here; the import contracts see to that.
"""
