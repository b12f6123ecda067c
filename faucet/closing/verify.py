"""Whether statements are what they say: each by itself, all as a chain, and the last against the month's usage.

Works on files alone, without a database or a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from faucet.closing.document import VERSION, NotProved, Signed, key_id, read_file
from faucet.closing.month import parse_month
from faucet.closing.usage_proof import check_usage
from faucet.kit.money import E8_PER_USD, to_wire

Json = dict[str, Any]
_AMOUNT = re.compile(r"(-?)(0|[1-9][0-9]{0,11})\.([0-9]{8})", re.ASCII)
_SUM = re.compile(r"[0-9a-f]{32}", re.ASCII)
ADDED = {
    "developer": ("opening_usd", "earned_usd", "adjusted_usd"),
    "end_user": ("opening_usd", "topped_up_usd", "granted_usd", "adjusted_usd"),
}
TAKEN = {"developer": ("paid_usd",), "end_user": ("spent_usd", "refunded_usd")}


@dataclass(frozen=True, slots=True)
class Proved:
    """What was proved of one file."""

    kind: str
    period: str
    subject: str
    closing_usd: str
    key_id: str
    sha256: str


def prove(files: Sequence[bytes], *, trusted: frozenset[bytes] | None) -> list[Proved]:
    """Each file, and that each follows the one before it. Raises NotProved, which names the file by its place."""
    proved: list[Proved] = []
    before: Signed | None = None
    for place, content in enumerate(files, start=1):
        try:
            signed = read_file(content, trusted=trusted)
            says = signed.says
            check_sums(says)
            if before is not None:
                _check_chain(before, says)
        except NotProved as error:
            raise NotProved(f"statement {place}: {error}" if len(files) > 1 else str(error)) from None
        before = signed
        proved.append(
            Proved(
                says["kind"],
                says["period"],
                _subject(says),
                says["closing_usd"],
                key_id(signed.public_key),
                signed.hash.hex(),
            )
        )
    return proved


def prove_usage(content: bytes, lines: Iterable[str]) -> int:
    """How many lines of usage a proved developer's statement agrees with. Raises NotProved."""
    says = read_file(content).says
    check_sums(says)
    if says["kind"] != "developer":
        raise NotProved("usage is compared with a developer's statement")
    return check_usage(says["days"], parse_month(says["period"]), lines)


def check_sums(says: Json) -> None:
    """That a statement is written as statements are, and adds up. Raises NotProved."""
    kind = says.get("kind")
    if kind not in ("developer", "end_user"):
        raise NotProved("it is neither a developer's statement nor an end user's")
    _check_words(says)
    total = sum(amount(says.get(name)) for name in ADDED[kind]) - sum(amount(says.get(name)) for name in TAKEN[kind])
    if total != amount(says.get("closing_usd")):
        raise NotProved(f"it does not add up: {to_wire(total)} is left, and it says {says['closing_usd']}")
    if kind == "developer":
        earned = sum(amount(day.get("earned_usd")) for day in says["days"])
        if earned != amount(says["earned_usd"]):
            raise NotProved(f"its days earned {to_wire(earned)}, and it says {says['earned_usd']}")


def _check_words(says: Json) -> None:
    """What `check_sums` and others read of a statement, before they do. Raises NotProved."""
    if says.get("version") != VERSION or isinstance(says["version"], bool) or says.get("currency") != "USD":
        raise NotProved(f"it is no statement of version {VERSION}, in US dollars")
    texts = ("period", f"{says['kind']}_id") + (("previous_sha256",) if "previous_sha256" in says else ())
    lacking = [name for name in texts if not isinstance(says.get(name), str)]
    if lacking:
        raise NotProved(f"it has no {lacking[0]}")
    try:
        parse_month(says["period"])
    except ValueError as error:
        raise NotProved(str(error)) from None
    if says["kind"] == "developer":
        days = says.get("days")
        if not isinstance(days, list) or not all(_is_day(day) for day in days):
            raise NotProved("its days are not days of usage")


def _is_day(day: object) -> bool:
    if not isinstance(day, dict) or not isinstance(day.get("calls"), int):
        return False
    sums = day.get("line_sums")
    texts = [day.get("day"), day.get("sha256"), *(sums if isinstance(sums, list) else ())]
    return len(texts) == 4 and all(isinstance(text, str) for text in texts) and all(map(_SUM.fullmatch, texts[2:]))


def amount(text: object) -> int:
    """The e8 of an amount that may be below zero, written as `to_wire` does. Raises NotProved."""
    match = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise NotProved(f"{text!r:.40} is no amount")
    e8 = int(match[2]) * E8_PER_USD + int(match[3])
    if match[1] and not e8:
        raise NotProved(f"{text!r:.40} is no amount")
    return -e8 if match[1] else e8


def _check_chain(before: Signed, says: Json) -> None:
    said = before.says
    if (said["kind"], _subject(said)) != (says["kind"], _subject(says)):
        raise NotProved("it is of somebody else than the one before it")
    if parse_month(says["period"]) <= parse_month(said["period"]):
        raise NotProved(f"it is of {says['period']}, which is not after {said['period']}")
    if says.get("previous_sha256") != before.hash.hex():
        raise NotProved(f"it does not follow the statement of {said['period']}: it names another one before it")
    if says["opening_usd"] != said["closing_usd"]:
        raise NotProved(f"it begins with {says['opening_usd']}, and {said['period']} ended with {said['closing_usd']}")


def _subject(says: Json) -> str:
    return str(says["developer_id"] if says["kind"] == "developer" else says["end_user_id"])
