"""What it is: the safe for secrets of providers that the platform, developers and end users entrust to us.

Owns: sealing and opening them (HPKE), the keys for that and the keys that wrap those, their rotation, and every SQL
statement over credentials.
Does not own: whose request may use which credential (`routing`, `gateway`), calling a provider (`providers`).
Invariants: who writes a secret can't read it; what is sealed opens only in its own row, for its own owner, provider
and address; a private key is stored wrapped only; nothing here prints a secret.
"""
