"""Lines of CSV that a spreadsheet can open without running anything.

A text that a spreadsheet would take for a formula gets an apostrophe before it. A line is one row: characters that
only control something become spaces. Not here: what is in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
"""What formulas begin with; some spreadsheets take the wide ones for the others."""
_FORMULA = re.compile(rf"[\s\x00-\x1f\ufeff]*[{_SIGNS}]|[\t\r\n]")
_INNER = re.compile(rf"(;[\s\"']*)(?=[{_SIGNS}])")
"""Where a cell would begin for a spreadsheet that separates by semicolons, whatever is quoted."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def text_cell(text: str | None) -> str:
    """A text as a cell, harmless and quoted where it has to be; nothing for None."""
    if not text:
        return ""
    if _FORMULA.match(text):
        text = "'" + text
    if ";" in text:
        text = _INNER.sub(r"\1'", text)
    if _CONTROLS.search(text):
        text = _CONTROLS.sub(" ", text)
    if '"' in text or "," in text:
        return '"' + text.replace('"', '""') + '"'
    return text


def line(cells: Iterable[str]) -> str:
    """Cells as one line, with its end."""
    return ",".join(cells) + "\n"
