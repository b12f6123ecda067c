"""Numbers with a checksum or a fixed form: payment cards, Chinese resident IDs, US social security numbers, IBANs.

Each function looks at one run of digits and what separates them (`Run`), so that a text is searched once.
Phone numbers, which need more knowledge, are in `phones`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from faucet.privacy.finding import CONTEXT, Cues, Finding, Kind

_OUTLINE = bytes(
    b"1"[0] if chr(each) in "0123456789" else b"A"[0] if chr(each).isascii() and chr(each).isalpha() else each
    for each in range(256)
)
_DASHES = "\u2010\u2011\u2012\u2013"
_GAP = rb"[ \xa0.()/-]"
GAP_MAX = 3
RUN_DIGITS_MIN = 7
_RUNS = re.compile(rb"1[1 \xa0.()/-]{5,}1")
_WIDE_GAP = re.compile(_GAP + b"{%d}" % (GAP_MAX + 1))
_NARROW_RUNS = re.compile(b"1+(?:%s{1,%d}1+)*" % (_GAP, GAP_MAX))

BEGIN = r"(?<![A-Za-z0-9_$€£¥￥%])(?<![A-Za-z0-9][-.])"
"""Not within a word, a code (`SKU-…`), a UUID, a decimal, or after a currency sign."""
END = r"(?![A-Za-z0-9_%])(?!-[A-Za-z0-9])(?!\.\d)"

AHEAD = 3
"""So much after a run is looked at: an ID's X, and what `END` forbids."""

_CN_ID = re.compile(
    BEGIN + r"[1-9]\d{5}[ -]?(?:19|20)\d\d[ -]?(?:0[1-9]|1[0-2])[ -]?(?:0[1-9]|[12]\d|3[01])[ -]?\d{3}[\dXx]" + END
)
_OLD_CN_ID = re.compile(BEGIN + r"[1-9]\d{7}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}" + END)
_CN_REGIONS = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_CN_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)

_CARD = re.compile(
    BEGIN + r"(?:\d{13,19}"
    r"|\d{4}([ \u00a0-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?"  # four by four, and the longer ones of UnionPay
    r"|3\d{3}([ \u00a0-])\d{6}\2\d{4,5}"  # American Express, Diners Club
    r"|\d{6}([ \u00a0-])\d{10,13})" + END
)
_CARD_SIXTEEN = re.compile(BEGIN + r"\d{4}([ \u00a0-])\d{4}\1\d{4}\1\d{4}(?!\d)")
_CARD_CUES = Cues(
    "card visa mastercard amex credit debit pan pay 卡".split(),
    "order tracking invoice imei isbn ean sku serial waybill ticket parcel shipment batch timestamp"
    " 订单 运单 单号 编号 流水 快递".split(),
)

_SSN = re.compile(r"(?<!\+)" + BEGIN + r"(\d{3})([ -])(\d\d)\2(\d{4})" + END)
_BARE_SSN = re.compile(r"(?<!\+)" + BEGIN + r"(\d{3})()(\d\d)(\d{4})" + END)
_SSN_CUES = Cues(
    ("ssn", "social security", "social-security", "soc sec", "itin", "taxpayer", "tax id", "tax_id", "社会安全", "社安")
)

_IBAN = re.compile(
    r"(?<![A-Za-z0-9_])([A-Z]{2}\d\d(?:[ \u00a0-]?[A-Z0-9]{4}){2,7}(?:[ \u00a0-]?[A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
    r"|(?<![A-Za-z0-9_])([a-z]{2}\d\d(?:[ \u00a0-]?[a-z0-9]{4}){2,7}(?:[ \u00a0-]?[a-z0-9]{1,3})?)(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = {
    code: int(length)
    for code, length in (
        pair.split(":")
        for pair in (
            "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22"
            " DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21"
            " HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27"
            " MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24"
            " RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19 SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22"
            " VG:24 XK:20 YE:30"
        ).split()
    )
}

_VALUES = bytes(each - 48 if 48 <= each < 58 else 0 for each in range(256))
_DOUBLED = bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[value] for value in _VALUES)
"""Of each digit what it is worth, and what twice that much is, its digits summed."""
_SEPARATORS = {ord(each): None for each in " \u00a0-"}


class Run(NamedTuple):
    """Digits with nothing but separators between them: where a number, or some, may be."""

    start: int
    end: int
    digits: int
    """How many there are."""

    @property
    def is_plain(self) -> bool:
        """Whether it is one number without any separator."""
        return self.end - self.start == self.digits


def outline(text: str) -> bytes:
    """A text in which every digit is 1, every letter A, and what Latin alphabets don't have a question mark.

    It has a byte for every character, and is what the searches begin with: bytes are searched several times as fast.
    """
    if not text.isascii():
        for dash in _DASHES:
            text = text.replace(dash, "-")
    return text.encode("latin-1", "replace").translate(_OUTLINE)


def runs_of(shape: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, end and count of digits that may belong together, where there are enough of them, by an outline."""
    count_of = shape.count
    for match in _RUNS.finditer(shape):
        start, end = match.span()
        count = count_of(b"1", start, end)
        if end - start - count > GAP_MAX and _WIDE_GAP.search(shape, start, end):
            for part in _NARROW_RUNS.finditer(shape, start, end):
                count = count_of(b"1", *part.span())
                if count >= RUN_DIGITS_MIN:
                    yield *part.span(), count
        elif count >= RUN_DIGITS_MIN:
            yield start, end, count


def bare(text: str) -> str:
    """A number without what separates its groups."""
    return text.translate(_SEPARATORS)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    written = digits.encode()
    total = sum(written[-1::-2].translate(_VALUES)) + sum(written[-2::-2].translate(_DOUBLED))
    return total % 10 == 0


def find_cn_ids(text: str, run: Run) -> Iterator[Finding]:
    """Resident identity numbers of China (GB 11643): 18 characters with a checksum; 15 digits where a word says so."""
    for match in _CN_ID.finditer(text, run.start, run.end + AHEAD):
        if is_cn_id(bare(match[0])):
            yield Finding(Kind.CN_ID, match.start(), match.end())
    for match in _OLD_CN_ID.finditer(text, run.start, run.end + AHEAD):
        before = text[max(0, match.start() - CONTEXT) : match.start()]
        if match[0][:2] in _CN_REGIONS and ("身份" in before or "证号" in before):
            yield Finding(Kind.CN_ID, match.start(), match.end())


def is_cn_id(number: str) -> bool:
    """Whether 18 characters are a resident identity number: a region's code and the checksum (ISO 7064 MOD 11-2)."""
    total = sum(weight * (ord(digit) - 48) for weight, digit in zip(_CN_WEIGHTS, number, strict=False))
    return number[:2] in _CN_REGIONS and "10X98765432"[total % 11] == number[17].upper()


def find_cards(text: str, run: Run) -> Iterator[Finding]:
    """Payment card numbers: an issuer's first digits, a length that it uses, and Luhn's checksum."""
    if run.is_plain and not (run.digits <= 19 and is_card(text[run.start : run.end])):
        return
    at, end = run.start, run.end + AHEAD
    while match := _CARD.search(text, at, end):
        at = match.end()
        if not is_card(bare(match[0])):
            # An expiry date may follow the number in the same spelling.
            match = _CARD_SIXTEEN.match(text, match.start(), end)
            if match is None or not is_card(bare(match[0])):
                continue
        if _CARD_CUES.told(text, match.start()) is not False:
            yield Finding(Kind.CARD, match.start(), match.end())
            at = match.end()


def is_card(digits: str) -> bool:
    """Whether digits are a payment card's number."""
    length = len(digits)
    first, two, four = digits[0], digits[:2], int(digits[:4])
    if first == "4":
        fits = length in (13, 16, 19)
    elif two in ("34", "37"):
        fits = length == 15
    elif two in ("36", "38", "39") or 3000 <= four <= 3059:
        fits = length in (14, 16, 19)
    elif "51" <= two <= "55" or 2221 <= four <= 2720:
        fits = length == 16
    elif two == "62" or two == "81":
        fits = 16 <= length <= 19
    else:
        fits = (3528 <= four <= 3589 or two in ("50", "56", "57", "58", "60", "63", "64", "65", "67")) and length >= 16
    return fits and luhn(digits) and len(set(digits)) > 1


def find_us_ssns(text: str, run: Run) -> Iterator[Finding]:
    """US social security and individual taxpayer numbers; without separators only where a word says so."""
    for pattern in (_SSN, _BARE_SSN):
        for match in pattern.finditer(text, run.start, run.end + AHEAD):
            area, separator, group, serial = match.groups()
            if group == "00" or serial == "0000" or area in ("000", "666"):
                continue
            if area[0] == "9" and not ("50" <= group <= "65" or "70" <= group <= "99"):
                continue
            if separator != "-" and not _SSN_CUES.told(text, match.start()):
                continue
            yield Finding(Kind.US_SSN, match.start(), match.end())


def find_ibans(text: str, shape: bytes) -> Iterator[Finding]:
    """International bank account numbers: the country's length, and 1 modulo 97 (ISO 13616)."""
    done = 0
    following = shape.find(b"AA11")
    while following >= 0:
        start = following
        following = shape.find(b"AA11", start + 4)
        if start < done:
            continue
        length = _IBAN_LENGTHS.get(text[start : start + 2].upper())
        match = length and _IBAN.match(text, start)
        if not length or not match:
            continue
        written = match[0]
        # A word in capitals may follow the number: it is cut where the country's length ends.
        taken = place = 0
        while place < len(written) and taken < length:
            taken += written[place] not in " \u00a0-"
            place += 1
        if taken == length and (place == len(written) or not written[place].isalnum()):
            if is_iban(bare(written[:place]).upper()):
                done = start + place
                yield Finding(Kind.IBAN, start, done)


def is_iban(number: str) -> bool:
    """Whether letters and digits are an IBAN by its checksum."""
    return int("".join(str(int(each, 36)) for each in number[4:] + number[:4])) % 97 == 1
