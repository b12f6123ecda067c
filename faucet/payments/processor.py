"""The processor: what top-ups ask of it, as a port, and the line to Stripe that adapters share.

`StripeLine` is one client, its calls in threads, its failures as ours. It retries what may be repeated; every call that
creates something carries our idempotency key, so that a repeat creates nothing new. `StripeTopUps` (`stripe_top_ups`)
is the port's adapter; payouts have their own port and the same line. Not here: when something is asked, what is booked
of it, any tx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

import stripe
from stripe._base_address import BaseAddresses

from faucet.kit.config import Config
from faucet.kit.errors import FaucetError, Refusal
from faucet.kit.secret import Secret

TIMEOUT_SECONDS = 20.0
RETRIES = 2

T = TypeVar("T")


class ProcessorRefused(FaucetError):
    """The processor said no, for good: the same request would be refused again."""

    def __init__(self, message: str, *, code: str | None = None, decline_code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.decline_code = decline_code


class CardDeclined(ProcessorRefused):
    """A card's bank said no."""


class ProcessorConflict(ProcessorRefused):
    """Our idempotency key was used for something else."""


class ProcessorUnsure(FaucetError):
    """Nobody knows whether it was done: the connection broke, or the processor failed. Ask again, with the same key."""


class StripeLine:
    """One client of Stripe's API."""

    def __init__(
        self, secret_key: Secret, *, api_base: str | None = None, http: stripe.HTTPClient | None = None
    ) -> None:
        client = stripe.RequestsClient(timeout=TIMEOUT_SECONDS) if http is None else http
        addresses: BaseAddresses = {} if api_base is None else {"api": api_base}
        self._client = stripe.StripeClient(
            secret_key.reveal(), base_addresses=addresses, max_network_retries=RETRIES, http_client=client
        )

    async def call(self, ask: Callable[[stripe.StripeClient], T]) -> T:
        """What `ask` gets from Stripe, asked in a thread.

        Raises ProcessorRefused and its kinds, and ProcessorUnsure.
        """
        return await asyncio.to_thread(self._asked, ask)

    def _asked(self, ask: Callable[[stripe.StripeClient], T]) -> T:
        try:
            return ask(self._client)
        except stripe.CardError as error:
            raise CardDeclined(_said(error), code=error.code, decline_code=_decline_code(error)) from None
        except stripe.IdempotencyError as error:
            raise ProcessorConflict(_said(error), code=error.code) from None
        except (stripe.APIConnectionError, stripe.RateLimitError, stripe.APIError) as error:
            raise ProcessorUnsure(f"{type(error).__name__}: {_said(error)}") from None
        except stripe.StripeError as error:
            raise ProcessorRefused(_said(error), code=error.code) from None


def line_of(config: Config) -> StripeLine | None:
    """The line that the settings describe; None where Stripe isn't configured."""
    if config.stripe_secret_key is None:
        return None
    return StripeLine(config.stripe_secret_key, api_base=config.stripe_api_base)


def not_configured() -> Refusal:
    """What a route that needs the processor says where there is none."""
    return Refusal(
        "unavailable", "payments are not set up here: the operator has to configure Stripe (STRIPE_SECRET_KEY)"
    )


def _said(error: stripe.StripeError) -> str:
    """Stripe's own words, shortened; they name no secret beyond the end of a key."""
    return str(error.user_message or error)[:500]


def _decline_code(error: stripe.CardError) -> str | None:
    body: Any = error.json_body
    found = body.get("error", {}).get("decline_code") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


# ── top-ups ──


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutAsk:
    """A page on which a person is to pay."""

    top_up_id: UUID
    amount_cents: int
    success_url: str
    cancel_url: str
    customer_id: str | None = None
    """Where the card is to be kept, for payments when its owner isn't there."""
    lasts_seconds: int


@dataclass(frozen=True, slots=True)
class CheckoutPage:
    """A checkout session that was made."""

    id: str
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """What the processor knows of a payment. Amounts in cents."""

    intent_id: str
    status: str
    amount_cents: int
    currency: str
    payment_method_id: str | None
    fee_cents: int | None
    receipt_url: str | None
    receipt_number: str | None
    top_up_id: str | None
    """Which of our top-ups it is for, as we told the processor when we asked for it."""


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A card that the processor keeps for one of its customers."""

    id: str
    brand: str
    last4: str


class TopUpProcessor(Protocol):
    """What top-ups need of a processor. Each call may raise ProcessorRefused and its kinds, and ProcessorUnsure."""

    async def open_checkout(self, ask: CheckoutAsk) -> CheckoutPage:
        """A page on which a person can pay this; the same page for the same top-up."""
        ...

    async def close_checkout(self, session_id: str) -> None:
        """Nobody can pay there any more. Raises ProcessorRefused where it was paid or is over."""
        ...

    async def checkout(self, session_id: str) -> dict[str, Any]:
        """A checkout session as an event about it would show it."""
        ...

    async def ensure_customer(self, end_user_id: UUID) -> str:
        """The customer that an end user is at the processor, under our id alone."""
        ...

    async def charge(self, *, top_up_id: UUID, amount_cents: int, customer_id: str, payment_method_id: str) -> Payment:
        """Take this from a saved card while its owner isn't there, once per top-up. Raises CardDeclined."""
        ...

    async def payment(self, intent_id: str) -> Payment:
        """A payment with its fee and receipt, as far as they are known."""
        ...

    async def payments_of(self, customer_id: str, *, since: datetime) -> list[Payment]:
        """A customer's payments since then."""
        ...

    async def card(self, payment_method_id: str) -> SavedCard:
        """A saved card, as far as it may be shown."""
        ...

    async def forget_card(self, payment_method_id: str) -> None:
        """Keep a card no longer. One that is gone already is fine."""
        ...

    async def refund(self, intent_id: str, *, amount_cents: int, refund_id: UUID) -> dict[str, Any]:
        """Give this back to the card, once per id of ours; the refund as an event about it would show it."""
        ...

    async def events(self, *, since: datetime, limit: int) -> list[bytes]:
        """The events since then, newest first, each as a webhook's body would have it."""
        ...

    async def event(self, event_id: str) -> bytes:
        """One event, as a webhook's body would have it."""
        ...
