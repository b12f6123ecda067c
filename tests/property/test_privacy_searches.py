"""The quick searches that finding begins with miss nothing of what the slow ones see."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from faucet.privacy.find import find
from faucet.privacy.finding import CONTEXT, Cues
from faucet.privacy.numbers import GAP_MAX, RUN_DIGITS_MIN, outline, runs_of

GAP = " \u00a0\u2010\u2011\u2012\u2013.()/-"
WRITTEN = st.text(st.sampled_from("0123456789" + GAP + "aZé客,+\n\ud800"), max_size=60) | st.text(max_size=60)
WORDS = ("order", "id", "card", "单号")
LATIN_FOR, OTHER_FOR = ("phone", "tel", "social security"), ("móvil", "电话", "☎")
LINES = st.lists(
    st.sampled_from([*WORDS, *LATIN_FOR, *OTHER_FOR, "number", "numbers", "no", "s", "is", "编号", "x", "\n", "7"])
    | st.sampled_from(" :#=.,\"'()[]|_-：（），"),
    max_size=14,
).map("".join)


@given(WRITTEN)
def test_an_outline_has_a_byte_for_every_character(text: str) -> None:
    """Lost: what is found stands elsewhere than it says, and the wrong characters leave."""
    shape = outline(text)
    assert len(shape) == len(text)
    for character, byte in zip(text, shape, strict=True):
        assert (byte == ord("1")) == (character in "0123456789")
        assert (byte == ord("A")) == (character.isascii() and character.isalpha())


@given(WRITTEN)
@example("12    3456789")
@example("1-2-3-4----5 6 7 8 9 0 1 2")
def test_runs_are_all_the_digits_that_are_near_each_other(text: str) -> None:
    """Lost: a number whose groups stand apart as people write them is never judged."""
    near = re.compile(f"[0-9]+(?:[{re.escape(GAP)}]{{1,{GAP_MAX}}}[0-9]+)*")
    expected = [(*match.span(), sum(each in "0123456789" for each in match[0])) for match in near.finditer(text)]
    assert list(runs_of(outline(text))) == [run for run in expected if run[2] >= RUN_DIGITS_MIN]


@given(LINES)
@example("order numbers: ")
@example("border ")
@example("smartphone móvilno ")
def test_cues_read_backwards_what_is_written_forwards(text: str) -> None:
    """Lost: an order's number is taken for a phone's, or a phone's for an order's."""
    against = r"(?:(?<![a-z])(?:order|id|card)|单号)"
    between = r"(?:[\s:#=.,\"'()\[\]|_-]|numbers?|no|nr|id|code|is|was|s|号码|编号|号|是|为|[：（），])*$"
    before = text[-CONTEXT:]
    line = before.rpartition("\n")[2] or before
    expected: bool | None = None
    if re.search(against + between, line):
        expected = False
    elif re.search(r"(?<![a-z])(?:phone|tel|social security)|móvil|电话|☎", line):
        expected = True
    assert Cues((*LATIN_FOR, *OTHER_FOR), WORDS).told(text, len(text)) is expected


@given(
    st.sampled_from(
        [
            ("xoxb-a1b2c3d4e5", "secret"),  # the shortest of the keys with a shape of their own
            ("7, 4 Harbour Drive", "address"),
            ("ftp://anna:s3cr@h", "secret"),
            ("P.O. BOX 12", "address"),
        ]
    ),
    st.sampled_from(['{{"v":"{}"}}', "see {}, please", "“{}”", "客户写道：{}。", "\t{}\n"]),
)
def test_the_shortest_of_each_kind_are_seen(case: tuple[str, str], around: str) -> None:
    """Lost: what is barely long enough for the quick look is let out."""
    value, kind = case
    text = around.format(value)
    assert [each.kind.value for each in find(text)] == [kind]


def test_a_parenthesis_that_nobody_closes_is_no_part_of_a_number() -> None:
    """Lost: a placeholder swallows a character of the sentence."""
    text = "ring me (13912345678 or so"
    assert [text[each.start : each.end] for each in find(text)] == ["13912345678"]
