"""The nouns of the room: a kind of personal data, one place where it was found, and the words around a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What was found. The value is the word of the wire; in capitals it names the placeholder."""

    SENSITIVE = "sensitive"
    """A value that the caller declared."""
    SECRET = "secret"
    EMAIL = "email"
    IBAN = "iban"
    CN_ID = "cn_id"
    CARD = "card"
    US_SSN = "us_ssn"
    PHONE = "phone"
    ADDRESS = "address"


class Finding(NamedTuple):
    """One value in a text, from the character `start` up to `end`."""

    kind: Kind
    start: int
    end: int


CONTEXT = 40
"""So many characters before a number may say what it is."""


class Cues:
    """Words that say of a number after them what it is, or what it isn't. They are matched in small letters."""

    def __init__(self, speaking_for: Sequence[str], against: Sequence[str] = ()) -> None:
        self._words = re.compile(f"({_alternatives(speaking_for)})|(?:{_alternatives(against)})")

    def told(self, text: str, start: int) -> bool | None:
        """Whether the last such word of the line before `start` speaks for it; None where there is none."""
        before = text[max(0, start - CONTEXT) : start]
        line = before.rpartition("\n")[2] or before
        told = self._words.findall(line.lower())
        return bool(told[-1]) if told else None


def _alternatives(words: Sequence[str]) -> str:
    """Latin words where a word begins, others anywhere."""
    latin = "|".join(re.escape(word) for word in words if word.isascii())
    other = "|".join(re.escape(word) for word in words if not word.isascii())
    parts = [f"(?<![a-z])(?:{latin})" if latin else "", other]
    return "|".join(filter(None, parts)) or "(?!)"
