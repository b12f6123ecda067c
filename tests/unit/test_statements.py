"""A statement's file proves itself, and nothing else passes for it; the usage behind it is proved line by line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.closing.document import PREFIX, NotProved, Signed, Signer, canonical, read_file
from faucet.closing.month import Month, month_of, parse_month
from faucet.closing.usage_proof import HEADER, Day, UsageDiffers, check_usage, earned_of
from faucet.closing.verify import prove, prove_usage
from faucet.kit.money import from_wire
from faucet.kit.spreadsheet import line, text_cell

SIGNER = Signer(b"\x01" * 32)
Json = dict[str, Any]


def usage_line(number: int, *, day: int | None = None, cents: int = 5, mode: str = "platform") -> str:
    """The line of an answer; three a day."""
    at = f"2026-10-{number // 3 + 1 if day is None else day:02d}T12:00:00.{number:03d}Z"
    amounts = ("0.00000100", f"0.{cents:08d}", "0.00000040", "0.00000060")
    return line((at, f"req_{number:04d}", "app_a", "reply", mode, "openai", "gpt-4.1", "10", "20", *amounts))


LINES = [usage_line(number, mode="developer_key" if number == 4 else "platform") for number in range(12)]


def statement(lines: list[str], *, previous: Signed | None = None, month: str = "2026-10", **more: Any) -> Signed:
    """A developer's statement of these lines."""
    days: dict[str, Day] = {}
    total = 0
    for each in lines:
        cells = each.strip().split(",")
        earned = earned_of(cells[4], from_wire(cells[9]), from_wire(cells[11]))
        days.setdefault(each[:10], Day()).add(each.encode(), earned)
        total += earned
    opening = 0 if previous is None else from_wire(previous.says["closing_usd"])
    says: Json = {
        "version": 1, "kind": "developer", "period": month, "currency": "USD",
        "developer_id": "01890000-0000-7000-8000-000000000000", "developer_name": "客户有限公司",
        "opening_usd": f"0.{opening:08d}", "earned_usd": f"0.{total:08d}", "adjusted_usd": "-0.00000007",
        "paid_usd": "0.00000000", "closing_usd": f"0.{opening + total - 7:08d}", "in_payout_usd": "0.00000000",
        "apps": [{"public_app_id": "app_a", "calls": len(lines), "earned_usd": f"0.{total:08d}"}],
        "days": [day.as_json(at) for at, day in sorted(days.items())], "closed_at": "2026-11-04T00:00:00.000Z",
    }  # fmt: skip
    if previous is not None:
        says["previous_sha256"] = previous.hash.hex()
    return SIGNER.sign(says | more)


SIGNED = statement(LINES)


def test_a_statement_proves_itself() -> None:
    """Lost: what is genuine is refused."""
    (proved,) = prove([SIGNED.file], trusted=frozenset({SIGNER.public_key}))
    assert (proved.kind, proved.period, proved.closing_usd) == ("developer", "2026-10", SIGNED.says["closing_usd"])
    assert prove_usage(SIGNED.file, [HEADER + "\n", *LINES]) == len(LINES)


def test_one_other_character_anywhere_is_refused() -> None:
    """Lost: a statement can be altered, if only at the right place."""
    text = SIGNED.file.decode()
    accepted = []
    for place, letter in enumerate(text):
        others = {"x", "0" if letter != "0" else "1", letter.swapcase(), "", " ", letter * 2} - {letter}
        for other in others:
            altered = (text[:place] + other + text[place + 1 :]).encode()
            try:
                read_file(altered)
            except NotProved as error:
                assert str(error)
            else:
                accepted.append((place, letter, other))
    assert accepted == []


@given(st.integers(0, len(SIGNED.file) - 1), st.integers(0, 255))
@settings(max_examples=500)
def test_one_other_byte_anywhere_is_refused(place: int, byte: int) -> None:
    """Lost: bytes that are no text pass."""
    altered = bytearray(SIGNED.file)
    if altered[place] != byte:
        altered[place] = byte
        with pytest.raises(NotProved):
            read_file(bytes(altered))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_what_is_no_statement_is_refused_in_words(content: bytes) -> None:
    """Lost: a file that isn't one ends in a fault of ours."""
    with pytest.raises(NotProved):
        read_file(content)


def test_another_signer_is_not_trusted() -> None:
    """Lost: anybody's statement passes."""
    forged = Signer(b"\x02" * 32).sign(SIGNED.says)
    assert read_file(forged.file).says == SIGNED.says
    with pytest.raises(NotProved, match="not the one that you trust"):
        prove([forged.file], trusted=frozenset({SIGNER.public_key}))


def test_a_signature_is_for_statements_only() -> None:
    """Lost: a signature over something else passes as a statement's."""
    assert PREFIX not in SIGNED.body.encode()
    with pytest.raises(NotProved, match="signature"):
        read_file(Signed(SIGNED.body, SIGNED.hash, Signer(b"\x03" * 32).sign({}).signature, SIGNER.public_key).file)


def test_a_statement_that_does_not_add_up_is_refused() -> None:
    """Lost: a figure that was wrong from the start looks proved."""
    with pytest.raises(NotProved, match="does not add up"):
        prove([statement(LINES, closing_usd="0.00000001").file], trusted=None)
    with pytest.raises(NotProved, match="days earned"):
        prove([statement(LINES, earned_usd="0.00000001", closing_usd="-0.00000006").file], trusted=None)


@pytest.mark.parametrize("missing", sorted(set(SIGNED.says) - {"developer_name", "in_payout_usd", "apps", "closed_at"}))
def test_what_lacks_a_part_is_refused_in_words(missing: str) -> None:
    """Lost: a file that anybody signed is a fault of the program instead of a no."""
    says = {name: value for name, value in SIGNED.says.items() if name != missing}
    with pytest.raises(NotProved):
        prove([SIGNER.sign(says).file], trusted=None)


@pytest.mark.parametrize(
    "odd",
    [
        {"version": 2}, {"version": True}, {"kind": ["developer"]}, {"period": "2026-13"}, {"period": 7},
        {"currency": "EUR"},
        {"days": {}}, {"days": [{}]}, {"days": [7]}, {"days": [{"day": "2026-10-01", "earned_usd": "0.00000064"}]},
        {"developer_id": {"a": 1}}, {"closing_usd": None}, {"paid_usd": 0}, {"previous_sha256": 7},
        *({"paid_usd": zero} for zero in ("0", "0.0", "-0.00000000", "00.00000000", " 0.00000000", "0.00000000\n")),
        *({"paid_usd": zero} for zero in ("0e0", "0_0.00000000", "+0.00000000", "٠.00000000", "0.000000000")),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_written_otherwise_is_refused_in_words(odd: Json) -> None:
    """Lost: an amount or month that two readers read as two."""
    signed = SIGNER.sign(SIGNED.says | odd)
    with pytest.raises(NotProved):
        prove([signed.file], trusted=None)
    with pytest.raises(NotProved):
        prove_usage(signed.file, [HEADER + "\n", *LINES])


def test_a_chain_goes_forward() -> None:
    """Lost: months in another order than they were."""
    for month in ("2026-09", "2026-10"):
        with pytest.raises(NotProved, match="statement 2: it is of 2026-.., which is not after 2026-10"):
            prove([SIGNED.file, statement([], previous=SIGNED, month=month).file], trusted=None)


def test_statements_are_a_chain() -> None:
    """Lost: a month is left out, or exchanged for another."""
    other = statement(LINES[:3])
    good = statement(
        [], previous=SIGNED, month="2026-11", adjusted_usd="0.00000000", closing_usd=SIGNED.says["closing_usd"]
    )
    assert len(prove([SIGNED.file, good.file], trusted=None)) == 2
    for chain in ([other.file, good.file], [good.file, SIGNED.file], [SIGNED.file, SIGNED.file]):
        with pytest.raises(NotProved, match="statement 2"):
            prove(chain, trusted=None)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_that_was_changed_is_named(number: int) -> None:
    """Lost: something is wrong, and nobody can say what."""
    changed = list(LINES)
    changed[number] = LINES[number].replace("gpt-4.1", "gpt-4.2")
    with pytest.raises(UsageDiffers) as error:
        prove_usage(SIGNED.file, [HEADER + "\n", *changed])
    assert error.value.faults == [f"line {number + 2} (2026-10-{number // 3 + 1:02d}) was changed"]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_that_is_missing_is_named(number: int) -> None:
    """Lost: an answer that the developer earned by is left out."""
    with pytest.raises(UsageDiffers) as error:
        prove_usage(SIGNED.file, [HEADER + "\n", *LINES[:number], *LINES[number + 1 :]])
    (fault,) = error.value.faults
    where = f"after line {number + 1}" if number % 3 else f"before line {number + 2}"
    assert "is missing" in fault and where in fault


@pytest.mark.parametrize("number", range(len(LINES)))
def test_a_line_that_was_added_is_named(number: int) -> None:
    """Lost: an answer that nobody gave."""
    added = usage_line(99, day=number // 3 + 1)
    with pytest.raises(UsageDiffers) as error:
        prove_usage(SIGNED.file, [HEADER + "\n", *LINES[:number], added, *LINES[number:]])
    assert error.value.faults == [f"line {number + 2} (2026-10-{number // 3 + 1:02d}) is not in the statement"]


def test_lines_that_are_no_csv_are_told() -> None:
    """Lost: a line that is too long for the reader hides what else is wrong."""
    with pytest.raises(UsageDiffers, match="line 14 can't be read"):
        prove_usage(SIGNED.file, [HEADER + "\n", *LINES, "x" * 200_000 + "\n"])


def test_other_faults_of_usage_are_told() -> None:
    """Lost: a file that is no export of the month passes, or ends in a fault of ours."""

    def faults(*lines: str) -> str:
        with pytest.raises(UsageDiffers) as error:
            prove_usage(SIGNED.file, lines)
        return str(error.value)

    head = HEADER + "\n"
    assert "line 1 is not the head" in faults("a,b\n")
    assert "another order" in faults(head, LINES[1], LINES[0], *LINES[2:])
    assert "not in 2026-10" in faults(head, *LINES, LINES[0].replace("2026-10", "2026-11"))
    assert "a day without usage" in faults(head, *LINES, usage_line(1, day=30))
    assert "line 14 has 1 columns" in faults(head, *LINES, "x\n")
    assert "no amounts" in faults(head, *LINES[:-1], LINES[-1].replace("0.00000040", "much"))
    assert "2026-10-01 differs: 3 lines" in faults(
        head, *(each.replace("gpt", "GPT") for each in LINES[:2]), *LINES[2:]
    )
    assert "2026-10-04 differs: 0 lines" in faults(head, *LINES[:9])


@given(
    st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), st.sampled_from(["change", "drop", "double"])
)
def test_whatever_is_done_to_usage_is_seen(places: list[int], what: str) -> None:
    """Lost: some alterations cancel each other out."""
    lines: list[str] = []
    for number, each in enumerate(LINES):
        copies = {"change": [each.replace("openai", "OpenAI")], "drop": [], "double": [each, each]}
        lines += copies[what] if number in places else [each]
    with pytest.raises(UsageDiffers):
        check_usage(SIGNED.says["days"], Month(2026, 10), [HEADER + "\n", *lines])


def test_months() -> None:
    """Lost: a month begins or ends elsewhere."""
    month = parse_month("2026-12")
    assert str(month.next) == "2027-01" and str(month) == "2026-12"
    assert (month.starts_at.isoformat(), month.ends_at.isoformat()) == (
        "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00",
    )  # fmt: skip
    assert month_of(month.first_day) == month < month.next
    for text in ("2026-13", "2026-1", "1999-01", "2026-01 ", "二〇二六"):
        with pytest.raises(ValueError):
            parse_month(text)


@given(st.text())
def test_no_cell_is_a_formula_or_breaks_its_line(text: str) -> None:
    """Lost: whoever opens an export runs what somebody else wrote into it."""
    cell = text_cell(text)
    assert not cell.lstrip('"').startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len((line((cell, "1"))).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("qwen;=cmd|'/C calc'!A0", "qwen;'=cmd|'/C calc'!A0"),
        ("a; @x;\t-1;b", "a; '@x; '-1;b"),
        ("  =1+1", "'  =1+1"),
        ("\x0b+1", "' +1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("mistral;7b", "mistral;7b"),
        ("gpt-4.1", "gpt-4.1"),
    ],
)
def test_what_another_separator_would_make_a_cell_is_no_formula(text: str, shown: str) -> None:
    """Lost: a spreadsheet that separates by semicolons runs what an end user's bridge reported as a model."""
    assert text_cell(text) == shown


def test_canonical_text_is_one() -> None:
    """Lost: the same statement has two hashes."""
    assert canonical({"b": 1, "a": "客"}) == '{"a":"客","b":1}'
    assert json.loads(canonical(SIGNED.says)) == SIGNED.says
