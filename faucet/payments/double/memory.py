"""What the double remembers when it is started again: its state and its kept replies, in one file of JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from faucet.payments.double.state import State

Reply = tuple[int, bytes, dict[str, str]]
Replies = dict[str, tuple[str, Reply, int]]
"""By account and key: what was asked, the answer, and when."""


def save(path: Path, state: State, replies: Replies) -> None:
    """Write everything, in one step."""
    kept = {
        key: [print_, status, content.decode(), headers, at]
        for key, (print_, (status, content, headers), at) in replies.items()
    }
    told = {
        "objects": state.objects,
        "events": state.events,
        "hidden": state.hidden,
        "clock_offset": state.clock_offset,
        "rules": state.rules,
        "replies": kept,
    }
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(draft, path)


def load(path: Path, state: State) -> Replies:
    """Put back what was saved, if anything was; gives the kept replies."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    state.objects.update(told["objects"])
    state.events.extend(told["events"])
    state.hidden.update(told["hidden"])
    state.rules.update(told["rules"])
    state.clock_offset = told["clock_offset"]
    return {
        key: (print_, (status, content.encode(), headers), at)
        for key, (print_, status, content, headers, at) in told["replies"].items()
    }
