"""What becomes of a circuit's trial that nobody makes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from faucet.gateway.attempt import CallRules, first_answer
from faucet.gateway.catalogue import Account, Product
from faucet.gateway.exchange import ClientGone, Exchange
from faucet.kit.errors import Refusal
from faucet.kit.upstream import Deadlines, Endpoint
from faucet.providers.base import Call, Provider
from faucet.routing.health import Circuit, Rules
from faucet.terms import Payer

NOBODY: Any = None
"""Who is never asked here: no call leaves."""
RULES = CallRules(Deadlines(1, 1, 1), 0, 0)


def product(circuit: Circuit) -> Product:
    provider = Provider("openai", Endpoint("https", "api.example", 443, "", False), b"/chat/completions", b"", ())
    return Product(Account(provider), provider, NOBODY, b'"m"', Payer.PLATFORM, circuit)


def recovering() -> Circuit:
    """A circuit that was open and may be tried again."""
    circuit = Circuit(Rules(in_a_row=1))
    circuit.failed(time.monotonic() - Rules().open_seconds, "http_500")
    return circuit


@pytest.mark.parametrize("leaves", [False, True])
def test_a_trial_that_is_not_made_is_another_s(leaves: bool) -> None:
    """Lost: requests that a provider has no words for, or whose clients leave, keep it down for a minute each."""
    tried = recovering()
    exchange = Exchange(NOBODY, "POST", b"/v1/chat/completions", [], keep_alive=True)
    exchange.gone = leaves

    def speechless(product: Product) -> Call:
        raise Refusal("invalid_request", "no words for it")

    with pytest.raises(ClientGone if leaves else Refusal):
        asyncio.run(
            first_answer(
                NOBODY,
                RULES,
                exchange,
                [product(tried), product(Circuit())],
                speechless,
                stream=False,
                circuits=NOBODY,
                watch=NOBODY,
            )
        )
    assert not tried.is_down(time.monotonic()), "the trial is there to be made"
    assert tried.is_down(time.monotonic()), "by one"
