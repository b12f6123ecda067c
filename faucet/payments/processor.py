"""The processor: what this room asks of Stripe, as a port, and the one adapter that asks it.

`StripeLine` is the line to Stripe: one client, its calls in threads, its failures as ours. It retries what may be
repeated and gives every call that creates something our idempotency key, so that a repeat creates nothing new.
Others' ports (payouts) share the line. Not here: when something is asked, what is booked of it, any tx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

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

    def __init__(self, secret_key: Secret, *, api_base: str | None = None) -> None:
        client = stripe.RequestsClient(timeout=TIMEOUT_SECONDS)
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
