"""The way back: placeholders in an answer become the values that they stand for, whole or while it streams.

Only placeholders that the request itself made are known here; every other text is left alone. In a stream nothing is
held back but what could still become one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

PLACEHOLDER = re.compile(r"\[[A-Z]+(?:_[A-Z]+)*_[0-9]+\]")
"""The form of every placeholder, ours or not."""

JSON_TEXTS = frozenset({"arguments"})
"""Fields whose text is JSON: a value is escaped when it comes back into it."""
PLAIN_FIELDS = frozenset({"role", "id", "type", "index", "logprobs", "finish_reason", "signature", "encrypted_content"})
"""Fields that hold no words of the model's."""

Step = str | int
Path = tuple[Step, ...]


class Values:
    """What each placeholder of one request stands for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._escaped = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}
        self.beginnings = frozenset(name[:size] for name in values for size in range(1, len(name)))
        """All that could be cut-off placeholders."""

    def restore(self, text: str, *, in_json: bool = False) -> str:
        """The text with its values back; escaped where the text is JSON and the placeholders are in its strings."""
        if "[" not in text:
            return text
        values = self._escaped if in_json else self._values
        return PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), text)


class StreamRestorer:
    """One text that comes in pieces, wherever they are cut."""

    __slots__ = ("_held", "_in_json", "_values")

    def __init__(self, values: Values, *, in_json: bool = False) -> None:
        self._values = values
        self._in_json = in_json
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may leave now."""
        text = self._held + piece if self._held else piece
        self._held = ""
        begin = text.rfind("[")
        if begin >= 0 and text[begin:] in self._values.beginnings:
            self._held = text[begin:]
            text = text[:begin]
        return self._values.restore(text, in_json=self._in_json)

    def finish(self) -> str:
        """What was held back, for nothing more comes."""
        rest, self._held = self._held, ""
        return rest


class ChatRestorer:
    """The answer to one chat request: its choices, or the chunks of its stream. Changes what it is given."""

    def __init__(self, values: Values, *, json_content: bool = False) -> None:
        self._values = values
        self._json_texts = JSON_TEXTS | {"content"} if json_content else JSON_TEXTS
        self._open: dict[Path, StreamRestorer] = {}

    def whole(self, value: Any, name: str = "") -> Any:
        """A part of a complete answer, with all values back."""
        if isinstance(value, str):
            return self._values.restore(value, in_json=name in self._json_texts)
        if isinstance(value, dict):
            for key, each in value.items():
                if key not in PLAIN_FIELDS:
                    value[key] = self.whole(each, key)
        elif isinstance(value, list):
            value[:] = [self.whole(each, name) for each in value]
        return value

    def chunk(self, choices: list[Any]) -> bool:
        """The choices of one chunk with what may leave now; whether they were changed."""
        changed = False
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            place = choice.get("index")
            index = place if isinstance(place, int) else 0
            delta = choice.get("delta")
            if isinstance(delta, dict):
                changed |= self._pieces(delta, (index,))
            if choice.get("finish_reason") is not None:
                changed |= self._flush(choice, index)
        return changed

    def rest(self) -> list[dict[str, Any]]:
        """Choices with what is still held back of a stream that ended without finishing them."""
        choices: list[dict[str, Any]] = []
        for index in sorted({path[0] for path in self._open if isinstance(path[0], int)}):
            choice: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": None}
            if self._flush(choice, index):
                choices.append(choice)
        return choices

    def _pieces(self, parts: dict[str, Any], path: Path) -> bool:
        changed = False
        for name, value in parts.items():
            if name in PLAIN_FIELDS:
                continue
            if isinstance(value, str):
                if value:
                    restored = self._text((*path, name)).feed(value)
                    changed |= restored != value
                    parts[name] = restored
            elif isinstance(value, dict):
                changed |= self._pieces(value, (*path, name))
            elif isinstance(value, list):
                for position, each in enumerate(value):
                    if isinstance(each, dict):
                        place = each.get("index")
                        step = place if isinstance(place, int) else position
                        changed |= self._pieces(each, (*path, name, step))
        return changed

    def _text(self, path: Path) -> StreamRestorer:
        known = self._open.get(path)
        if known is None:
            known = self._open[path] = StreamRestorer(self._values, in_json=path[-1] in self._json_texts)
        return known

    def _flush(self, choice: dict[str, Any], index: int) -> bool:
        changed = False
        for path, text in self._open.items():
            if path[0] == index and (rest := text.finish()):
                delta = choice.get("delta")
                if not isinstance(delta, dict):
                    delta = choice["delta"] = {}
                _append(delta, path[1:], rest)
                changed = True
        return changed


def _append(delta: dict[str, Any], path: Path, text: str) -> None:
    """Add text at a place in a delta, making what is missing on the way."""
    here: Any = delta
    for step, following in _pairs(path):
        if isinstance(step, str):
            if not isinstance(here.get(step), list if isinstance(following, int) else dict):
                here[step] = [] if isinstance(following, int) else {}
            here = here[step]
            continue
        found = next((each for each in here if isinstance(each, dict) and each.get("index") == step), None)
        if found is None:
            found = {"index": step}
            here.append(found)
        here = found
    name = path[-1]
    here[name] = (here.get(name) or "") + text


def _pairs(path: Path) -> Iterator[tuple[Step, Step]]:
    return zip(path, path[1:], strict=False)
