"""What it is: which provider and model answer a request, decided purely.

Owns: turning what was asked, a feature's policy and the prices in force into an ordered list of attempts.
Does not own: calling anybody, counting failures, or what an answer costs.
Invariants: no I/O and no clock in here; an attempt names its payer, so fallback never changes it silently.
"""
