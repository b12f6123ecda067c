"""What it is: the questions that people ask of the books: usage, revenue, and whether everything adds up.

Owns: one file per report, each a few queries and the rows that they give.
Does not own: any table, any rule, any shape of the wire.
Invariants: reads only; a report that compares figures takes one snapshot for all of them.
"""
