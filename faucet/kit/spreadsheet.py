"""Lines of CSV that a spreadsheet can open without running anything.

A text that a spreadsheet would take for a formula gets an apostrophe before it. A line is one row: characters that
only control something become spaces. Not here: what is in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def text_cell(text: str | None) -> str:
    """A text as a cell, harmless and quoted where it has to be; nothing for None."""
    if not text:
        return ""
    if text.startswith(_FORMULA):
        text = "'" + text
    if _CONTROLS.search(text):
        text = _CONTROLS.sub(" ", text)
    if '"' in text or "," in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def line(cells: Iterable[str]) -> str:
    """Cells as one line, with its end."""
    return ",".join(cells) + "\n"
