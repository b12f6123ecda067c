"""The ModelFaucet server: one distribution, several processes (gateway, api, jobs).

Floors, from the top: doors (`gateway`, `api`, `jobs`), offices (`tenants`, `reports`), engines (`ledger`,
`rating`, `routing`, `limits`, `providers`), ground (`terms` over `kit`). A room imports downwards only, and
rooms on one floor do not know each other; `pyproject.toml` holds the contracts that check it.
"""
