"""Sessions that a gateway doesn't remember: many are looked up together, and each asker gets an answer of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from faucet.gateway.admit import ASKED_MAX, Admission
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7

Answer = Callable[[list[bytes]], list[dict[str, Any]]]


def row_of(digest: bytes, **other: Any) -> dict[str, Any]:
    names = ("session_id", "developer_id", "app_id", "feature_id", "end_user_id")
    return {
        "hash": digest, **{name: uuid7() for name in names}, "wallet_id": 1, "earnings_account_id": 2,
        "revenue_account_id": 3, "revoked_at": None, "expires_at": datetime.now(UTC) + timedelta(hours=1),
        "app_status": "active", "developer_status": "active",
    } | other  # fmt: skip


class Asked(Admission):
    """An Admission whose database is a function; remembers how much each question asked for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(cast(Any, None), None)
        self.sizes: list[int] = []
        self._answer = answer

    async def _query(self, query: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
        self.sizes.append(len(values[0]))
        await asyncio.sleep(0)
        return self._answer(values[0])


def bearers(count: int) -> list[bytes]:
    return [b"mf_sess_%040d" % number for number in range(count)]


def test_a_crowd_is_let_in_by_a_few_questions() -> None:
    """After a restart every client would ask the database alone, and most would be turned away."""
    asked = Asked(lambda hashes: [row_of(digest) for digest in hashes])

    async def crowd() -> None:
        wanted = bearers(ASKED_MAX + 10)
        found = await asyncio.gather(*[asked.find(bearer) for bearer in [*wanted, *wanted[:5]]])
        assert len({caller.session_id for caller in found}) == len(wanted)
        assert all(asked.recall(bearer) is not None for bearer in wanted)

    asyncio.run(crowd())
    assert asked.sizes == [ASKED_MAX, 10]


def test_each_hears_what_is_wrong_with_its_own_session() -> None:
    """One expired session would turn its neighbours away."""
    good, gone, strange = bearers(3)
    expired = datetime.now(UTC) - timedelta(seconds=1)
    known = {hashlib.sha256(good).digest(): {}, hashlib.sha256(gone).digest(): {"expires_at": expired}}
    asked = Asked(lambda hashes: [row_of(digest, **known[digest]) for digest in hashes if digest in known])

    async def all_three() -> list[Any]:
        return await asyncio.gather(*map(asked.find, (good, gone, strange)), return_exceptions=True)

    first, second, third = asyncio.run(all_three())
    assert first.wallet_id == 1
    assert isinstance(second, Refusal) and second.code == "expired_session"
    assert isinstance(third, Refusal) and third.code == "invalid_session"


def test_a_fault_is_everybodys_and_passes() -> None:
    """Who waits would wait for ever, or be cut off without a word, and nobody would be let in again."""
    faults = [RuntimeError("a fault")]

    def answer(hashes: list[bytes]) -> list[dict[str, Any]]:
        if faults:
            raise faults.pop()
        return [row_of(digest) for digest in hashes]

    asked = Asked(answer)

    async def twice() -> None:
        ended = await asyncio.gather(*map(asked.find, bearers(3)), return_exceptions=True)
        assert [str(each) for each in ended] == ["a fault"] * 3
        assert (await asked.find(bearers(1)[0])).wallet_id == 1

    asyncio.run(twice())


def test_who_leaves_takes_nobody_along() -> None:
    """A client that hangs up would end another's request for the same session."""
    asked = Asked(lambda hashes: [row_of(digest) for digest in hashes])

    async def two() -> None:
        bearer = bearers(1)[0]
        leaves, stays = (asyncio.create_task(asked.find(bearer)) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        assert (await stays).wallet_id == 1
        with pytest.raises(asyncio.CancelledError):
            await leaves

    asyncio.run(two())


def test_what_was_read_before_a_change_is_not_remembered() -> None:
    """A session that was revoked while it was looked up would be served for seconds."""
    asked: Asked

    def answer(hashes: list[bytes]) -> list[dict[str, Any]]:
        asked.forget()
        return [row_of(digest) for digest in hashes]

    asked = Asked(answer)

    async def once() -> None:
        bearer = bearers(1)[0]
        await asked.find(bearer)
        assert asked.recall(bearer) is None

    asyncio.run(once())
