"""What a manifest may say besides policy and pricing: schemas, a prompt, and limits, parsed and checked.

What they lead to is decided where requests are served; what a schema or a prompt may contain is `schemas`' and
`template`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faucet.kit.money import E8_MAX, from_wire
from faucet.kit.words import unknown_word
from faucet.tenants.schemas import Schema
from faucet.tenants.template import Template, parse_prompt

PARTS_WORDS = ("input_schema", "prompt", "output_schema", "limits")
"""The words of a manifest beside `policy` and `pricing`."""
LIMITS_WORDS = ("requests_per_minute", "monthly_spend_usd")
REQUESTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often, and for how much money, a feature may be used. None where there is no limit."""

    end_user_per_minute: int | None = None
    session_per_minute: int | None = None
    end_user_month_e8: int | None = None
    """For each end user of the feature by themselves."""
    feature_month_e8: int | None = None
    """For all of them together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A manifest's parts beside policy and pricing; None where it has none."""

    input_schema: Schema | None = None
    prompt: Template | None = None
    output_schema: Schema | None = None
    limits: Limits = Limits()


def parse_parts(parts: object, *, is_stored: bool = False) -> Parts:
    """The parts that a manifest states. Raises ValueError, whose text starts with the path of the wrong word.

    What `is_stored` was checked before: then it is only made ready for use.
    """
    if not isinstance(parts, Mapping):
        raise ValueError("parts: must be an object")
    for word in parts:
        if word not in PARTS_WORDS:
            raise unknown_word("", word, PARTS_WORDS)
    schemas = {
        word: Schema(parts[word], word, is_stored=is_stored)
        for word in ("input_schema", "output_schema")
        if word in parts
    }
    input_schema = schemas.get("input_schema")
    return Parts(
        input_schema=input_schema,
        prompt=parse_prompt(parts["prompt"], input_schema) if "prompt" in parts else None,
        output_schema=schemas.get("output_schema"),
        limits=parse_limits(parts["limits"]) if "limits" in parts else Limits(),
    )


def parse_limits(limits: object, path: str = "limits") -> Limits:
    """The limits that a manifest states. Raises ValueError, whose text starts with the path of the wrong word."""
    found = _object(limits, path, LIMITS_WORDS)
    often = _object(found.get("requests_per_minute", {}), f"{path}.requests_per_minute", ("end_user", "session"))
    much = _object(found.get("monthly_spend_usd", {}), f"{path}.monthly_spend_usd", ("end_user", "feature"))
    rates = {name: _requests(value, f"{path}.requests_per_minute.{name}") for name, value in often.items()}
    sums = {name: _amount(value, f"{path}.monthly_spend_usd.{name}") for name, value in much.items()}
    return Limits(
        end_user_per_minute=rates.get("end_user"),
        session_per_minute=rates.get("session"),
        end_user_month_e8=sums.get("end_user"),
        feature_month_e8=sums.get("feature"),
    )


def _object(value: object, path: str, words: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: must be an object with {', '.join(words)}")
    for word in value:
        if word not in words:
            raise unknown_word(path, word, words)
    return value


def _requests(value: object, path: str) -> int:
    # A bool is an int to Python, but not to the writer of a manifest.
    if type(value) is not int or not 1 <= value <= REQUESTS_MAX:
        raise ValueError(f"{path}: must be a whole number from 1 to {REQUESTS_MAX}")
    return value


def _amount(value: object, path: str) -> int:
    try:
        amount_e8 = from_wire(str(value))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if amount_e8 > E8_MAX:
        raise ValueError(f"{path}: is too much")
    return amount_e8
