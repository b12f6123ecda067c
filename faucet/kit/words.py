"""The words of a document that people write: what to say of one that isn't known."""

from __future__ import annotations

import difflib
from collections.abc import Collection

SHOWN = 100


def unknown_word(path: str, word: object, words: Collection[str]) -> ValueError:
    """The error of a word that isn't among these, with its path and the one that was probably meant. To be raised."""
    shown = str(word)[:SHOWN]
    near = difflib.get_close_matches(shown, words, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(words)}"
    return ValueError(f"{path}.{shown}: unknown word; {hint}" if path else f"{shown}: unknown word; {hint}")
