"""The double's state: objects by id, in the order in which they were made, its event log and its clock.

An object is a dictionary as Stripe's API shows it. Every change of one that Stripe would tell is an event with a copy
of the object as it was then. Not here: what a resource means (its own module), who is told of events (`webhooks`).
"""

from __future__ import annotations

import copy
import secrets
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from faucet.payments.double.problem import Problem, missing

API_VERSION = "2026-10-28.endive"
OBJECTS_MAX = 200_000
LIMIT_DEFAULT, LIMIT_MAX = 10, 100
_ALPHABET = string.ascii_letters + string.digits

Object = dict[str, Any]


@dataclass(slots=True)
class State:
    """All that the double knows."""

    base_url: str = ""
    objects: dict[str, Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    hidden: dict[str, Any] = field(default_factory=dict)
    """What Stripe knows and doesn't show, by a key of the resource's own: card numbers behind payment methods."""
    clock_offset: int = 0
    listeners: list[Callable[[Object], None]] = field(default_factory=list)
    """Told of every event."""
    asked: str | None = None
    """The idempotency key of the request that is being answered, which its events name."""
    rules: dict[str, int] = field(default_factory=dict)
    """Knobs of resources, set under /_control/rules: fees, delays."""

    def now(self) -> int:
        """Seconds since 1970, by the double's own clock, which can be put forward."""
        return int(time.time()) + self.clock_offset

    def new_id(self, prefix: str) -> str:
        """A new id as Stripe makes them."""
        return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(24))}"

    def add(self, made: Object, *, account: str | None = None) -> Object:
        """Keep a new object, of the platform or of one connected account."""
        if len(self.objects) >= OBJECTS_MAX:
            raise Problem(429, "The double is full; start it anew.", kind="rate_limit_error")
        self.objects[made["id"]] = made
        if account is not None:
            self.hidden[f"account:{made['id']}"] = account
        return made

    def account_of(self, name: str) -> str | None:
        """The connected account that an object belongs to; None is the platform."""
        account: str | None = self.hidden.get(f"account:{name}")
        return account

    def get(self, kind: str, name: str, *, account: str | None = None, param: str = "id") -> Object:
        """The object of this kind and id. Raises Problem (404)."""
        found = self.objects.get(name)
        if found is None or found["object"] != kind or self.account_of(name) != account:
            raise missing(kind, name, param=param)
        return found

    def all(self, kind: str, *, account: str | None = None, **fields: Any) -> list[Object]:
        """The objects of a kind with these fields, oldest first."""
        return [
            found
            for name, found in self.objects.items()
            if found["object"] == kind
            and self.account_of(name) == account
            and all(found.get(field) == value for field, value in fields.items() if value is not None)
        ]

    def emit(self, kind: str, about: Object, *, account: str | None = None, previous: Object | None = None) -> Object:
        """Log that something happened to an object, and tell who listens."""
        said: Object = {"object": copy.deepcopy(about)}
        if previous is not None:
            said["previous_attributes"] = copy.deepcopy(previous)
        event: Object = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now(),
            "data": said,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.new_id("req"), "idempotency_key": self.asked},
            "type": kind,
        }
        if account is not None:
            event["account"] = account
        self.events.append(event)
        for listener in self.listeners:
            listener(event)
        return event


def dollars(cents: int) -> str:
    """An amount for people."""
    return f"${cents // 100}.{cents % 100:02d}"


def page_of(rows: Iterable[Object], params: dict[str, Any], url: str) -> Object:
    """A list as Stripe shows it: newest first, from `starting_after` on or up to `ending_before`. Raises Problem."""
    newest = list(rows)[::-1]
    ids = [row["id"] for row in newest]
    limit = params.get("limit", LIMIT_DEFAULT)
    if (after := params.get("starting_after")) is not None:
        if after not in ids:
            raise missing("object", after, param="starting_after")
        left = newest[ids.index(after) + 1 :]
        return {"object": "list", "data": left[:limit], "has_more": len(left) > limit, "url": url}
    if (before := params.get("ending_before")) is not None:
        if before not in ids:
            raise missing("object", before, param="ending_before")
        left = newest[: ids.index(before)]
        return {"object": "list", "data": left[-limit:], "has_more": len(left) > limit, "url": url}
    return {"object": "list", "data": newest[:limit], "has_more": len(newest) > limit, "url": url}


def expanded(state: State, shown: Object, paths: list[str]) -> Object:
    """A copy with the ids at these paths replaced by their objects. Raises Problem for a path that leads nowhere."""
    shown = copy.deepcopy(shown)
    for path in paths:
        places: list[Any] = [shown]
        for word in path.split("."):
            inner: list[Any] = []
            for place in places:
                if not isinstance(place, dict) or word not in place:
                    raise Problem(400, f"This property cannot be expanded ({path}).", param="expand")
                if isinstance(place[word], str) and place[word] in state.objects:
                    place[word] = copy.deepcopy(state.objects[place[word]])
                found = place[word]
                inner += found if isinstance(found, list) else [] if found is None else [found]
            places = inner
    return shown
