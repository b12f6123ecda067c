"""Money out through Stripe Connect, as a port, and the one adapter that speaks to Stripe.

A developer has an account at Stripe, which Stripe itself asks what the law wants to know. A payout is a transfer from
the platform's balance to that account, and then a payout from there to the developer's bank, of the same amount. Each
call that moves something has a key, and carries our payout's id, so that it can be found again when its key is
forgotten. Not here: when something is asked (`payout_steps`), any tx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import stripe

from faucet.kit.config import Config
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure, StripeLine, line_of

PAGE, PAGES_MAX = 100, 20
"""So many of an account's newest payouts are looked through for ours: by their metadata, for no list of Stripe's can be
asked for that, and not by their time, for Stripe's clock is not ours."""
OURS = "payout_id"
"""The word of Stripe's metadata under which our payout's id is."""


@dataclass(frozen=True, slots=True)
class Link:
    """An address at which a developer tells Stripe about themselves. It opens once."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SentTransfer:
    """A transfer from the platform's balance to a developer's account."""

    id: str
    amount_cents: int
    account_id: str
    is_reversed: bool


@dataclass(frozen=True, slots=True)
class BankPayout:
    """A payout from a developer's account to their bank."""

    id: str
    status: str
    """Stripe's: `pending`, `in_transit`, `paid`, `failed` or `canceled`."""
    failure: str | None


class PayoutProcessor(Protocol):
    """What payouts ask of the processor. Everything raises ProcessorRefused and ProcessorUnsure."""

    async def open_account(self, *, developer_id: UUID, email: str) -> str:
        """The id of a new account; the same one when asked again within a day."""
        ...

    async def onboarding_link(self, account_id: str, *, return_url: str, refresh_url: str) -> Link:
        """Where its owner goes to say who they are, and which bank is theirs."""
        ...

    async def is_ready(self, account_id: str) -> bool:
        """Whether money can be transferred to the account and paid out of it."""
        ...

    async def find_transfer(self, payout_id: UUID) -> SentTransfer | None:
        """The transfer that was made for a payout."""
        ...

    async def transfer(self, payout_id: UUID, *, amount_cents: int, account_id: str, key: str) -> SentTransfer:
        """Transfer from the platform's balance to an account."""
        ...

    async def reverse(self, transfer_id: str, *, payout_id: UUID, key: str) -> str:
        """Take a transfer back, whole; the reversal's id, also where it was taken back before."""
        ...

    async def find_payout(self, payout_id: UUID, *, account_id: str) -> BankPayout | None:
        """What an account has paid out for a payout of ours."""
        ...

    async def pay_out(self, payout_id: UUID, *, amount_cents: int, account_id: str, key: str) -> BankPayout:
        """Pay out of an account, to its owner's bank."""
        ...

    async def payout(self, bank_payout_id: str, *, account_id: str) -> BankPayout:
        """How a payout to a bank stands."""
        ...

    async def cancel_payout(self, bank_payout_id: str, *, account_id: str) -> BankPayout:
        """Stop a payout to a bank that hasn't left yet."""
        ...


class StripeConnect:
    """The port's adapter."""

    def __init__(self, line: StripeLine) -> None:
        self._line = line

    async def open_account(self, *, developer_id: UUID, email: str) -> str:
        made = await self._line.call(
            lambda client: client.v1.accounts.create(
                params={
                    "type": "express",
                    "email": email,
                    "capabilities": {"transfers": {"requested": True}},
                    # What we transfer is paid out when we say so, in one piece, or its end could not be told.
                    "settings": {"payouts": {"schedule": {"interval": "manual"}}},
                    "metadata": {"developer_id": str(developer_id)},
                },
                options={"idempotency_key": f"account:{developer_id}"},
            )
        )
        return made.id

    async def onboarding_link(self, account_id: str, *, return_url: str, refresh_url: str) -> Link:
        made = await self._line.call(
            lambda client: client.v1.account_links.create(
                params={
                    "account": account_id,
                    "type": "account_onboarding",
                    "return_url": return_url,
                    "refresh_url": refresh_url,
                }
            )
        )
        return Link(made.url, datetime.fromtimestamp(made.expires_at, UTC))

    async def is_ready(self, account_id: str) -> bool:
        return is_ready((await self._line.call(lambda client: client.v1.accounts.retrieve(account_id))).to_dict())

    async def find_transfer(self, payout_id: UUID) -> SentTransfer | None:
        found = await self._line.call(
            lambda client: client.v1.transfers.list(params={"transfer_group": str(payout_id), "limit": 1})
        )
        return _sent(found.data[0]) if found.data else None

    async def transfer(self, payout_id: UUID, *, amount_cents: int, account_id: str, key: str) -> SentTransfer:
        made = await self._line.call(
            lambda client: client.v1.transfers.create(
                params={
                    "amount": amount_cents,
                    "currency": "usd",
                    "destination": account_id,
                    "transfer_group": str(payout_id),
                    "metadata": {OURS: str(payout_id)},
                },
                options={"idempotency_key": key},
            )
        )
        return _sent(made)

    async def reverse(self, transfer_id: str, *, payout_id: UUID, key: str) -> str:
        transfer = await self._line.call(lambda client: client.v1.transfers.retrieve(transfer_id))
        if transfer.reversed:
            return transfer.reversals.data[0].id
        made = await self._line.call(
            lambda client: client.v1.transfers.reversals.create(
                transfer_id, params={"metadata": {OURS: str(payout_id)}}, options={"idempotency_key": key}
            )
        )
        return made.id

    async def find_payout(self, payout_id: UUID, *, account_id: str) -> BankPayout | None:
        after: str | None = None
        for _ in range(PAGES_MAX):
            page = await self._line.call(partial(_payouts, account_id=account_id, after=after))
            for row in page.data:
                if _named(row) == str(payout_id):
                    return _bank(row)
            if not page.has_more:
                return None
            after = page.data[-1].id
        raise ProcessorUnsure(f"the account {account_id} has more payouts than are looked through")

    async def pay_out(self, payout_id: UUID, *, amount_cents: int, account_id: str, key: str) -> BankPayout:
        made = await self._line.call(
            lambda client: client.v1.payouts.create(
                params={"amount": amount_cents, "currency": "usd", "metadata": {OURS: str(payout_id)}},
                options={"stripe_account": account_id, "idempotency_key": key},
            )
        )
        return _bank(made)

    async def payout(self, bank_payout_id: str, *, account_id: str) -> BankPayout:
        return _bank(
            await self._line.call(
                lambda client: client.v1.payouts.retrieve(bank_payout_id, options={"stripe_account": account_id})
            )
        )

    async def cancel_payout(self, bank_payout_id: str, *, account_id: str) -> BankPayout:
        try:
            return _bank(
                await self._line.call(
                    lambda client: client.v1.payouts.cancel(bank_payout_id, options={"stripe_account": account_id})
                )
            )
        except ProcessorRefused:  # it left meanwhile, or is over: how it stands says which
            return await self.payout(bank_payout_id, account_id=account_id)


def connect_of(config: Config) -> StripeConnect | None:
    """The adapter that the settings describe; None where Stripe isn't configured."""
    line = line_of(config)
    return None if line is None else StripeConnect(line)


def is_ready(account: Mapping[str, Any]) -> bool:
    """Whether an account, as Stripe shows it, can get transfers and pay them out."""
    capabilities = account.get("capabilities") or {}
    return bool(account.get("payouts_enabled")) and capabilities.get("transfers") == "active"


def _payouts(client: stripe.StripeClient, *, account_id: str, after: str | None) -> stripe.ListObject[stripe.Payout]:
    """A page of what an account has paid out, newest first."""
    if after is None:
        return client.v1.payouts.list(params={"limit": PAGE}, options={"stripe_account": account_id})
    params: Any = {"limit": PAGE, "starting_after": after}
    return client.v1.payouts.list(params=params, options={"stripe_account": account_id})


def _named(payout: stripe.Payout) -> Any:
    """The payout of ours that one of Stripe's is for."""
    return (payout.to_dict().get("metadata") or {}).get(OURS)


def _sent(transfer: stripe.Transfer) -> SentTransfer:
    return SentTransfer(transfer.id, transfer.amount, str(transfer.destination), transfer.reversed)


def _bank(payout: stripe.Payout) -> BankPayout:
    return BankPayout(payout.id, payout.status, payout.failure_message or payout.failure_code)
