"""Phone numbers of any region: candidates by their form, then judged by `phonenumbers`' tables.

A number with its country's code is judged by that country. One without needs a form that only phone numbers have, or a
word nearby that says so; dates, addresses of machines, amounts and numbers of orders are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumber

from faucet.privacy.finding import Cues, Finding, Kind
from faucet.privacy.numbers import AHEAD, BEGIN, Run
from faucet.privacy.numbers import END as NUMBER_END

REGIONS = tuple(
    "US GB DE FR IT ES NL IN JP KR AU BR MX HK TW SG MY TH VN ID PH RU TR ZA CH AT SE PL BE IE PT NZ AE IL NO DK"
    "".split()
)
"""Whose national numbers are recognised without the country's code, in the order in which they are tried."""

for _region in ("CN", *REGIONS):  # now, so that no request waits for tables to be loaded
    phonenumbers.PhoneMetadata.metadata_for_region(_region)

_GAP = r"[ \u00a0\u2010-\u2013.()/-]"
END = r"(?:(?=x\d)|" + NUMBER_END + ")"
"""An extension may follow at once."""
_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_+])(?:\+|\(\+|00(?=[1-9\u00a0 -])) ?[1-9](?:"
    + _GAP
    + r"{0,3}\d){6,14}(?:(?=x\d)|(?![A-Za-z0-9_]))"
)
_CN_MOBILE = re.compile(BEGIN + r"(?:86[ -]?)?1[3-9]\d(?:\d{8}|([ \u00a0.-])\d{4}\1\d{4}|([ -])\d{3}\2\d{5})" + END)
_CN_LANDLINE = re.compile(BEGIN + r"(?:\(0\d{2,3}\)[ -]?|0\d{2,3}[- ])[2-9]\d{2,3}[ -]?\d{4}" + END)
_CN_SERVICE = re.compile(BEGIN + r"(?:400|800)([- ])(?:\d{3}\1\d{4}|\d{4}\1\d{3}|\d{7})" + END)
_NANP = re.compile(
    BEGIN + r"(?:1[ .-]?)?(?:\([2-9]\d\d\)[ \u00a0]?[2-9]\d\d[ .\u2010-\u2013-]\d{4}"
    r"|[2-9]\d\d([.\u2010-\u2013-])[2-9]\d\d\1\d{4}|[2-9]\d\d [2-9]\d\d-\d{4}|(?<!\d )[2-9]\d\d [2-9]\d\d \d{4}(?! \d))"
    + END
)
_FORMS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (_CN_MOBILE, ()),
    (_CN_SERVICE, ()),
    (_CN_LANDLINE, ("CN",)),
    (_NANP, ("US",)),
)
"""Forms that only phone numbers have, and the regions that must know such a number."""
_PLAIN_FORMS = {(11, "1"): _FORMS[:1], (13, "8"): _FORMS[:1]}
"""Those that have no gaps, by how many digits there are and the first of them."""
_TRUNK = re.compile(BEGIN + r"\(?0[1-9]\d{0,4}\)?(?:[ \u00a0.\u2010-\u2013/-]{1,3}\d{2,8}){1,5}" + END)
TRUNK_DIGITS_MIN = 9
"""A national number with its leading 0 and gaps has at least these; fewer need a word that says what it is."""
ANY_DIGITS_MAX = 15
_ANY = re.compile(BEGIN + r"\(?\d(?:" + _GAP + r"{0,2}\d){6,14}" + END)

NO_NUMBER_MAX = 15
"""The longest of what follows without a fraction: an address of a machine."""
_NOT_A_PHONE = re.compile(
    r"\(?(?:"
    r"(?:19|20)\d\d[-./ ]\d\d?[-./ ]\d\d?(?!\d)"  # a date, the year first
    r"|\d\d?[-./]\d\d?[-./](?:19|20)?\d\d(?!\d)(?![-./]\d)"  # a date, the year last
    r"|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\d.])"  # an address of a machine
    r"|(?:19|20)\d\d ?[-–] ?(?:19|20)\d\d(?!\d)"  # years
    r"|\d+\.\d+(?!\.?\d)"  # a decimal
    r"|\d{5}-\d{4}(?!\d)"  # a US postcode
    r")"
)
_CUES = Cues(
    "phone telephone tel mobile cell call fax whatsapp sms text contact ring dial hotline helpline reach viber pager"
    " landline telefon móvil ☎ 📞 📱 电话 手机 联系 致电 拨打 热线 传真 座机 固话 微信 号码 来电 電話".split(),
    "order invoice tracking isbn issn ref sku serial ticket build version release commit parcel waybill doi timestamp"
    " epoch hash uuid checksum revision case account pid port amount total price qty quantity rows bytes population"
    " barcode ean upc imei lot batch patent standard iso rfc cas session id 订单 单号 运单 快递 编号 流水 版本 型号"
    " 发票 批次 条码 金额 总计 合同 案号 工号 学号 序列 账号 帐号 卡号 邮编".split(),
)
_AFTER = re.compile(r"\s?[（(]\s?(?:mobile|cell|home|work|office|tel|phone|手机|电话|微信|座机)")


def is_no_number(text: str, start: int, end: int) -> bool:
    """Whether digits with gaps between them are a date, an amount or the like, with no country's code before them."""
    return (
        end - start <= NO_NUMBER_MAX
        and _NOT_A_PHONE.fullmatch(text, start, end) is not None
        and text.find("+", max(0, start - 3), start) < 0
        and text.find("00", start, end) < 0
    )


def find_phones(text: str, run: Run, regions: Sequence[str] = REGIONS) -> list[Finding]:
    """The phone numbers in one run of digits. Overlapping candidates are the caller's to sort out."""
    start, end = max(0, run.start - 3), run.end + AHEAD
    found: list[Finding] = []
    if text.find("+", start, run.start) >= 0 or text.startswith("00", run.start) or text.find(" 00", start, end) >= 0:
        found += _international(text, start, end)
    if run.is_plain:
        forms, has_trunk = _PLAIN_FORMS.get((run.digits, text[run.start]), ()), False
    elif _NOT_A_PHONE.fullmatch(text, run.start, run.end):
        return found
    else:
        forms = _FORMS if run.digits >= 10 else ()
        has_trunk = run.digits >= TRUNK_DIGITS_MIN and text.find("0", run.start, run.end) >= 0
    for pattern, known_in in forms:
        for match in pattern.finditer(text, start, end):
            if _told(text, match) is not False and (not known_in or _is_valid(match[0], known_in)):
                found.append(Finding(Kind.PHONE, match.start(), match.end()))
    if has_trunk:
        for match in _TRUNK.finditer(text, start, end):
            if _told(text, match) is not False:
                found += _national(match, ("CN", *regions))
    if (not run.is_plain or run.digits <= ANY_DIGITS_MAX) and not (len(found) == 1 and _is_all(found[0], run)):
        for match in _ANY.finditer(text, start, end):
            if _told(text, match):
                found += _national(match, ("CN", *regions))
    return found


def _is_all(found: Finding, run: Run) -> bool:
    """Whether a run is one phone's number and nothing else."""
    return found.start <= run.start and run.end <= found.end and run.digits <= 12


def _international(text: str, start: int, end: int) -> Iterator[Finding]:
    for match in _INTERNATIONAL.finditer(text, start, end):
        size = _international_length(match[0])
        if size:
            # A parenthesis around the whole number isn't part of it.
            opened = match[0][0] == "(" and ")" not in match[0][:size]
            yield Finding(Kind.PHONE, match.start() + opened, match.start() + size)


def _told(text: str, match: re.Match[str]) -> bool | None:
    """Whether what stands around a number says that it is a phone's, or that it isn't; None where nothing does."""
    told = _CUES.told(text, match.start())
    if told is None and _AFTER.match(text, match.end()):
        return True
    return told


def _national(match: re.Match[str], regions: Sequence[str]) -> Iterator[Finding]:
    """A number without its country's code, cut shorter at its gaps until some region knows it."""
    if _NOT_A_PHONE.match(match[0]):
        return
    for written in _shorter(match[0]):
        if _is_valid(written, regions):
            yield Finding(Kind.PHONE, match.start(), match.start() + len(written))
            return


def _shorter(written: str) -> Iterator[str]:
    """A candidate, then without its last group, and so on while seven digits are left."""
    while sum(map(str.isdigit, written)) >= 7:
        yield written
        cut = max(written.rfind(" "), written.rfind("\u00a0"))
        if cut < 0:
            return
        written = written[:cut].rstrip(" \u00a0.()/-")


def _international_length(written: str) -> int:
    """How much of a candidate is a number with its country's code; 0 for none."""
    opened = written.startswith("(")
    for shorter in _shorter(written):
        number = shorter[1:] if opened else shorter
        plus = "+" + number[2:] if number.startswith("00") else number
        try:
            parsed = phonenumbers.parse(plus, None)
        except NumberParseException:
            return 0
        if phonenumbers.is_valid_number(parsed) if number.startswith("00") else phonenumbers.is_possible_number(parsed):
            return len(shorter)
    return 0


def _is_valid(written: str, regions: Sequence[str]) -> bool:
    digits = "".join(filter(str.isdigit, written))
    for region in regions:
        metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
        if metadata is None:
            continue
        national = digits
        trunk = metadata.national_prefix
        if trunk and digits.startswith(trunk):
            national = digits[len(trunk) :]
        elif digits.startswith("0") and region != "IT":
            continue
        if not 7 <= len(national) <= 13:
            continue
        number = PhoneNumber(
            country_code=metadata.country_code,
            national_number=int(national),
            italian_leading_zero=national.startswith("0") or None,
        )
        if phonenumbers.is_valid_number_for_region(number, region):
            return True
    return False
