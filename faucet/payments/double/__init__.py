"""What it is: a stateful stand-in for Stripe's API, a real server, for development and tests.

Owns: the part of Stripe's API that this project calls, with its strictness (unknown routes and parameters are
refused), its idempotency keys, its event log and its signed webhooks; a checkout page that a browser can use; and,
under `/_control`, what no real processor offers: failures, delays, repeats and disorder on demand.
Does not own: anything of ours. Nothing here imports another room; it speaks to us over HTTP only.
Invariants: one module per resource, each with its `ROUTES`; all state is one `State`, changed by one request at a time.
"""
