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


_BETWEEN = "number numbers no nr id code is was s 号码 编号 号 是 为".split()
_BETWEEN_MARKS = r"[\s:#=.,\"'()\[\]|_：（），-]"
"""What may stand between a word that speaks against a number, and the number."""


class Cues:
    """Words that say of a number after them what it is, or what it isn't. They are matched in small letters.

    A word that speaks for it may stand anywhere before it on its line; one that speaks against it must be next to it:
    who mentions an order and then a number may well mean a phone.
    """

    def __init__(self, speaking_for: Sequence[str], against: Sequence[str] = ()) -> None:
        self._for = re.compile(_anywhere(speaking_for))
        # What must be next to the number is read from there backwards: one try instead of one at every character.
        self._against = re.compile(_backwards(against))

    def told(self, text: str, start: int) -> bool | None:
        """Whether what stands before `start` speaks for it; None where nothing does."""
        before = text[max(0, start - CONTEXT) : start]
        line = (before[before.rfind("\n") + 1 :] or before).lower()
        if self._against.match(line[::-1]):
            return False
        return True if self._for.search(line) else None


def _anywhere(words: Sequence[str]) -> str:
    """Latin words where a word begins, others anywhere; by their first letter, which is what is searched for."""
    by_letter: dict[tuple[str, bool], list[str]] = {}
    for word in words:
        by_letter.setdefault((word[0], word.isascii()), []).append(re.escape(word[1:]))
    parts = []
    for (letter, is_latin), rests in by_letter.items():
        begins = f"(?<![a-z]{letter})" if is_latin else ""
        parts.append(f"{re.escape(letter)}{begins}(?:{'|'.join(rests)})")
    return "|".join(parts) or "(?!)"


def _backwards(words: Sequence[str]) -> str:
    """One of the words, then what may be between, read from the end of a line: Latin words where a word begins."""
    between = "|".join([_BETWEEN_MARKS, *(re.escape(word[::-1]) for word in _BETWEEN)])
    parts = [re.escape(word[::-1]) + ("(?![a-z])" if word.isascii() else "") for word in words]
    return f"(?:{between})*(?:{'|'.join(parts)})" if parts else "(?!)"
