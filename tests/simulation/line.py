"""The Stripe double in the economy's own process: the real client, whose requests are answered by a call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import stripe

from faucet.kit.secret import Secret
from faucet.payments.connect import StripeConnect
from faucet.payments.double import checkout, disputes, payment_methods, payouts, refunds
from faucet.payments.double.problem import Problem
from faucet.payments.double.resources import CONTROLS_OF_RESOURCES, TICKS
from faucet.payments.double.routes import Call
from faucet.payments.double.server import StripeDouble
from faucet.payments.double.webhooks import body_of, signature
from faucet.payments.processor import StripeLine
from faucet.payments.stripe_top_ups import StripeTopUps

Json = dict[str, Any]
SECRET = Secret("whsec_of_the_simulation_alone")


class _Till(stripe.HTTPClient):
    """What the client sends, answered without a socket."""

    name = "till"

    def __init__(self, double: StripeDouble) -> None:
        super().__init__()
        self._double = double

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        text = (post_data or "") if method.lower() == "post" else parts.query
        lower = {name.lower(): str(value) for name, value in (headers or {}).items()}
        status, body, shown = self._double.answer(method.upper(), parts.path, text, lower)
        return body, status, shown

    def close(self) -> None:
        """There is nothing to close."""


class Processor:
    """A Stripe, what people do on its pages, and its post."""

    def __init__(self) -> None:
        self.double = StripeDouble()
        self.state = self.double.state
        line = StripeLine(Secret("sk_test_of_the_simulation"), http=_Till(self.double))
        self.top_ups = StripeTopUps(line)
        self.connect = StripeConnect(line)

    def of(self, kind: str) -> list[Json]:
        """The objects of a kind, of whatever account."""
        return [row for row in self.state.objects.values() if row["object"] == kind]

    def pay(self, session: str, card: str) -> bool:
        """Somebody sends the form of a checkout page; whether their bank agreed."""
        try:
            checkout.pay(self.state, self.state.objects[session], card, "p@x.example")
        except Problem:
            return False
        return True

    def save_card(self, customer: str, number: str) -> str:
        """A customer's new card; its name."""
        method = payment_methods.from_number(self.state, number)
        payment_methods.attach_to(self.state, method, customer)
        return str(method["id"])

    def leave(self, session: str) -> None:
        """Nobody will pay on a page any more."""
        checkout.expire(self.state, Call({}, {"id": session}))

    def refund(self, intent: str, cents: int) -> bool:
        """Somebody gives money back on Stripe's own pages; whether that was possible."""
        try:
            refunds.create(self.state, Call({"payment_intent": intent, "amount": cents}))
        except Problem:
            return False
        return True

    def collect(self, cents: int) -> bool:
        """Stripe pays so much to our own bank; whether it has that."""
        try:
            payouts.create(self.state, Call({"amount": cents, "currency": "usd"}))
        except Problem:
            return False
        return True

    async def control(self, name: str, **ask: Any) -> bool:
        """Turn a knob of the double's; whether it would turn."""
        try:
            await CONTROLS_OF_RESOURCES["POST", f"/_control/{name}"](self.double.knobs, ask)
        except Problem:
            return False
        return True

    def deny(self, intent: str) -> bool:
        """A card's owner denies a payment; whether that was possible."""
        try:
            disputes.open_dispute(self.state, self.state.objects[self.state.objects[intent]["latest_charge"]])
        except Problem:
            return False
        return True

    def later(self, seconds: int) -> None:
        """Time passes there."""
        self.state.clock_offset += seconds
        for tick in TICKS:
            tick(self.state)

    def balance(self) -> int:
        """What the platform has there beyond what it began with, in cents, what is on its way included."""
        return sum(row["net"] for row in self.state.all("balance_transaction"))


def letter(event: Json, *, age: int = 0) -> tuple[bytes, str]:
    """An event as it comes: its bytes, and the header that signs them."""
    body = body_of(event)
    return body, signature(body, SECRET.reveal(), at=int(time.time()) - age)
