"""A statement for print, on A4.

The PDF's own fonts have Latin letters only. Other letters, of a developer's name, need a font that the operator names
(STATEMENT_FONT) or that the system has (`usual_font`); a letter that there is no font for is printed as its code, and
the page says so.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import TTFFont

from faucet.closing.document import Signed, key_id
from faucet.closing.sheet import figures
from faucet.kit.errors import Fault

USUAL_FONTS = (
    Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc"),
    Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"),
)
"""Where Debian's packages of Chinese letters put them."""
_BASE = "helvetica"
_OWN = "own"
_TITLES = {"developer": "Statement of earnings", "end_user": "Statement of a wallet"}
_WIDTHS = (78, 32, 50)
_NOTE = (
    "This page shows what the signed statement says. What counts is the file: `faucet statement verify` checks it"
    " without any server."
)
_CODED = "Letters that this server has no font for are shown as their codes, such as U+5BA2."


def usual_font() -> Path | None:
    """A font with Chinese letters, if this machine has one where it usually is."""
    return next((path for path in USUAL_FONTS if path.is_file()), None)


class _Page(FPDF):
    """A page that writes any text."""

    def __init__(self, font: Path | None) -> None:
        super().__init__(format="A4")
        self._known: frozenset[int] = frozenset()
        self.coded = False
        if font is not None:
            try:
                self.add_font(_OWN, fname=str(font))
            except (OSError, ValueError, RuntimeError) as error:
                raise Fault(f"STATEMENT_FONT can't be used: {type(error).__name__}") from None
            added = self.fonts[_OWN]
            self._known = frozenset(added.cmap if isinstance(added, TTFFont) else ())
        self.set_margin(20)
        self.add_page()

    def put(self, text: str, width: int = 0, *, size: int = 10, bold: bool = False, align: str = "L") -> None:
        """A cell with a text, in the font that has its letters."""
        try:
            text.encode("latin-1")
            self.set_font(_BASE, "B" if bold else "", size)
        except UnicodeEncodeError:
            text = self._printable(text)
            self.set_font(_BASE if text.isascii() else _OWN, "", size)
        end = width == 0 or align == "E"
        self.cell(
            width,
            size * 5 // 8,
            text,
            align="R" if align in "RE" else "L",
            new_x=XPos.LMARGIN if end else XPos.RIGHT,
            new_y=YPos.NEXT if end else YPos.TOP,
        )

    def _printable(self, text: str) -> str:
        shown = []
        for letter in text:
            is_known = letter.isascii() or ord(letter) in self._known
            self.coded |= not is_known
            shown.append(letter if is_known else f"[U+{ord(letter):04X}]")
        return "".join(shown)


def statement_pdf(signed: Signed, *, font: Path | None = None) -> bytes:
    """The statement as PDF; the same bytes for the same statement and font.

    Raises Fault where the font can't be used.
    """
    says = signed.says
    page = _Page(font)
    closed_at = datetime.fromisoformat(says["closed_at"])
    page.set_creation_date(closed_at)
    page.set_title(f"Statement {says['period']}")
    page.put(_TITLES[says["kind"]], size=18, bold=True)
    page.put(f"{says['period']}, in US dollars", size=12)
    page.ln(4)
    if "developer_name" in says:
        page.put(says["developer_name"], size=12)
    page.put(f"{says['kind'].replace('_', ' ')} {says[says['kind'] + '_id']}")
    page.put(f"closed {says['closed_at']}")
    page.ln(6)
    for name in figures(says["kind"]):
        last = name == "closing_usd"
        page.put(name.removesuffix("_usd").replace("_", " ").capitalize(), sum(_WIDTHS[:2]), bold=last)
        page.put(says[name], _WIDTHS[2], bold=last, align="E")
    for title, field, rows in (("App", "public_app_id", says.get("apps")), ("Day", "day", says.get("days"))):
        if rows:
            page.ln(6)
            _table(page, title, [(row[field], str(row["calls"]), row["earned_usd"]) for row in rows])
    page.ln(6)
    page.set_font(_BASE, "", 8)
    page.multi_cell(0, 4, _NOTE, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    for text in (f"SHA-256 {signed.hash.hex()}", f"key {key_id(signed.public_key)}"):
        page.put(text, size=8)
    if page.coded:
        page.put(_CODED, size=8)
    return bytes(page.output())


def _table(page: _Page, title: str, rows: list[tuple[str, str, str]]) -> None:
    for at, (name, calls, earned) in enumerate([(title, "Calls", "Earned"), *rows]):
        page.put(name, _WIDTHS[0], bold=at == 0)
        page.put(calls, _WIDTHS[1], bold=at == 0, align="R")
        page.put(earned, _WIDTHS[2], bold=at == 0, align="E")
