"""The circuits that all requests of one process share, by account and model.

What failures mean is decided in `routing.health`; here they are only kept, across snapshots of what is for sale.
"""

from __future__ import annotations

import time
from uuid import UUID

from faucet.routing.health import Circuit

ACCOUNTS_MAX = 20_000
MODELS_MAX = 500
"""Of one account; what is asked for beyond is a caller's list of made-up names."""
BARRED_SECONDS = 60.0
"""How long a key that its provider refused is asked last."""

AccountName = UUID | str
"""A credential's id, or the name of a provider that the operator's settings name."""


class Circuits:
    """Every upstream's recent past, as this process saw it."""

    def __init__(self) -> None:
        self._by_account: dict[AccountName, dict[str, Circuit]] = {}

    def of(self, account: AccountName, model: str) -> Circuit:
        """The circuit of a model at an account, a new one for a new pair."""
        models = self._by_account.get(account)
        if models is None:
            if len(self._by_account) >= ACCOUNTS_MAX:
                del self._by_account[next(iter(self._by_account))]
            models = self._by_account[account] = {}
        circuit = models.get(model)
        if circuit is None:
            if len(models) >= MODELS_MAX:
                del models[next(iter(models))]
            circuit = models[model] = Circuit()
        return circuit

    def bar(self, account: AccountName, code: str) -> None:
        """A provider refused the account itself: all of its models are asked last for a while."""
        now = time.monotonic()
        for circuit in self._by_account.get(account, {}).values():
            circuit.bar(now, BARRED_SECONDS, code)

    def forget(self, account: AccountName) -> None:
        """Begin anew with an account."""
        self._by_account.pop(account, None)

    def models(self, account: AccountName) -> dict[str, Circuit]:
        """What is known of an account's models."""
        return self._by_account.get(account, {})
