"""What it is: all processes of ModelFaucet on one machine as one thing that is started, watched and stopped.

Owns: the supervisor and its children, their ports and logs, the demo's prices, the database that commands use.
Does not own: what the processes do (the doors), PostgreSQL (`kit`), the terminal (`cli`).
Invariants: nothing outlives the supervisor, however that ends; one data dir has one stack; only gateways get the
keys of providers.
"""
