"""What it is: finding personal data and secrets in texts, and putting placeholders in their stead, both ways.

Owns: what counts as personal (`find.py` over `numbers`, `phones`, `credentials`, `addresses`), in English and Chinese;
the placeholders of one request (`redact.py`) and the way back, also in streams (`restore.py`).
Does not own: whether a feature wants it, what a provider is sent, or what is logged: the gateway does.
Invariants: no I/O and nothing kept beyond one request; a placeholder is restored only if this request made it; what
comes back is what was taken out, character for character.
"""
