"""The providers that a developer or an end user may bring a key for, by the name that the wire has.

Not here: what is known of a provider (`catalog`), asking it (`probe`), and who may use a key.
"""

from __future__ import annotations

from faucet.providers.catalog import CATALOG

KEYED = {name: entry for entry in CATALOG.values() if not entry.operator_only for name in (entry.name, *entry.aliases)}
"""With other names of a provider, such as `google` of `gemini`."""
