"""What it is: money across the border, by way of the processor (Stripe): top-ups in, refunds and disputes back.

Owns: the port to the processor and its one adapter, the inbox of its events, top-ups and what became of them, saved
payment methods; `double`, a processor for development and tests that behaves like the real one.
Does not own: balances (`ledger` moves them), who may ask (doors), sessions (`tenants`).
Invariants: an event is stored once and applied once, in whatever order events come; nothing is credited that doesn't
match what was asked for, to the cent; a person's card number never comes here; no call to the processor is made
inside of a tx, and each that creates something has an idempotency key of ours.
"""
