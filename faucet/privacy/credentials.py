"""Secrets by their shape: keys of known services, tokens, private keys, passwords in addresses, and what is assigned to
a name that says so.

A long random string alone is none: commits, checksums and ids look the same, and taking them out would harm more
answers than it protects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import log2

from faucet.privacy.finding import Finding, Kind

SECRET_CHARACTERS_MIN = 16
ENTROPY_BITS_MIN = 3.0
"""Per character. Words and repeated patterns have less; sixteen random hexadecimal digits have more."""

_ALONE = r"(?<![A-Za-z0-9_-])"
_SHAPES: dict[str, str] = {
    # what a text must contain before the pattern is tried: the pattern
    "sk-": r"sk-[A-Za-z0-9][A-Za-z0-9_-]{18,}",
    "sk_": r"sk_(?:live|test)_[A-Za-z0-9]{14,}",
    "rk_": r"rk_(?:live|test)_[A-Za-z0-9]{14,}",
    "whsec_": r"whsec_[A-Za-z0-9+/=]{16,}",
    "AKIA": r"AKIA[0-9A-Z]{16}(?![0-9A-Za-z])",
    "ASIA": r"ASIA[0-9A-Z]{16}(?![0-9A-Za-z])",
    "AKID": r"AKID[0-9A-Za-z]{24,40}",
    "LTAI": r"LTAI[0-9A-Za-z]{12,28}",
    "gh": r"gh[pousr]_[A-Za-z0-9]{30,255}",
    "github_pat_": r"github_pat_[A-Za-z0-9_]{30,255}",
    "glpat-": r"glpat-[A-Za-z0-9_-]{18,}",
    "xox": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "xapp-": r"xapp-\d-[A-Za-z0-9-]{10,}",
    "AIza": r"AIza[A-Za-z0-9_-]{30,}",
    "ya29.": r"ya29\.[A-Za-z0-9_-]{20,}",
    "GOCSPX-": r"GOCSPX-[A-Za-z0-9_-]{20,}",
    "SG.": r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "npm_": r"npm_[A-Za-z0-9]{30,}",
    "pypi-": r"pypi-[A-Za-z0-9_-]{40,}",
    "hf_": r"hf_[A-Za-z0-9]{30,}",
    "gsk_": r"gsk_[A-Za-z0-9]{30,}",
    "xai-": r"xai-[A-Za-z0-9]{30,}",
    "pplx-": r"pplx-[A-Za-z0-9]{30,}",
    "r8_": r"r8_[A-Za-z0-9]{30,}",
    "dop_v1_": r"dop_v1_[a-f0-9]{40,}",
    "shpat_": r"shpat_[A-Fa-f0-9]{30,}",
    "mf_": r"mf_(?:sess|dev)_[A-Za-z0-9_-]{20,}",
    "AGE-": r"AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    "eyJ": r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
}
_SHAPED = {hint: re.compile(_ALONE + shape) for hint, shape in _SHAPES.items()}

_PEM = re.compile(
    r"-----BEGIN ((?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:[A-Za-z0-9+/=\s:,.()\\-]{0,10000}?-----END \1-----|(?:\s{1,4}[A-Za-z0-9+/=]{16,128}){1,400}|)"
)
"""A private key, or what is there of one that is cut short."""
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s:@\"'<>]{0,128}:([^/\s@\"'<>]{1,256})(?=@[^\s@/])")
_SLACK_HOOK = re.compile(r"(?<=hooks\.slack\.com/services/)T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{16,}")
_COMMAND = re.compile(r"(?<= -u )[\"']?[A-Za-z0-9_.@-]{1,64}:([^\s\"']{4,256})")
_AUTHORIZATION = re.compile(r"(?i:\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/-]{16,}={0,2})")

_NAMES = ("pass", "pwd", "secret", "token", "key", "credential", "密码", "口令", "密钥", "令牌")
_ASSIGNED = re.compile(
    r"(?i)(?<![A-Za-z])[A-Za-z0-9_.-]{0,40}?"
    r"(password|passwd|passphrase|passwort|passcode|pwd|(?<![A-Za-z])pass(?=[\"']?\s{0,2}[:=])|secret|token|api[_-]?key"
    r"|access[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key|auth[_-]?key|account[_-]?key|secret[_-]?key"
    r"|credentials?|密码|口令|密钥|令牌)"
    r"(?:[_-]?(?:id|key|value|hash|base64|b64))?[\"'`]?\s{0,3}"
    r"(?:\s(?:for|of|to|on)(?:\s[\w'-]{1,20}){1,5}?\s?)?"
    r"(?:(?::=|=>|==?|[:：])|\bis(?:\s+now)?\b|\bwas\b|(?:已|应)?(?:改|设|换|还|就|重置|修改)?(?:是|为|成)了?)\s{0,3}[\"'“‘`]?"
    r"([^\s\"'`“”‘’，。；、]{6,512})"
)
_WORD_LIKE = re.compile(r"[A-Za-z]+(?:[-_.][A-Za-z]+)*[.,;:!?)]*")
_REFERENCE = re.compile(
    r"^(?:[$%]|\{\{|<|\[|\*{3}|x{3,}|\.{3}|…|os\.|process\.|env|self\.|this\.|config|settings|request|https?://|/|null|none"
    r"|true|false|undefined|your|my-?|example|changeme|redacted|pass(?:word|wd)?$|sha\d|[\w.]+[(\[])",
    re.IGNORECASE,
)
_PASSWORDS = ("pass", "pwd", "密码", "口令")


def find_secrets(text: str, low: str) -> Iterator[Finding]:
    """The secrets in a text, which comes in small letters, too. Overlapping ones are the caller's to sort out."""
    long_words = _long_words(text)
    if long_words:
        yield from _find_shaped(text, low, long_words)
    has_hyphens = "-" in text
    if has_hyphens and "-----BEGIN" in text:
        for match in _PEM.finditer(text):
            yield Finding(Kind.SECRET, match.start(), match.end())
    if "@" in text and "://" in text:
        for match in _URL_PASSWORD.finditer(text):
            if not _REFERENCE.match(match[1]):
                yield Finding(Kind.SECRET, match.start(1), match.end(1))
    if has_hyphens and " -u " in text:
        for match in _COMMAND.finditer(text):
            yield Finding(Kind.SECRET, match.start(1), match.end(1))
    yield from _find_assigned(text, low)


def _long_words(text: str) -> str:
    """What is long enough for a secret: in most texts nothing, and that is quickly seen."""
    words = text.encode("latin-1", "replace").translate(_WORDS)
    found = []
    start = words.find(_LONG)
    while start >= 0:
        end = words.find(b" ", start)
        end = len(words) if end < 0 else end
        found.append(text[start:end])
        start = words.find(_LONG, end)
    return "\n".join(found)


def _find_shaped(text: str, low: str, long_words: str) -> Iterator[Finding]:
    for hint, shape in _SHAPED.items():
        if hint in long_words:
            for match in shape.finditer(text):
                if _is_random(match[0][len(hint) :]):
                    yield Finding(Kind.SECRET, match.start(), match.end())
    if "hooks.slack.com" in long_words:
        for match in _SLACK_HOOK.finditer(text):
            yield Finding(Kind.SECRET, match.start(), match.end())
    if "bearer" in low or "basic" in low:
        for match in _AUTHORIZATION.finditer(text):
            if _is_random(match[1]):
                yield Finding(Kind.SECRET, match.start(1), match.end(1))


def _find_assigned(text: str, low: str) -> Iterator[Finding]:
    places = sorted({at for name in _NAMES for at in _all(low, name)})
    done = run_end = 0
    for place, following in zip(places, [*places[1:], len(text)], strict=False):
        run = _NAME_RUN.match(text, place) if place >= run_end else None
        run_end = run.end() if run else run_end
        if following < run_end or place < done:
            continue  # of several such words in one name, the last stands before its value
        assigned = _ASSIGNED.match(text, _name_start(text, place))
        if assigned is None:
            continue
        value = assigned[2].rstrip(".,;:!?)]}>\\")
        if _is_secret_value(value, assigned[1].lower()):
            done = assigned.start(2) + len(value)
            yield Finding(Kind.SECRET, assigned.start(2), done)


def _all(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _name_start(text: str, place: int) -> int:
    start = place
    while start > 0 and place - start < 40 and (text[start - 1].isascii() and text[start - 1] in _NAME_CHARACTERS):
        start -= 1
    return start


_WORDS = bytes(
    b"x"[0] if chr(each).isascii() and (chr(each).isalnum() or chr(each) in "_.~+/=-") else b" "[0]
    for each in range(256)
)
_LONG = b"x" * 15
"""The shortest thing of the shapes above, of the characters that they are made of."""
_NAME_RUN = re.compile(r"[A-Za-z0-9_.-]*")
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def _is_secret_value(value: str, name: str) -> bool:
    """Whether what is assigned is a secret, and not a word, a reference to one, or an example's stand-in."""
    if len(value) < 6 or _REFERENCE.match(value) or _WORD_LIKE.fullmatch(value):
        return False
    if "(" in value or "\u4e00" <= value[0] <= "\u9fff" or value.isdigit() and not name.startswith(_PASSWORDS):
        return False
    if name.startswith(_PASSWORDS):
        return len(set(value)) > 3 or value.isdigit()
    return len(value) >= SECRET_CHARACTERS_MIN and _is_random(value)


def _is_random(value: str) -> bool:
    """Whether the characters could be drawn by chance: digits and letters, and hardly a repetition."""
    size = len(value)
    if size < 8:
        return False
    has_digit = any(each.isdigit() for each in value)
    has_letter = any(each.isalpha() for each in value)
    if not (has_digit and has_letter) and not (has_letter and value != value.lower() and value != value.upper()):
        return False
    bits = -sum(n / size * log2(n / size) for n in Counter(value).values())
    return bits >= ENTROPY_BITS_MIN
