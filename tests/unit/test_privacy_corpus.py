"""What is found in a corpus of texts with known truth, and what isn't: recall and precision, kind by kind.

The texts are in `tests/data/privacy`, each with what is personal in it marked; a finding counts only where kind,
beginning and end are right.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from faucet.privacy.find import find
from faucet.privacy.finding import Finding, Kind
from faucet.privacy.phones import REGIONS

FOLDER = Path(__file__).resolve().parents[1] / "data" / "privacy"
MARK = re.compile(r"⟦([a-z_]+):(.*?)⟧")
IDENTIFIERS = (Kind.EMAIL, Kind.PHONE, Kind.CN_ID, Kind.US_SSN, Kind.IBAN, Kind.CARD, Kind.SECRET)


def unmarked(line: str) -> tuple[str, list[Finding]]:
    """A text of the corpus without its marks, and the truth that they told."""
    marked = line.replace("⏎", "\n").replace("‸", "")
    text, truth, at = "", [], 0
    for mark in re.finditer(MARK.pattern, marked, re.DOTALL):
        text += marked[at : mark.start()]
        truth.append(Finding(Kind(mark[1]), len(text), len(text) + len(mark[2])))
        text += mark[2]
        at = mark.end()
    return text + marked[at:], truth


def corpus() -> list[tuple[str, list[Finding]]]:
    """Every text with its truth."""
    lines = [line for path in sorted(FOLDER.glob("*.txt")) for line in path.read_text(encoding="utf-8").splitlines()]
    return [unmarked(line.partition(" | ")[2]) for line in lines if line and not line.startswith("#")]


def test_recall_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a hundred identifiers at least 98 are found, and of a hundred findings at least 97 are right."""
    texts = corpus()
    true, found, right = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    wrong = []
    for text, truth in texts:
        findings = find(text)
        true.update(one.kind for one in truth)
        found.update(one.kind for one in findings)
        right.update(one.kind for one in findings if one in truth)
        if set(findings) != set(truth):
            shown = [(one.kind.value, text[one.start : one.end]) for one in findings]
            wrong.append(f"{text!r} gave {shown}")
    with capsys.disabled():
        print(f"\n{len(texts)} texts, {sum(not truth for _, truth in texts)} of them with nothing personal")
        for kind in Kind:
            if true[kind]:
                recall, precision = right[kind] / true[kind], right[kind] / max(1, found[kind])
                print(f"{kind.value:>8}  of {true[kind]:3}  recall {recall:.3f}  precision {precision:.3f}")
        print(*wrong, sep="\n")
    assert len(texts) >= 300
    for kind in IDENTIFIERS:
        assert true[kind] >= 10 and right[kind] >= 0.98 * true[kind], kind
    assert sum(right[kind] for kind in IDENTIFIERS) >= 0.97 * sum(found[kind] for kind in IDENTIFIERS)
    assert right[Kind.ADDRESS] >= 0.9 * true[Kind.ADDRESS] and right[Kind.ADDRESS] >= 0.9 * found[Kind.ADDRESS]


def test_phones_of_every_region() -> None:
    """A number with its country's code is found wherever it is from; without it, where a word says that it is one."""
    formats = (PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.E164, PhoneNumberFormat.RFC3966)
    missed, asked = [], 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
            number = phonenumbers.example_number_for_type(region, kind)
            if number is None:
                continue
            written = [phonenumbers.format_number(number, each).removeprefix("tel:") for each in formats]
            texts = [(f"Is {each}, they said, hers?", each) for each in written] + [(f"打{written[0]}吧", written[0])]
            if region in (*REGIONS, "CN"):
                national = phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)
                texts.append((f"My phone: {national}.", national))
            for text, each in texts:
                asked += 1
                if each not in [text[one.start : one.end] for one in find(text) if one.kind is Kind.PHONE]:
                    missed.append((region, text))
    assert asked > 1900
    assert len(missed) <= asked * 0.01, missed
