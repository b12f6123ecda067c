"""Postal addresses, English and Chinese: a street and a number, with what stands around them.

A street without a number, or a city alone, is no address: it names a place, not somebody's door.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from faucet.privacy.finding import Finding, Kind

_STREET_TYPES = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Ter|Way|Parkway"
    "|Pkwy|Highway|Hwy|Circle|Cir|Trail|Trl|Crescent|Cres|Close|Gardens|Gdns|Grove|Mews|Row|Walk|Hill|Quay|Embankment"
    "|Alley|Plaza|Loop|Expressway|Turnpike|Broadway"
)
_UNIT = (
    r"(?:(?:Apartment|Apt|Suite|Ste|Unit|Flat|Floor|Fl|Room|Rm|Building|Bldg|Block|Level)\.?|#)"
    r" ?(?:No\.? ?)?[A-Za-z0-9-]{1,6}"
)
_POSTCODE = r"(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|\d{5}(?:-\d{4})?|\d{6}|\d{4})"
_STATE = r"(?:[A-Z]{2,3}|[A-Z][a-z]+(?: [A-Z][a-z]+)?)"
_TOWN = (
    r"[A-Z][A-Za-z'’.-]+(?![A-Za-z0-9])(?: (?:[A-Z][A-Za-z'’.-]+|upon|on|the|of|in|le|de|under|by)(?![A-Za-z0-9])){0,3}"
)
_AFTER_STREET = (
    r"(?:(?:,? |,)(?:N\.?[EW]\.?|S\.?[EW]\.?|North|South|East|West|[NSEW])(?![A-Za-z]))?"
    r"(?:(?:,\s?|\s)" + _UNIT + r"(?![A-Za-z0-9])){0,3}"
    r"(?:,\s{0,2}" + _TOWN + r"){0,3}"
    r"(?:(?:,?\s" + _STATE + r")?,?\s{1,2}" + _POSTCODE + r"(?![A-Za-z0-9])|,?\s" + _STATE + r"(?![A-Za-z0-9]))?"
    r"(?:,\s(?:USA|U\.S\.A\.|United States|United Kingdom|UK|Canada|Australia|Ireland|New Zealand|Singapore))?"
)
_ENGLISH = re.compile(
    r"\d{1,6}(?:-\d{1,6})?[A-Za-z]?(?: ?1/2)?,? "
    r"(?:(?:N|S|E|W|North|South|East|West|Old|New|Upper|Lower|The)\.? )?"
    r"(?:[A-Z][A-Za-z'’-]+\.? |\d{1,3}(?:st|nd|rd|th) |St\.? [A-Z][a-z]+ |of |the ){0,4}?"
    r"(?:(?:[A-Z][A-Za-z'’-]+|\d{1,3}(?:st|nd|rd|th)) (?:" + _STREET_TYPES + r")\b\.?|Broadway\b)" + _AFTER_STREET
)
_ENGLISH_BEGIN = re.compile(r"[0-9-]{1,13}[A-Za-z]?(?: ?1/2)?,? [A-Z0-9]")
"""What the above begins with, for a quick look."""
_HOUSE_NUMBER_END = re.compile(rb"1A?,? (?=[A1])")
"""How that ends in an outline, for a quicker one."""
HOUSE_NUMBER_MAX = 20
_NUMBERS = re.compile(rb"1+")
_UNIT_BEFORE = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:" + _UNIT + r",? ){1,4}|(?:No\.? ?\d{1,5},? )?(?:Lane|Alley|No\.?) )$"
)
_NOT_BEFORE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789$€£¥.:_#/-")
_BOX = re.compile(
    r"(?<![A-Za-z])(?:P\.? ?O\.? ?Box|Post Office Box|GPO Box) \d{1,6}(?![A-Za-z0-9])" + _AFTER_STREET,
    re.IGNORECASE,
)
_NOT_STREETS = re.compile(
    r"\d+ (?:Days?|Hours?|Minutes?|Weeks?|Months?|Years?|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
    r"|Stars?|Large|Small|Big|Ways?|Steps?|Reasons?|Things|People|Percent|Million|Billion|Items?|Points?)\b"
)

_AFTER_IN = re.compile(r"\b(?:[Ii]n|[Ss]ince|[Bb]y|[Uu]ntil|[Ff]rom|[Ss]ummer|[Ww]inter|[Oo]f) $")
_YEAR_AND_STREET = re.compile(r"(?:19|20)\d\d [^,\d]+$")
_YEAR_AND_COMMA = re.compile(r"(?:19|20)\d\d, ")

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_NUMBER = r"[0-9A-Za-z一二三四五六七八九十百零〇甲乙丙丁东南西北]"
_DOOR = (
    r"(?:\s?(?:第)?" + _NUMBER + r"{1,6}(?:[-–—]" + _NUMBER + r"{1,6}){0,3}\s?"
    r"(?:号楼|号院|号门|[号號弄栋棟幢座]|单元|單元|[楼樓层層室户戶房门門期区區组組村]|支弄|支路))"
)
_CHINESE_CORE = re.compile(
    r"[路街道巷弄里同](?:[东西南北中]?段)?" + _DOOR + r"{1,6}"
    r"|[区區园園苑寓村厦廈场場庄莊馆館墅城府院心舍]" + _DOOR + r"{1,5}"
    r"|[区區园園苑寓村庄馆館府]\d{1,4}[-–]\d{1,4}(?:[-–]\d{1,5})?(?![\d号])"
)
"""The last character of a word for a street, or for an estate, with a door."""
_CHINESE_MORE = re.compile(
    r"(?:[，, ]?[" + _HAN + r"A-Za-z0-9]{1,12}?"
    r"(?:小区|花园|花苑|家园|公寓|新村|大厦|广场|中心|大楼|酒店|苑|公馆|学校|大学|医院|科技园|产业园|创业园|宿舍))?"
    + _DOOR
    + r"{0,5}(?:\d{3,4}(?=[，,。；;、\s）)]|$))?"
)
_CHINESE_BEFORE = re.compile(r"[" + _HAN + r"0-9A-Za-z·（）() ]{0,40}$")
_DIVISION = re.compile(
    r"(?:中国)?(?:北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南"
    r"|四川|贵州|云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门|深圳|广州|杭州|南京|苏州|成都|武汉|西安"
    r"|长沙|郑州|台北|臺北|新北|桃園|台中|臺中|台南|臺南|高雄|九龍|九龙|青岛|大连|厦门|宁波|无锡|合肥|福州|济南|沈阳|哈尔滨|长春|石家庄|太原|南昌|昆明|贵阳|南宁|海口|兰州|东莞|佛山)"
)
_CUE = re.compile(
    r"地址(?:是|为|在)?|住址(?:是|为)?|住在|居住于|居住在|家住|现住|位于|坐落于|坐落在|寄到|寄往|寄给|寄至|送到|送至|送往|配送到|发到|发往"
    r"|搬[到至]了?|前往|来到|来自|去了|到了|约在|定在|就在|[在到至于去]了?|是|为|从"
)
_UNIT_END = re.compile(r"省|自治区|特别行政区|市|[区區]|[县縣]|[镇鎮]|[乡鄉]|街道|新区|开发区|州|盟|旗")
BEFORE_MAX = 40


def find_addresses(text: str, low: str, shape: bytes) -> Iterator[Finding]:
    """The postal addresses in a text, which comes in small letters, too, and of which `shape` is the outline."""
    done = 0
    for last in _HOUSE_NUMBER_END.finditer(shape):
        before = last.start()
        for number in _NUMBERS.finditer(shape, max(done, before - HOUSE_NUMBER_MAX), before + 1):
            start = number.start()
            if start >= done and _ENGLISH_BEGIN.match(text, start):
                found = _english(text, start)
                if found is not None:
                    done = found.end
                    yield found
    if b"1" in shape and "ox " in low:
        for match in _BOX.finditer(text):
            yield Finding(Kind.ADDRESS, match.start(), match.end())
    if not text.isascii():
        yield from _find_chinese(text)


def _english(text: str, start: int) -> Finding | None:
    if start and text[start - 1] in _NOT_BEFORE:
        return None
    match = _ENGLISH.match(text, start)
    if match is None or _NOT_STREETS.match(match[0]) or _YEAR_AND_COMMA.match(match[0]):
        return None
    before = text[max(0, start - BEFORE_MAX) : start]
    if _YEAR_AND_STREET.match(match[0]) and _AFTER_IN.search(before):
        return None
    unit = _UNIT_BEFORE.search(before)
    size = len(match[0].rstrip("., "))
    return Finding(Kind.ADDRESS, start if unit is None else start - len(before) + unit.start(), start + size)


def _find_chinese(text: str) -> Iterator[Finding]:
    at = 0
    while match := _CHINESE_CORE.search(text, at):
        start = _begin(text, match.start(), at)
        more = _CHINESE_MORE.match(text, match.end())
        end = match.end() if more is None else more.end()
        at = match.end()
        # A street has a name: at least two characters beside the word for street.
        if match.start() - start >= 1 and _is_place(text[start : match.start()], match[0]):
            yield Finding(Kind.ADDRESS, start, end)
            at = end


def _begin(text: str, core: int, least: int) -> int:
    """Where the address begins whose street's word stands at `core`: at a division's name, or after a cue."""
    before = text[max(least, core - BEFORE_MAX) : core]
    run = _CHINESE_BEFORE.search(before)
    start = core - len(before) + (run.start() if run else len(before))
    head = text[start:core]
    named = _DIVISION.search(head)
    if named:
        return start + named.start()
    cut = 0
    for cue in _CUE.finditer(head):
        if cue.end() < len(head):
            cut = cue.end()
    first = start + cut
    while first < core and text[first] in " （）()·":
        first += 1
    return first


def _is_place(name: str, core: str) -> bool:
    """Whether what stands before a core names a place, and isn't the rest of a sentence."""
    if _UNIT_END.search(name) or _DIVISION.search(name):
        return True
    han = sum("\u4e00" <= each <= "\u9fff" for each in name)
    return 1 <= han <= 12 and bool(re.search(r"[号號弄栋棟幢座室户戶]|\d[-–]\d", core))
