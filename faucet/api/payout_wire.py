"""The shapes of payouts. Requests are strict, as in `wire`. The payout itself is in `developer_wire`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from faucet.api.developer_wire import AskUuid, PayoutItem, Reason, stored_text
from faucet.api.wire import Amount, Ask, Moment, Reply
from faucet.payments.payout_store import Payout

PageUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s/?#@]+([/?#]\S*)?$", max_length=2_000),
    AfterValidator(stored_text),
    Field(examples=["https://acme.example/payouts"]),
]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(stored_text)]
Status = Literal["requested", "approved", "sent", "paid", "failed", "cancelled"]


class PayoutAsk(Ask):
    developer_id: AskUuid | None = None
    """Whose earnings; for staff, who have none of their own."""
    amount_usd: Amount | None = None
    """Whole cents. Absent: all that is old enough, within the limits."""


class OnboardingAsk(Ask):
    developer_id: AskUuid | None = None
    """Whose; for staff, who have no developer of their own."""
    return_url: PageUrl
    """Where the browser is sent at the end."""
    refresh_url: PageUrl
    """Where it is sent when the link doesn't open any more; ask for a new one there."""


class OnboardingReply(Reply):
    url: str
    """Stripe's page, for the developer's browser. It opens once."""
    expires_at: Moment
    provider: Literal["stripe"]
    provider_account_id: str
    is_ready: bool
    """Whether payouts go there by now; until then they are paid by hand."""


class RunAsk(Ask):
    threshold_usd: Amount | None = None
    """The least that is paid out in this run, instead of the setting's."""


class RunReply(Reply):
    items: list[PayoutItem]


class ApproveAsk(Ask):
    operator_note: Reason | None = None


class MarkPaidAsk(Ask):
    provider_payout_id: Reference | None = None
    """The bank's own word for it."""


class CancelAsk(Ask):
    reason: Reason | None = None


class FailAsk(Ask):
    reason: Reason


class PayoutDetail(PayoutItem):
    """A payout as operators see it."""

    requested_by: str
    approved_by: str | None = None
    operator_note: str | None = None
    provider_account_id: str | None = None
    provider_transfer_id: str | None = None
    provider_reversal_id: str | None = None
    attempts: int
    """How often the present step was asked of the processor."""
    last_error: str | None = None
    next_attempt_at: Moment | None = None
    approved_at: Moment | None = None
    sent_at: Moment | None = None
    paid_at: Moment | None = None
    stop_asked_at: Moment | None = None
    """Since when it is being taken back."""
    ended_at: Moment | None = None


def payout_item(payout: Payout) -> PayoutItem:
    """The wire's view of a payout."""
    return PayoutItem.model_validate(_fields(payout, PayoutItem))


def payout_detail(payout: Payout) -> PayoutDetail:
    """The operators' view of a payout."""
    return PayoutDetail.model_validate(_fields(payout, PayoutDetail))


def _fields(payout: Payout, shape: type[PayoutItem]) -> dict[str, object]:
    return {name: payout.amount_e8 if name == "amount_usd" else getattr(payout, name) for name in shape.model_fields}
