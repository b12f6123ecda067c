"""What developers are told of money that crosses the border, by the tx that books it. `webhooks` delivers it."""

from __future__ import annotations

from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.kit.money import to_wire
from faucet.webhooks.outbox import EventType, emit

_PAYOUT: dict[str, EventType] = {
    "requested": "payout.requested",
    "approved": "payout.approved",
    "sent": "payout.sent",
    "paid": "payout.paid",
    "failed": "payout.failed",
    "cancelled": "payout.cancelled",
}


async def of_credit(tx: Tx, *, top_up_id: UUID, wallet_id: UUID, amount_e8: int) -> None:
    """A top-up was credited, as what the wallet has now already shows. Once for each top-up."""
    developer_id, end_user_id, public_app_id, posted_e8 = await _whose(tx, wallet_id)
    data = {
        "topup_id": top_up_id,
        "wallet_id": wallet_id,
        "end_user_id": end_user_id,
        "public_app_id": public_app_id,
        "amount_usd": to_wire(amount_e8),
        "balance_usd": to_wire(posted_e8),
    }
    await emit(tx, developer_id, "topup.credited", data, key=f"topup:{top_up_id}")


async def of_freeze(tx: Tx, *, wallet_id: UUID, reason: str) -> None:
    """A wallet was frozen: by a refund or dispute that it couldn't pay, or by an operator."""
    developer_id, end_user_id, public_app_id, posted_e8 = await _whose(tx, wallet_id)
    data = {
        "wallet_id": wallet_id,
        "end_user_id": end_user_id,
        "public_app_id": public_app_id,
        "balance_usd": to_wire(posted_e8),
        "reason": reason,
    }
    await emit(tx, developer_id, "wallet.frozen", data)


async def of_payout(tx: Tx, *, payout_id: UUID, developer_id: UUID, amount_e8: int, status: str) -> None:
    """A payout has come so far. Once for each step."""
    data = {"payout_id": payout_id, "amount_usd": to_wire(amount_e8), "status": status}
    await emit(tx, developer_id, _PAYOUT[status], data, key=f"payout:{payout_id}:{status}")


async def _whose(tx: Tx, wallet_id: UUID) -> tuple[UUID, UUID, str, int]:
    cursor = await tx.execute(
        "select a.developer_id, a.owner_id, p.public_app_id, a.posted_e8 from account a"
        " join end_user u on u.id = a.owner_id join app p on p.id = u.app_id where a.public_id = %s",
        (wallet_id,),
    )
    row = await cursor.fetchone()
    if row is None:
        raise InvariantBroken(f"the wallet {wallet_id} is nobody's")
    return row[0], row[1], row[2], row[3]
