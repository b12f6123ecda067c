"""However an answer is cut on its way, the values come back as in one piece, and as they were."""

from __future__ import annotations

import copy
import json
from datetime import date
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from faucet.privacy.find import find
from faucet.privacy.numbers import is_cn_id, is_iban, luhn
from faucet.privacy.redact import Redactor
from faucet.privacy.restore import StreamRestorer

MAILS = ("anna@example.com", "bob@example.com")
SECRET = 'a"b\\c\nd-99'
PIECES = st.sampled_from(
    [
        *MAILS,
        SECRET,
        "13912345678",
        "[EMAIL_1]",
        "[EMAIL_2]",
        "[SENSITIVE_1]",
        "[PHONE_1]",
        "[EMAIL_",
        "[",
        "]",
        "[[",
        "_1]",
    ]
    + ["EMAIL", " ", "\n", "你好", "text ", "[EMAIL_12]", "[E", "1", "\\"]
)
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join)


def made_by(text: str) -> Redactor:
    """A redactor that has seen a request with this text."""
    redactor = Redactor((SECRET,))
    messages = [{"role": "user", "content": f"{MAILS[0]} {MAILS[1]} {SECRET} 13912345678 {text}"}]
    redactor.redact_chat({"messages": msgspec.Raw(msgspec.json.encode(messages))})
    return redactor


def cut(text: str, places: list[int]) -> list[str]:
    """A text in pieces."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(TEXTS)
def test_what_is_redacted_comes_back(text: str) -> None:
    """Lost: a client would read another text than the model repeated, or another's value in a forged placeholder."""
    redactor = Redactor((SECRET,))
    fields = {"messages": msgspec.Raw(msgspec.json.encode([{"role": "user", "content": text}]))}
    sent = msgspec.json.decode(redactor.redact_chat(fields)["messages"])[0]["content"]
    assert SECRET not in sent
    if text[:64].lstrip()[:1] not in ("{", "["):
        assert redactor.restore_text(sent) == text


@given(TEXTS, TEXTS, st.lists(st.integers(0, 500), max_size=30), st.booleans())
def test_every_cutting_restores_the_same(asked: str, answer: str, places: list[int], in_json: bool) -> None:
    """A placeholder that is cut anywhere is restored; what only begins like one isn't lost; the order stays."""
    redactor = made_by(asked)
    restorer = redactor.stream(in_json=in_json)
    pieces = cut(answer, places)
    streamed = "".join(restorer.feed(piece) for piece in pieces) + restorer.finish()
    whole = redactor.stream(in_json=in_json)
    assert streamed == whole.feed(answer) + whole.finish()
    if not in_json:
        assert streamed == redactor.restore_text(answer)


@given(TEXTS, st.lists(st.integers(0, 500), max_size=30))
def test_nothing_is_held_back_without_need(answer: str, places: list[int]) -> None:
    """A text leaves at once but for what could be a placeholder's beginning: shorter than the longest of them."""
    redactor = made_by("")
    restorer = redactor.stream()
    names = ("[EMAIL_1]", "[EMAIL_2]", "[SENSITIVE_1]", "[PHONE_1]")
    came = out = ""
    for piece in cut(answer, places):
        came += piece
        out += restorer.feed(piece)
        whole = redactor.restore_text(came)
        assert whole.startswith(out)
        held = whole[len(out) :]
        assert held == "" or any(name.startswith(held) and name != held for name in names)


Cuts = st.lists(st.integers(0, 300), max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, Cuts, Cuts), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_choices_and_parts_are_told_apart(choices: list[Any], random: Any) -> None:
    """Content and arguments of several choices, their chunks mixed as they like: each is as its whole would be."""
    redactor = made_by("")
    restorer = redactor.chat_restorer()
    events = []
    for index, (text, argument, text_cuts, argument_cuts) in enumerate(choices):
        mine = [{"content": piece} for piece in cut(text, text_cuts)]
        arguments = json.dumps({"x": argument}, ensure_ascii=False)
        calls: list[dict[str, Any]] = [
            {"tool_calls": [{"index": 1, "function": {"arguments": piece}}]} for piece in cut(arguments, argument_cuts)
        ]
        mine += calls
        random.shuffle(places := [0] * (len(mine) - len(calls)) + [1] * len(calls))
        rows = [iter(mine[: len(mine) - len(calls)]), iter(calls)]
        deltas = [next(rows[row]) for row in places]
        events.append([{"index": index, "delta": delta, "finish_reason": None} for delta in deltas])
        events[-1].append({"index": index, "delta": {}, "finish_reason": "stop"})
    contents, arguments_of = [""] * len(choices), [""] * len(choices)
    while any(events):
        index = random.choice([place for place, row in enumerate(events) if row])
        chunk = [copy.deepcopy(events[index].pop(0))]
        restorer.chunk(chunk)
        delta = chunk[0]["delta"]
        contents[index] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            assert call["index"] == 1
            arguments_of[index] += call["function"]["arguments"]
    assert restorer.rest() == []
    for index, (text, argument, _, _) in enumerate(choices):
        assert contents[index] == redactor.restore_text(text)
        assert json.loads(arguments_of[index]) == {"x": redactor.restore_text(argument)}


GAPS = st.sampled_from(["", " ", "-"])
DIGITS = st.text("0123456789", min_size=20, max_size=20)
AROUND = st.sampled_from(
    [
        "{}",
        "({})",
        '"{}"',
        "号码是{}，谢谢",
        "x: {}.",
        "\n{}\n",
        '{{"k":"{}"}}',
        "k={}&b=1",
        "<b>{}</b>",
        "| {} |",
        "`{}`",
    ]
    + ["see {}, please", "【{}】", "'{}';", "为{}的", "[{}]", "{}\t7", "{}\\n", "¿{}?", "—{}—", "*{}*", "a,{},b"]
)


def with_luhn(digits: str) -> str:
    """Digits with a check digit at their end."""
    return next(digits + each for each in "0123456789" if luhn(digits + each))


def grouped(digits: str, gap: str) -> str:
    """Digits four by four."""
    return gap.join(digits[at : at + 4] for at in range(0, len(digits), 4))


def card(digits: str, prefix: str, gap: str) -> str:
    """A card's number with an issuer's first digits."""
    return grouped(with_luhn(prefix + digits[: 15 - len(prefix)]), gap)


def cn_id(digits: str, region: str, birth: date) -> str:
    """A resident identity number."""
    begin = region + digits[:4] + f"{birth:%Y%m%d}" + digits[4:7]
    return next(begin + each for each in "0123456789X" if is_cn_id(begin + each))


def iban(digits: str, country: str, size: int, gap: str) -> str:
    """An account number with its two check digits."""
    account = digits[: size - 4]
    check = next(f"{n:02}" for n in range(2, 99) if is_iban(f"{country}{n:02}{account}"))
    return grouped(country + check + account, gap)


IDENTIFIERS = st.one_of(
    st.tuples(
        st.just("card"),
        st.builds(card, DIGITS, st.sampled_from(["4", "51", "55", "2221", "6011", "65", "62", "3530"]), GAPS),
    ),
    st.tuples(
        st.just("cn_id"),
        st.builds(
            cn_id, DIGITS, st.sampled_from(["11", "31", "44", "51", "65"]), st.dates(date(1930, 1, 1), date(2025, 1, 1))
        ),
    ),
    st.tuples(st.just("iban"), st.builds(iban, DIGITS, st.just("DE"), st.just(22), st.sampled_from(["", " "]))),
    st.tuples(st.just("iban"), st.builds(iban, DIGITS, st.just("BE"), st.just(16), st.sampled_from(["", " "]))),
    st.tuples(st.just("phone"), st.builds(lambda digits: "13" + digits[:9], DIGITS)),
    st.tuples(st.just("phone"), st.builds(lambda digits, gap: f"+1{gap}202{gap}555{gap}01{digits[:2]}", DIGITS, GAPS)),
    st.tuples(st.just("us_ssn"), st.builds(lambda digits: f"2{digits[:2]}-1{digits[2]}-1{digits[3:6]}", DIGITS)),
    st.tuples(
        st.just("email"),
        st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[a-z0-9]{1,8})?@[a-z0-9]{2,9}\.(com|org|cn|io)", fullmatch=True),
    ),
    st.tuples(st.just("secret"), st.from_regex(r"ghp_[A-Za-z][0-9][A-Za-z0-9]{34}", fullmatch=True)),
)


@settings(max_examples=500)
@given(IDENTIFIERS, AROUND)
def test_identifiers_are_found_wherever_they_stand(identifier: tuple[str, str], around: str) -> None:
    """Lost: a number that nobody thought of, in a place that nobody thought of, leaves for a provider."""
    kind, value = identifier
    text = around.format(value)
    found = [(each.kind.value, text[each.start : each.end]) for each in find(text)]
    assume(kind != "secret" or len(set(value)) > 20)
    assert found == [(kind, value)]


LEAVES = st.none() | st.booleans() | st.integers(-1000, 1000) | TEXTS | IDENTIFIERS.map(lambda each: each[1])
NAMES = st.sampled_from(
    [
        "content",
        "text",
        "role",
        "name",
        "function",
        "arguments",
        "tool_calls",
        "index",
        "id",
        "type",
        "enum",
        "description",
    ]
    + ["delta", "finish_reason", "image_url", "reasoning", "refusal", "parameters", "é", ""]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def strings(value: Any) -> list[str]:
    """The texts of a tree."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


@given(st.dictionaries(st.sampled_from(["messages", "tools", "user", "metadata", "x", "response_format"]), TREES))
def test_any_body_keeps_its_shape(body: dict[str, Any]) -> None:
    """Whatever JSON comes, it is read, and what is sent is the same but for values, each of which comes back."""
    redactor = Redactor((SECRET,))
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    made = {name: msgspec.json.decode(raw) for name, raw in redactor.redact_chat(fields).items()}
    for before, after in zip(strings(body), strings(made), strict=True):
        if before[:64].lstrip()[:1] not in ("{", "["):
            assert StreamRestorer(redactor.values).feed(after + " ") == before + " "


@given(st.lists(st.lists(TREES, max_size=3), max_size=4))
def test_any_chunks_are_survived(chunks: list[list[Any]]) -> None:
    """A provider's odd chunks break no stream: they pass, and what was held back of them still leaves."""
    restorer = made_by("").chat_restorer()
    for choices in chunks:
        restorer.chunk(choices)
        msgspec.json.encode(choices)
    msgspec.json.encode(restorer.rest())
    assert restorer.rest() == []
