"""What is personal in a text: the places of e-mail addresses, numbers, secrets, postal addresses and declared values.

Pure, and bounded in time: candidates are found by plain searches and simple patterns first; only they are judged.
Names of persons are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from faucet.privacy.addresses import find_addresses
from faucet.privacy.credentials import find_secrets
from faucet.privacy.finding import Finding, Kind
from faucet.privacy.numbers import Run, find_cards, find_cn_ids, find_ibans, find_us_ssns, outline, runs_of
from faucet.privacy.phones import REGIONS, find_phones, is_no_number

_NOTHING: Mapping[str, Kind] = {}
ANYWHERE_CHARACTERS_MIN = 8
"""A declared value this long is itself also within a longer word."""

_PRIORITY = {kind: place for place, kind in enumerate(Kind)}
"""Of two findings that overlap, the one of the earlier kind is kept whole."""

_WIDE = {0xFF01 + place: 0x21 + place for place in range(94)} | {0x3000: 0x20}
_HAS_WIDE = re.compile("[\uff0b\uff0d\uff0e\uff10-\uff19\uff20-\uff3a\uff41-\uff5a]")
_LOWER = {each: each + 32 for each in range(65, 91)}
_ESCAPE = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|[nrtbf\"\\/])")

_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}$")
_LOCAL_END = re.compile(r"[A-Za-z0-9_+-]")
_WIDE_LOCAL = re.compile(r"[^\W_](?:[\w.+-]{0,62}[^\W_])?$")
_LOCAL_CUE = re.compile(
    r"(?:(?:邮箱|邮件|电邮|信箱|地址|账号|用户名|发送|联系|写信|发信|抄送)+(?:是|为|给|到|至|于)?|[是为给到至于])|[，。；、：]"
)
_LABEL = (
    r"(?:[A-Za-z0-9\u00c0-\u024f](?:[A-Za-z0-9\u00c0-\u024f-]{0,61}[A-Za-z0-9\u00c0-\u024f])?"
    r"|[\u0370-\u052f0-9-]{1,63}|[\u0590-\u06ff0-9-]{1,63}|[\u0900-\u0e7f0-9-]{1,63}"
    r"|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af0-9-]{1,63})"
)
_TOP = (
    r"(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z\u00c0-\u024f]{2,24}|[\u0370-\u052f]{2,24}|[\u0590-\u06ff]{2,24}"
    r"|[\u0900-\u0e7f]{2,24}"
    r"|中国|中國|公司|网络|網絡|网址|网店|网站|商城|商店|商标|在线|中文网|集团|我爱你|餐厅|测试|例子|企业|信息|移动|手机|香港|台湾|台灣"
    r"|新加坡|政务|公益|时尚|世界|健康|购物|娱乐|游戏|コム|みんな|テスト|例え|닷컴|한국|테스트|실례)"
)
_DOMAIN = re.compile(_LABEL + r"(?:\." + _LABEL + r"){0,8}?\." + _TOP + r"(?![A-Za-z0-9_(]|-[A-Za-z0-9]|\.[A-Za-z0-9])")
_FROM_WORD_TO_WORD = re.compile(r"\w(?:.*\w)?", re.DOTALL)
_FILES = re.compile(
    r"\.(?:png|jpe?g|gif|webp|svg|ico|css|js|mjs|ts|tsx|py|json|html?|md|txt|pdf|zip|gz)$", re.IGNORECASE
)


def find(text: str, known: Mapping[str, Kind] = _NOTHING, regions: Sequence[str] = REGIONS) -> list[Finding]:
    """Everything personal in a text, in order and without overlaps.

    `known` are values that are personal wherever they stand, each with its kind; `regions` are those whose phone
    numbers are recognised without their country's code.
    """
    found = list(_find_known(text, known)) if known else []
    seen = text
    if not text.isascii() and _HAS_WIDE.search(text):
        seen = text.translate(_WIDE)
    if "\\" in seen:
        # The end of an escape (`\n`) isn't part of the word after it.
        seen = _ESCAPE.sub(lambda match: " " * len(match[0]), seen)
    low = seen.lower()
    if len(low) != len(seen):  # a few letters become two
        low = seen.translate(_LOWER)
    found += find_secrets(seen, low)
    if "@" in seen:
        found += _find_emails(seen)
    shape = outline(seen)
    if b"1" in shape:
        found += _find_numbers(seen, shape, regions)
    found += find_addresses(seen, low, shape)
    return _without_overlaps(found, text) if len(found) > 1 else found


def _find_known(text: str, known: Mapping[str, Kind]) -> Iterator[Finding]:
    """Known values as whole words, where they begin and end like one; long declared ones within words, too."""
    for value, kind in known.items():
        if not value.strip():
            continue
        anywhere = kind is Kind.SENSITIVE and len(value) >= ANYWHERE_CHARACTERS_MIN
        at = text.find(value)
        while at >= 0:
            end = at + len(value)
            if anywhere or not (_joins(text, at) or _joins(text, end)):
                yield Finding(kind, at, end)
            at = text.find(value, at + 1)


def _joins(text: str, place: int) -> bool:
    """Whether the characters on both sides of a place belong to one word or number."""
    if not 0 < place < len(text):
        return False
    left, right = text[place - 1], text[place]
    return left.isascii() and right.isascii() and left.isalnum() and right.isalnum()


def _find_emails(text: str) -> Iterator[Finding]:
    at = text.find("@")
    least = 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        start = _local_start(text, at, least) if domain else at
        if domain and start < at and not _is_no_email(text, start, at, domain):
            yield Finding(Kind.EMAIL, start, domain.end())
            least = domain.end()
        at = text.find("@", at + 1)


def _local_start(text: str, at: int, least: int) -> int:
    """Where the local part before an `@` begins; `at` where there is none."""
    before = text[max(least, at - 64) : at]
    if not before:
        return at
    match = _LOCAL.search(before)
    if match and _LOCAL_END.match(before[-1]):
        # What belongs to the sentence or the markup around the address, not to it.
        local = match[0].lstrip("!#$%&'*/=?^`{|}~.-")
        local = local[local.rfind("=") + 1 :]
        joined = before[: len(before) - len(local)]
        if joined[-1:].isalpha() and not "\u3040" <= joined[-1] <= "\u9fff":
            wide = _WIDE_LOCAL.search(before)  # a Latin letter with an accent, or another alphabet
            return at - len(wide[0]) if wide else at - len(local)
        return at - len(local)
    wide = _WIDE_LOCAL.search(before)
    if wide is None:
        return at
    start = wide.start()
    for cue in _LOCAL_CUE.finditer(before, start):
        if cue.end() < len(before):
            start = cue.end()
    return at - (len(before) - start)


def _is_no_email(text: str, start: int, at: int, domain: re.Match[str]) -> bool:
    """Addresses of machines and names of files that merely look like mail."""
    if _FILES.search(domain[0]) or text.startswith(("//", ":"), domain.end()) and text[start:at] == "git":
        return True
    return text[start:at] in ("this", "super", "git") and text[domain.end() : domain.end() + 1] in (":", "/", "#", "(")


def _find_numbers(text: str, shape: bytes, regions: Sequence[str]) -> Iterator[Finding]:
    for start, end, count in runs_of(shape):
        plain = count == end - start
        if not plain and is_no_number(text, start, end):
            continue
        run = Run(start, end, count)
        if count in (15, 17, 18) or count > 15 and not plain:
            yield from find_cn_ids(text, run)
        if count >= 13:
            cards = list(find_cards(text, run))
            yield from cards
            if cards and cards[0].start == start and cards[0].end == end:
                continue  # what else it could be is less telling
        if count == 9 or count > 9 and not plain:
            yield from find_us_ssns(text, run)
        yield from find_phones(text, run, regions)
    yield from find_ibans(text, shape)


def _without_overlaps(found: list[Finding], text: str) -> list[Finding]:
    """Of findings that overlap, the one of the more telling kind, then the longest; and what is left of the others."""
    found.sort(key=lambda finding: finding.start)
    kept: list[Finding] = []
    cluster: list[Finding] = []
    end = 0
    for finding in found:
        if cluster and finding.start >= end:
            kept += _best(cluster, text)
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end)
    return kept + _best(cluster, text)


def _best(cluster: list[Finding], text: str) -> list[Finding]:
    if len(cluster) == 1:
        return cluster
    cluster.sort(key=lambda finding: (_PRIORITY[finding.kind], finding.start - finding.end, finding.start))
    kept: list[Finding] = []
    for finding in cluster:
        kept = sorted([*kept, *_rests(finding, kept, text)], key=lambda each: each.start)
    return kept


def _rests(finding: Finding, kept: Sequence[Finding], text: str) -> Iterator[Finding]:
    """The finding where nothing covers it; else what is left of it, without the marks at its ends, but for e-mail
    addresses: a password before their @ leaves a host. `kept` are in order."""
    start = finding.start
    for other in kept:
        if other.end > start and other.start < finding.end:
            yield from _words(finding.kind, text, start, other.start)
            start = other.end
    if start == finding.start:
        yield finding
    else:
        yield from _words(finding.kind, text, start, finding.end)


def _words(kind: Kind, text: str, start: int, end: int) -> Iterator[Finding]:
    match = _FROM_WORD_TO_WORD.search(text, start, end) if start < end else None
    if match is not None and kind is not Kind.EMAIL:
        yield Finding(kind, match.start(), match.end())
