"""Routes: what a resource's module offers the server. A handler is plain and quick; it runs alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faucet.payments.double.params import Group, Items, Shape, Text, Whole
from faucet.payments.double.state import LIMIT_MAX, Object, State

EXPAND: Mapping[str, Shape] = {"expand": Items(Text(longest=200))}
CREATED = Group({name: Whole(most=1 << 40) for name in ("gt", "gte", "lt", "lte")})
PAGE: Mapping[str, Shape] = {
    "limit": Whole(least=1, most=LIMIT_MAX),
    "starting_after": Text(longest=100),
    "ending_before": Text(longest=100),
    "created": CREATED,
}
"""The parameters of every list."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    params: dict[str, Any]
    path: dict[str, str] = field(default_factory=dict)
    account: str | None = None
    """The connected account that it acts for: its header Stripe-Account."""


Act = Callable[[State, Call], Object]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path such as `/v1/refunds/{id}`, its parameters, and what answers."""

    method: str
    path: str
    act: Act
    params: Mapping[str, Shape] = field(default_factory=dict)

    def match(self, path: str) -> dict[str, str] | None:
        """The path's own parameters, if it is this route's."""
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_]+)", self.path)
        found = re.fullmatch(pattern, path)
        return None if found is None else found.groupdict()


def was_created(row: Object, wanted: dict[str, int] | None) -> bool:
    """Whether an object's time of creation is within what a list's `created` asks for."""
    at: int = row["created"]
    wanted = wanted or {}
    return (
        wanted.get("gt", -1) < at
        and wanted.get("gte", 0) <= at
        and at < wanted.get("lt", 1 << 41)
        and at <= wanted.get("lte", 1 << 41)
    )
