"""Parameters of a request: Stripe's form encoding in, a checked dictionary out; anything else is a 400.

`a[b][0][c]=v` is a dictionary with a list inside. A route names its parameters with the shapes below; what it doesn't
name is refused, as Stripe does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from faucet.payments.double.problem import Problem

PARAMETERS_MAX = 1_000
_PARTS = re.compile(r"\[([^\[\]]*)\]")


class Shape(Protocol):
    """What a parameter must look like."""

    @property
    def required(self) -> bool:
        """Whether it must be there."""
        ...

    def read(self, value: Any, where: str) -> Any:
        """The checked value. Raises Problem."""
        ...


def decode(text: str) -> dict[str, Any]:
    """A form or query as nested dictionaries; a list is one with the keys `0`, `1`, …. Raises Problem."""
    found: dict[str, Any] = {}
    pairs = parse_qsl(text, keep_blank_values=True)
    if len(pairs) > PARAMETERS_MAX:
        raise Problem(400, "Too many parameters.")
    for name, value in pairs:
        head, bracket, rest = name.partition("[")
        path = [head, *_PARTS.findall(bracket + rest)]
        place = found
        for part in path[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise Problem(400, f"Invalid parameter: {name}", param=name)
            place = inner
        last = path[-1] or str(len(place))
        place[last] = value
    return found


@dataclass(frozen=True, slots=True)
class Text:
    """Some text; `words` are the only ones allowed, where given."""

    required: bool = False
    longest: int = 5_000
    words: tuple[str, ...] = ()
    pattern: str | None = None

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise Problem(400, f"Invalid string: {where}", param=where, code="parameter_invalid_string")
        if value == "" and self.required:
            raise Problem(
                400, f"You passed an empty string for '{where}'.", param=where, code="parameter_invalid_empty"
            )
        if len(value) > self.longest:
            raise Problem(400, f"Invalid string: {where} is too long.", param=where)
        if self.words and value not in self.words:
            raise Problem(400, f"Invalid {where}: must be one of {', '.join(self.words)}", param=where)
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            raise Problem(400, f"Invalid {where}: {value!r}", param=where)
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    required: bool = False
    least: int = 0
    most: int = 99_999_999

    def read(self, value: Any, where: str) -> int:
        if not isinstance(value, str) or re.fullmatch(r"-?[0-9]{1,15}", value) is None:
            raise Problem(400, f"Invalid integer: {value}", param=where, code="parameter_invalid_integer")
        number = int(value)
        if not self.least <= number <= self.most:
            raise Problem(
                400,
                f"Invalid integer: {where} must be between {self.least} and {self.most}",
                param=where,
                code="parameter_invalid_integer",
            )
        return number


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    required: bool = False

    def read(self, value: Any, where: str) -> bool:
        if value not in ("true", "false"):
            raise Problem(400, f"Invalid boolean: {value}", param=where)
        return bool(value == "true")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Up to 50 keys with short texts."""

    required: bool = False

    def read(self, value: Any, where: str) -> dict[str, str]:
        if value == "":
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise Problem(400, "Metadata should be a hash of strings.", param=where)
        if len(value) > 50 or any(len(key) > 40 or len(item) > 500 for key, item in value.items()):
            raise Problem(400, "Metadata has too many keys, or a key or value that is too long.", param=where)
        return dict(value)


@dataclass(frozen=True, slots=True)
class Group:
    """A dictionary with named members."""

    members: Mapping[str, Shape]
    required: bool = False

    def read(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Problem(400, f"Invalid object: {where}", param=where)
        return checked(value, self.members, where)


@dataclass(frozen=True, slots=True)
class Items:
    """A list of one shape."""

    item: Shape
    required: bool = False
    most: int = 100

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, dict) or not all(key.isdigit() for key in value) or len(value) > self.most:
            raise Problem(400, f"Invalid array: {where}", param=where)
        return [self.item.read(value[key], f"{where}[{key}]") for key in sorted(value, key=int)]


def checked(given: Mapping[str, Any], members: Mapping[str, Shape], inside: str = "") -> dict[str, Any]:
    """The given parameters, each as its shape says. Raises Problem for one that is unknown, missing or wrong."""

    def full(name: str) -> str:
        return f"{inside}[{name}]" if inside else name

    for name in given:
        if name not in members:
            raise Problem(400, f"Received unknown parameter: {full(name)}", param=full(name), code="parameter_unknown")
    for name, shape in members.items():
        if shape.required and name not in given:
            raise Problem(400, f"Missing required param: {full(name)}.", param=full(name), code="parameter_missing")
    return {name: members[name].read(value, full(name)) for name, value in given.items()}
