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


_BETWEEN = r"(?:[\s:#=.,\"'()\[\]|_-]|numbers?|no|nr|id|code|is|was|s|号码|编号|号|是|为|[：（），])*$"
"""What may stand between a word that speaks against a number, and the number."""


class Cues:
    """Words that say of a number after them what it is, or what it isn't. They are matched in small letters.

    A word that speaks for it may stand anywhere before it on its line; one that speaks against it must be next to it:
    who mentions an order and then a number may well mean a phone.
    """

    def __init__(self, speaking_for: Sequence[str], against: Sequence[str] = ()) -> None:
        self._for = re.compile(_alternatives(speaking_for))
        self._against = re.compile(f"(?:{_alternatives(against)}){_BETWEEN}")

    def told(self, text: str, start: int) -> bool | None:
        """Whether what stands before `start` speaks for it; None where nothing does."""
        before = text[max(0, start - CONTEXT) : start]
        line = (before.rpartition("\n")[2] or before).lower()
        if self._against.search(line):
            return False
        return True if self._for.search(line) else None


def _alternatives(words: Sequence[str]) -> str:
    """Latin words where a word begins, others anywhere."""
    latin = "|".join(re.escape(word) for word in words if word.isascii())
    other = "|".join(re.escape(word) for word in words if not word.isascii())
    parts = [f"(?<![a-z])(?:{latin})" if latin else "", other]
    return "|".join(filter(None, parts)) or "(?!)"
