"""Placeholders out: the personal values of one chat request are replaced before it leaves, and remembered until the
answer is back (`restore`).

A placeholder is `[EMAIL_1]`: its kind and the number of its first appearance, in square brackets. Models repeat it as
they do citations, and nothing on the way changes it: JSON encoders and HTML escape `<…>`, providers refuse that in
names, and Markdown takes it for a tag. The same value has the same placeholder throughout a request, and again in the
next turn, as the conversation before it is the same. What looks like a placeholder in the request itself stays as it
is, and its number is never given to a value: it can't be made to stand for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from faucet.privacy.find import find
from faucet.privacy.finding import Finding, Kind
from faucet.privacy.restore import PLACEHOLDER, ChatRestorer, StreamRestorer, Values

SCHEMAS = ("tools", "functions", "response_format")
"""Fields that describe what the model may call or must give: only what is said in words is looked at."""
_SAID = frozenset({"description", "title"})
_EXAMPLES = frozenset({"enum", "const", "default", "examples", "example"})

_LEFT = frozenset(
    "role type id tool_call_id call_id index image_url input_image input_audio audio video_url file image cache_control"
    " signature encrypted_content".split()
)
"""Parts of a message that stay as they are: images, sound and files, and what names or signs something."""
_NONE_LEFT: frozenset[str] = frozenset()
_SEALED = ("base64", "redacted_thinking")
"""Types of parts whose `data` nobody reads; what stands beside it is looked at."""

_BY_CONTEXT = frozenset({Kind.PHONE, Kind.SECRET, Kind.CARD, Kind.US_SSN, Kind.CN_ID, Kind.ADDRESS})
"""Kinds that are sometimes found by the words around a value."""
AGAIN_MAX = 256
"""So many values of a request are looked for again where nothing around tells what they are."""

_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED_LETTER = re.compile(rb"\\+u00([0-7][0-9A-Fa-f])")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Redactor:
    """The placeholders of one request."""

    def __init__(self, sensitive: Sequence[str] = ()) -> None:
        self._known = dict.fromkeys(sensitive, Kind.SENSITIVE)
        self._names: dict[str, tuple[Kind, str]] = {}
        self._numbers: dict[Kind, int] = {}
        self._taken: set[str] = set()
        self._counts: dict[Kind, int] = {}
        self._back: Values | None = None
        self._json_content = False

    @property
    def counts(self) -> dict[str, int]:
        """How many different values were taken out, by kind."""
        return {kind.value: count for kind, count in self._counts.items()}

    def reserve(self, text: bytes) -> None:
        """Leave alone what already looks like a placeholder in this text, however JSON spells it."""
        if b"\\" in text and b"u00" in text:
            text = _ESCAPED_LETTER.sub(lambda match: bytes([int(match[1], 16)]), text)
        if b"_" in text and b"[" in text:
            self._taken.update(PLACEHOLDER.findall(text.decode("utf-8", "replace")))

    def redact_chat(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        """A chat request's fields without personal values; what nobody writes in is the same bytes as before."""
        made = self._redacted(fields)
        again = self._left_over(made)
        if again:
            # A number that its words gave away in one place stands in another without them: now it is known.
            self._known |= again
            self._names, self._numbers, self._counts = {}, {}, {}
            made = self._redacted(fields)
        return made

    def _redacted(self, fields: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
        read = {name: _decode(raw) for name, raw in fields.items() if _is_written(name, bytes(raw))}
        self.reserve(_encode(read))
        made = dict(fields)
        wanted = read.get("response_format")
        self._json_content = isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")
        # First what is the same in every turn, then the conversation: numbers stay what they were.
        for name in sorted(read, key=lambda name: (name not in SCHEMAS, name != "messages")):
            value = read[name]
            if name in SCHEMAS:
                value = self._described(value)
            elif name == "metadata" and isinstance(value, dict):
                # The caller's own words about a request have no types and ids of the wire's.
                value = self._walked({self.redact_text(key): each for key, each in value.items()}, name, _NONE_LEFT)
            else:
                value = self._walked(value, name)
            made[name] = msgspec.Raw(_encode(value))
        return made

    def _left_over(self, made: Mapping[str, msgspec.Raw]) -> dict[str, Kind]:
        """Values that were taken out in one place and still stand in another."""
        telling = [(value, kind) for value, (kind, _) in self._names.items() if kind in _BY_CONTEXT]
        if not telling:
            return {}
        sent = b"".join(bytes(raw) for name, raw in made.items() if _is_written(name, bytes(raw)))
        return {value: kind for value, kind in telling[:AGAIN_MAX] if _encode(value)[1:-1] in sent}

    def redact_text(self, text: str) -> str:
        """A text without personal values."""
        return self._replaced(text, find(text, self._known)) if text else text

    def redact_json(self, text: str) -> str:
        """A text that is JSON without personal values, and JSON still; any other as by `redact_text`."""
        try:
            _decode(text)
        except (msgspec.MsgspecError, RecursionError):
            return self.redact_text(text)
        return self._redact_literals(text)

    def chat_restorer(self) -> ChatRestorer:
        """What brings the values back into the answer to the request that `redact_chat` changed."""
        return ChatRestorer(self.values, json_content=self._json_content)

    def restore_text(self, text: str) -> str:
        """The content of an answer, with its values back."""
        return self.values.restore(text, in_json=self._json_content)

    def stream(self, *, in_json: bool = False) -> StreamRestorer:
        """What brings the values back into one text that comes in pieces."""
        return StreamRestorer(self.values, in_json=in_json)

    @property
    def values(self) -> Values:
        """What each placeholder stands for."""
        if self._back is None:
            self._back = Values({name: value for value, (_, name) in self._names.items()})
        return self._back

    def _replaced(self, text: str, findings: list[Finding]) -> str:
        if not findings:
            return text
        parts = []
        at = 0
        for kind, start, end in findings:
            parts += [text[at:start], self._name(kind, text[start:end])]
            at = end
        parts.append(text[at:])
        return "".join(parts)

    def _name(self, kind: Kind, value: str) -> str:
        """The placeholder of a value."""
        known = self._names.get(value)
        if known is not None:
            return known[1]
        number = self._numbers.get(kind, 0) + 1
        while (name := f"[{kind.value.upper()}_{number}]") in self._taken:
            number += 1
        self._numbers[kind] = number
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._names[value] = kind, name
        self._back = None
        return name

    def _walked(self, value: Any, name: str, left: frozenset[str] = _LEFT) -> Any:
        """A value in which people and programs write, with every text of it redacted."""
        if isinstance(value, str):
            if value[:64].lstrip()[:1] in ("{", "["):
                return self.redact_json(value)
            if value.startswith("data:") and ";base64," in value[:256]:
                return value
            return self.redact_text(value)
        if isinstance(value, dict):
            has_sealed_data = value.get("type") in _SEALED
            for key, each in value.items():
                # The name of a function is the app's; that of a speaker is a person's.
                if key == "file" and isinstance(each, dict) and isinstance(each.get("filename"), str):
                    each["filename"] = self.redact_text(each["filename"])
                elif key in left or (key == "data" and has_sealed_data):
                    continue
                elif not (key == "name" and name in ("function", "custom", "function_call")):
                    value[key] = self._walked(each, key, left)
        elif isinstance(value, list):
            value[:] = [self._walked(each, name, left) for each in value]
        elif type(value) is int and (value >= 1_000_000 or self._known):
            return self._number(value, name)
        return value

    def _described(self, value: Any) -> Any:
        """A description of tools or of a reply's form: its words are redacted, its names and types stay."""
        if isinstance(value, dict):
            for key, each in value.items():
                if key in _EXAMPLES:
                    value[key] = self._walked(each, key)
                elif key in _SAID and isinstance(each, str):
                    value[key] = self.redact_text(each)
                else:
                    value[key] = self._described(each)
        elif isinstance(value, list):
            value[:] = [self._described(each) for each in value]
        return value

    def _number(self, value: int, name: str) -> int | str:
        """A number that is personal as its digits are: a text that stands for it, for a number can't."""
        digits = str(value)
        label = f"{name}: "
        for finding in find(label + digits, self._known):
            if finding.start == len(label) and finding.end == len(label) + len(digits):
                return self._name(finding.kind, digits)
        return value

    def _redact_literals(self, text: str) -> str:
        """JSON with the strings in it redacted, and all between them as it was."""
        flat, places = _flattened(text)
        findings = find(flat, self._known)
        if not findings:
            return text
        parts: list[str] = []
        done = 0  # of the text
        place = 0
        for literal in places:
            before = [f for f in findings[place:] if f.end <= literal.flat_start]
            parts.append(self._outside(text, done, literal.start, literal.flat_start, before))
            place += len(before)
            inside = []
            while place < len(findings) and findings[place].start < literal.flat_end:
                kind, start, end = findings[place]
                size = len(literal.decoded)
                clipped = Finding(kind, max(0, start - literal.flat_start), min(size, end - literal.flat_start))
                if clipped.start < clipped.end:
                    inside.append(clipped)
                if end > literal.flat_end:
                    break  # the rest of it is in the next one
                place += 1
            if inside:
                redacted = self._replaced(literal.decoded, inside)
                parts.append(json.dumps(redacted, ensure_ascii=text[literal.start : literal.end].isascii()))
            else:
                parts.append(text[literal.start : literal.end])
            done = literal.end
        parts.append(self._outside(text, done, len(text), len(flat) + 1, findings[place:]))
        return "".join(parts)

    def _outside(self, text: str, start: int, end: int, flat_end: int, findings: list[Finding]) -> str:
        """What is between two strings of JSON: numbers, of which a personal one becomes a string."""
        shift = end - (flat_end - 1)
        parts = []
        for kind, first, last in findings:
            first, last = first + shift, last + shift
            if start <= first < last <= end and text[first:last].isdigit() and text[first - 1 : first] != "-":
                parts += [text[start:first], '"', self._name(kind, text[first:last]), '"']
                start = last
        return "".join([*parts, text[start:end]])


def _is_written(name: str, raw: bytes) -> bool:
    """Whether a field may say something about somebody: not the model's name, and no switch or small number."""
    return name not in ("model", "seed") and (raw[:1] in (b'"', b"{", b"[") or len(raw) >= 7)


class _Literal(msgspec.Struct):
    """A string of JSON: where it is in the text with its quotes, and where its content is in the flat text."""

    start: int
    end: int
    flat_start: int
    flat_end: int
    decoded: str


def _flattened(text: str) -> tuple[str, list[_Literal]]:
    """JSON with its strings decoded in their places, so that what stands beside a value can tell what it is."""
    parts: list[str] = []
    places: list[_Literal] = []
    done = size = 0
    for match in _LITERAL.finditer(text):
        start, end = match.span()
        decoded = text[start + 1 : end - 1]
        if "\\" in decoded:
            decoded = json.loads(match[0])
        flat_start = size + start - done + 1
        places.append(_Literal(start, end, flat_start, flat_start + len(decoded), decoded))
        parts += [text[done:start], '"', decoded, '"']
        size = flat_start + len(decoded) + 1
        done = end
    parts.append(text[done:])
    return "".join(parts), places
