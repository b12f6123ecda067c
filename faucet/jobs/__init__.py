"""What it is: what happens without anybody asking: sweeps over rows, run by the clock.

Owns: which sweep runs when, and the process that runs them.
Does not own: any rule; a sweep calls the ledger and the offices like everyone else.
Invariants: a sweep may be repeated, interrupted or run twice at once at any time; it works in bounded batches, each
a tx of its own; the process lives through a database that goes away and comes back.
"""
