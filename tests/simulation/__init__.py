"""The ledger's economy in miniature: seeded, on a real PostgreSQL, checked after every event."""

from __future__ import annotations
