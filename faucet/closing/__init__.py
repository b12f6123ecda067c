"""What it is: the end of a month: its sums, the signed statements of it, and the invoices to hold them against.

Owns: months that are closed, statements and the keys that signed them, invoices of providers; how a statement is
written, proved and shown.
Does not own: transfers and usage (`ledger`), reports (`reports`).
Invariants: what a closed month says never changes; a statement is its text, byte by byte; each names the one before it.
"""
