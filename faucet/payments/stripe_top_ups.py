"""The adapter of the port `TopUpProcessor`: its calls as Stripe's."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import stripe
from stripe import StripeClient

from faucet.kit.config import Config
from faucet.payments.processor import (
    CheckoutAsk,
    CheckoutPage,
    Payment,
    ProcessorRefused,
    SavedCard,
    StripeLine,
    line_of,
)

CURRENCY = "usd"
PRODUCT = "AI credit"
PAYMENTS_LISTED = 100
_PAYMENT: list[str] = ["latest_charge.balance_transaction"]


def top_ups_of(config: Config) -> StripeTopUps | None:
    """The adapter that the settings describe; None where Stripe isn't configured."""
    line = line_of(config)
    return None if line is None else StripeTopUps(line)


class StripeTopUps:
    """Top-ups by Stripe."""

    def __init__(self, line: StripeLine) -> None:
        self._line = line

    async def open_checkout(self, ask: CheckoutAsk) -> CheckoutPage:
        def call(client: StripeClient) -> CheckoutPage:
            marks = {"top_up": str(ask.top_up_id)}
            intent: dict[str, Any] = {"metadata": marks, "description": PRODUCT}
            params: dict[str, Any] = {
                "mode": "payment",
                "allowed_payment_method_types": ["card"],
                "adaptive_pricing": {"enabled": False},
                "client_reference_id": str(ask.top_up_id),
                "line_items": [
                    {
                        "quantity": 1,
                        "price_data": {
                            "currency": CURRENCY,
                            "unit_amount": ask.amount_cents,
                            "product_data": {"name": PRODUCT},
                        },
                    }
                ],
                "metadata": marks,
                "payment_intent_data": intent,
                "success_url": ask.success_url,
                "cancel_url": ask.cancel_url,
                # To the hour, so that a repeat with the same key asks for the same.
                "expires_at": (int(time.time()) + ask.lasts_seconds) // 3_600 * 3_600,
            }
            if ask.customer_id is not None:
                params["customer"] = ask.customer_id
                intent["setup_future_usage"] = "off_session"
            made = client.v1.checkout.sessions.create(params, {"idempotency_key": f"top-up:{ask.top_up_id}"})  # type: ignore[arg-type]
            if made.url is None:
                raise ProcessorRefused("the checkout session has no page any more")
            return CheckoutPage(made.id, made.url, datetime.fromtimestamp(made.expires_at, UTC))

        return await self._line.call(call)

    async def close_checkout(self, session_id: str) -> None:
        await self._line.call(lambda client: client.v1.checkout.sessions.expire(session_id))

    async def checkout(self, session_id: str) -> dict[str, Any]:
        return await self._line.call(lambda client: _plain(client.v1.checkout.sessions.retrieve(session_id)))

    async def ensure_customer(self, end_user_id: UUID) -> str:
        def call(client: StripeClient) -> str:
            params: stripe.params.CustomerCreateParams = {"metadata": {"end_user": str(end_user_id)}}
            return client.v1.customers.create(params, {"idempotency_key": f"customer:{end_user_id}"}).id

        return await self._line.call(call)

    async def charge(self, *, top_up_id: UUID, amount_cents: int, customer_id: str, payment_method_id: str) -> Payment:
        def call(client: StripeClient) -> Payment:
            made = client.v1.payment_intents.create(
                {
                    "amount": amount_cents,
                    "currency": CURRENCY,
                    "customer": customer_id,
                    "payment_method": payment_method_id,
                    "allowed_payment_method_types": ["card"],
                    "off_session": True,
                    "confirm": True,
                    "description": PRODUCT,
                    "metadata": {"top_up": str(top_up_id)},
                    "expand": _PAYMENT,
                },
                {"idempotency_key": f"top-up:{top_up_id}"},
            )
            return _payment(_plain(made))

        return await self._line.call(call)

    async def payment(self, intent_id: str) -> Payment:
        return await self._line.call(
            lambda client: _payment(_plain(client.v1.payment_intents.retrieve(intent_id, {"expand": _PAYMENT})))
        )

    async def payments_of(self, customer_id: str, *, since: datetime) -> list[Payment]:
        def call(client: StripeClient) -> list[Payment]:
            found = client.v1.payment_intents.list(
                {"customer": customer_id, "created": {"gte": int(since.timestamp())}, "limit": PAYMENTS_LISTED}
            )
            return [_payment(_plain(each)) for each in found.data]

        return await self._line.call(call)

    async def card(self, payment_method_id: str) -> SavedCard:
        def call(client: StripeClient) -> SavedCard:
            found = client.v1.payment_methods.retrieve(payment_method_id)
            if found.card is None:
                raise ProcessorRefused("the payment method is no card")
            return SavedCard(found.id, found.card.brand, found.card.last4)

        return await self._line.call(call)

    async def forget_card(self, payment_method_id: str) -> None:
        def call(client: StripeClient) -> None:
            if client.v1.payment_methods.retrieve(payment_method_id).customer is not None:
                client.v1.payment_methods.detach(payment_method_id)

        await self._line.call(call)

    async def refund(self, intent_id: str, *, amount_cents: int, refund_id: UUID) -> dict[str, Any]:
        def call(client: StripeClient) -> dict[str, Any]:
            params: stripe.params.RefundCreateParams = {
                "payment_intent": intent_id,
                "amount": amount_cents,
                "metadata": {"refund": str(refund_id)},
            }
            return _plain(client.v1.refunds.create(params, {"idempotency_key": f"refund:{refund_id}"}))

        return await self._line.call(call)

    async def events(self, *, since: datetime, limit: int) -> list[bytes]:
        def call(client: StripeClient) -> list[bytes]:
            found = client.v1.events.list({"created": {"gte": int(since.timestamp())}, "limit": min(100, limit)})
            taken: list[bytes] = []
            for event in found.auto_paging_iter():
                taken.append(_body(event))
                if len(taken) >= limit:
                    break
            return taken

        return await self._line.call(call)

    async def event(self, event_id: str) -> bytes:
        return await self._line.call(lambda client: _body(client.v1.events.retrieve(event_id)))


def _plain(thing: stripe.StripeObject) -> dict[str, Any]:
    found: dict[str, Any] = thing.to_dict()
    return found


def _body(event: stripe.Event) -> bytes:
    return json.dumps(_plain(event), ensure_ascii=False).encode()


def _payment(intent: dict[str, Any]) -> Payment:
    charge = intent.get("latest_charge")
    charge = charge if isinstance(charge, dict) else {}
    balance = charge.get("balance_transaction")
    method = intent.get("payment_method")
    return Payment(
        intent_id=intent["id"],
        status=intent["status"],
        amount_cents=int(intent["amount"]),
        currency=intent["currency"],
        payment_method_id=method if isinstance(method, str) else None,
        fee_cents=int(balance["fee"]) if isinstance(balance, dict) else None,
        receipt_url=charge.get("receipt_url"),
        receipt_number=charge.get("receipt_number"),
        top_up_id=intent.get("metadata", {}).get("top_up"),
    )
