"""What the ledger must have booked of what the processor told, worked out once more, from the objects alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from books import Tenant

from faucet.payments.connect import OURS
from simulation.economy import Economy

Json = dict[str, Any]
CENT = 1_000_000


@dataclass
class TopUp:
    """A checkout page that somebody asked for."""

    id: UUID
    tenant: Tenant
    session: str
    amount_e8: int
    intent: str | None = None
    """Once it is credited."""
    fee_is_known: bool = False


@dataclass
class Reversal:
    """A refund or dispute that was booked."""

    top_up: TopUp
    kind: str
    amount_e8: int
    is_returned: bool = False


class Ledgered:
    """The model of money that comes in and goes back, over the economy's accounts."""

    def __init__(self, economy: Economy) -> None:
        self.economy = economy
        self.top_ups: dict[str, TopUp] = {}
        """By checkout session, automatic ones by a name of their own."""
        self.reversals: dict[str, Reversal] = {}
        self.owed: Counter[int] = Counter()
        """What was written off for a wallet and is not made good."""
        self._fees: set[str] = set()
        self._collected: dict[str, bool] = {}
        """Payouts to our own bank, and whether they came back."""

    def _move(self, debit: int, credit: int, amount_e8: int) -> None:
        self.economy.posted[debit] -= amount_e8
        self.economy.posted[credit] += amount_e8

    def by_intent(self, intent: object) -> TopUp | None:
        """The credited top-up that was paid so."""
        return next((t for t in self.top_ups.values() if t.intent is not None and t.intent == intent), None)

    def rest(self, top_up: TopUp) -> int:
        """What of a top-up did not go back by what is booked."""
        gone = [r.amount_e8 for r in self.reversals.values() if r.top_up is top_up and not r.is_returned]
        return max(0, top_up.amount_e8 - sum(gone))

    def event(self, kind: str, about: Json) -> None:
        """An event that was applied."""
        if kind == "checkout.session.completed":
            self._credit(about)
        elif kind.startswith("charge.dispute."):
            self._dispute(about)
        elif kind.startswith("refund."):
            self.refund(about)
        elif kind.startswith("payout.") and OURS not in about["metadata"]:
            self._collect(about)

    def _collect(self, about: Json) -> None:
        """What the processor pays to our own bank is on its way, or came back."""
        clearing, bank = (self.economy.platform[kind] for kind in ("stripe_clearing", "bank"))
        if about["id"] not in self._collected:
            self._collected[about["id"]] = False
            self._move(bank, clearing, about["amount"] * CENT)
        if about["status"] in ("failed", "canceled") and not self._collected[about["id"]]:
            self._collected[about["id"]] = True
            self._move(clearing, bank, about["amount"] * CENT)
            self.economy.happened["collected in vain"] += 1

    def _credit(self, session: Json) -> None:
        top_up = self.top_ups[session["id"]]
        if top_up.intent is None:
            top_up.intent = session["payment_intent"]
            self._move(self.economy.platform["stripe_clearing"], top_up.tenant.wallet, session["amount_total"] * CENT)

    def credit_automatic(self, top_up: TopUp) -> None:
        """One that nobody paid on a page was credited."""
        self.top_ups[top_up.session] = top_up
        self._move(self.economy.platform["stripe_clearing"], top_up.tenant.wallet, top_up.amount_e8)

    def fee(self, top_up: TopUp, fee_e8: int) -> None:
        """What the processor kept of a top-up became known."""
        top_up.fee_is_known = True
        self._move(self.economy.platform["processor_fees"], self.economy.platform["stripe_clearing"], fee_e8)

    def refund(self, about: Json) -> None:
        """A refund, as it was told or answered."""
        self._reach(about, "refund", is_back=about["status"] in ("failed", "canceled"))

    def _dispute(self, about: Json) -> None:
        for row in about["balance_transactions"]:
            if row["fee"] and row["id"] not in self._fees:
                self._fees.add(row["id"])
                fees, clearing = (self.economy.platform[kind] for kind in ("processor_fees", "stripe_clearing"))
                self._move(fees, clearing, row["fee"] * CENT)
        self._reach(about, "dispute", is_back=about["status"] == "won")

    def _reach(self, about: Json, kind: str, *, is_back: bool) -> None:
        top_up, amount_e8 = self.by_intent(about["payment_intent"]), about["amount"] * CENT
        self.economy.require(top_up is not None, f"{kind} {about['id']} was booked before its payment")
        assert top_up is not None
        wallet = top_up.tenant.wallet
        clearing, write_off = (self.economy.platform[kind] for kind in ("stripe_clearing", "write_off"))
        known = self.reversals.get(about["id"])
        if known is None:
            known = self.reversals[about["id"]] = Reversal(top_up, kind, amount_e8)
            taken = min(amount_e8, self.economy.available(wallet))
            self._move(wallet, clearing, taken)
            self._move(write_off, clearing, amount_e8 - taken)
            self.economy.happened[f"{kind} taken"] += 1
            if taken < amount_e8:
                self.owed[wallet] += amount_e8 - taken
                self.economy.frozen.add(wallet)
                self.economy.happened[f"{kind} written off"] += 1
        if is_back and not known.is_returned:
            known.is_returned = True
            heal = min(amount_e8, self.owed[wallet])
            self.owed[wallet] -= heal
            self._move(clearing, write_off, heal)
            self._move(clearing, wallet, amount_e8 - heal)
            self.economy.happened[f"{kind} returned"] += 1
