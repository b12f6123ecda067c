"""Token counts: the two tokenizers, their bounds, and what an OpenAI chat request weighs."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet.kit import tokens
from faucet.kit.tokens import IMAGE_TOKENS, RUN_LIMIT, TOKENIZERS, count_chat_input, count_text

PROSE = "The customer asked about order #4711; we'll answer in two days.\n\n客户询问订单,我们两天内回复。 "


def test_importing_costs_nothing_and_threads_load_once() -> None:
    """Processes that never count by o200k would pay 100 MB; racing threads would pay it several times."""
    script = (
        "import sys, threading\n"
        "from faucet.kit import tokens\n"
        "assert 'tiktoken' not in sys.modules\n"
        "assert tokens.count_text('one two', 'words') == 2 and 'tiktoken' not in sys.modules\n"
        "seen = set()\n"
        "threads = [threading.Thread(target=lambda: seen.add(id(tokens._o200k()))) for _ in range(4)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\n"
        "print(len(seen), 'requests' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_o200k_is_tiktokens_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary or a pattern that isn't OpenAI's would bill counts that nobody can verify."""
    packed = (files("faucet.kit") / "vocab" / "o200k_base.tiktoken.gz").read_bytes()
    address = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    name = hashlib.sha1(address.encode()).hexdigest()
    (tmp_path / name).write_bytes(gzip.decompress(packed))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    import tiktoken

    theirs = tiktoken.get_encoding("o200k_base")  # refuses a file whose hash isn't the one that it demands
    for text in (PROSE, PROSE * 200, "x = {'a': [1, 23456]}\r\n\t\tif x:   pass", "e\u0301ñ 👩‍👩‍👧 ИВАН", ""):
        assert count_text(text, "o200k") == len(theirs.encode_ordinary(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("antidisestablishmentarianism", 6), ("2 + 2 = 4", 7), ("お誕生日おめでとう", 8), ("hello world", 2)],
)
def test_o200k_gives_published_counts(text: str, expected: int) -> None:
    """Counts that differ from OpenAI's published examples would be wrong for every customer."""
    assert count_text(text, "o200k") == expected


def test_special_tokens_are_plain_text() -> None:
    """A user who writes a control token would count as one token, or break the request."""
    assert count_text("<|endoftext|>", "o200k") == 7
    assert count_text("<|endoftext|>", "words") == 1


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(text=st.text() | st.text(alphabet="a \n\t中\u3000\ud7ff\uffff😀\x1c\u0301'", max_size=400))
def test_never_more_tokens_than_bytes(tokenizer: str, text: str) -> None:
    """Holds that are sized by bytes would be too small for what is billed afterwards."""
    assert 0 <= count_text(text, tokenizer) <= len(text.encode())


def test_lone_surrogates_are_counted() -> None:
    """A broken escape in a body would end the settlement of its request."""
    assert 1 <= count_text("a \ud83d b", "o200k") <= 7
    assert count_text("a \ud83d b", "words") == 3


_MEGABYTE = 1_000_000
_HOSTILE = {
    "one letter": "a" * _MEGABYTE,
    "spaces": " " * _MEGABYTE,
    "spaces and a letter": " " * _MEGABYTE + "x",
    "line ends": "\n" * _MEGABYTE,
    "signs": "=" * _MEGABYTE,
    "runs just below the limit": ("a" * (RUN_LIMIT - 1) + " ") * (_MEGABYTE // RUN_LIMIT),
    "runs of spaces just above the limit": (" " * (RUN_LIMIT + 1) + "a") * (_MEGABYTE // (RUN_LIMIT + 2)),
    "spaces that only Python knows": "\x1c!" * (_MEGABYTE // 2),
    "one Chinese character": "中" * (_MEGABYTE // 3),
}


@pytest.mark.parametrize("name", _HOSTILE)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_hostile_megabytes_are_counted_in_time(tokenizer: str, name: str) -> None:
    """One body of a repeated character would stall a worker, or kill its task by a Rust panic."""
    text = _HOSTILE[name]
    tokens.preload(tokenizer)
    started = time.process_time()
    count = count_text(text, tokenizer)
    assert time.process_time() - started < 1.5
    assert count <= len(text.encode())


def test_pieces_cover_the_text_and_change_little() -> None:
    """Splitting long runs would lose text, or inflate the count that a customer pays."""
    for text in (*_HOSTILE.values(), PROSE * 3000):
        assert "".join(tokens._PIECE.findall(text)) == text
    assert tokens._PIECE.findall(PROSE * 3000) == [PROSE * 3000]
    encoding = tokens._o200k()
    run = "abcdefgh" * 5000
    exact = len(encoding.encode_ordinary(run))
    assert exact <= count_text(run, "o200k") <= exact + 2 * (len(run) // RUN_LIMIT + 1)


def test_a_panic_of_the_tokenizer_becomes_the_byte_bound() -> None:
    """An input that tiktoken panics on would end the task that settles, and the answer would be free."""
    spaces = " " * 1_100_000
    assert tokens._count_piece(tokens._o200k(), spaces) == len(spaces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (" \n\t", 0),
        ("two words", 2),
        ("  spaced\n\nout  ", 2),
        ("客户回复", 4),
        ("您好,Alex!", 3),
        ("订单 A-1024 已发货。", 7),
        ("naïve café", 2),
        ("\u2e7f\u2e80\uffff\U00010000", 4),
        ("a\u3000b", 3),
        ("a\u00a0b", 2),
    ],
)
def test_words_counts_as_defined(text: str, expected: int) -> None:
    """The mock provider's usage and the tests that check it would disagree."""
    assert count_text(text, "words") == expected


@given(text=st.text(alphabet=st.characters(max_codepoint=127)))
def test_words_has_one_definition_for_ascii(text: str) -> None:
    """The fast way for ASCII would count other tokens than the pattern."""
    assert count_text(text, "words") == len(tokens.WORD.findall(text))


def test_an_unknown_tokenizer_is_refused() -> None:
    """A misspelt tokenizer in a price would silently count by another one."""
    with pytest.raises(ValueError, match="o200k, words"):
        count_text("x", "cl100k")
    with pytest.raises(ValueError, match="tokenizer"):
        count_chat_input({"messages": [{"role": "user", "content": "x"}]}, "O200K")


def test_chat_input_counts_messages_tools_and_format() -> None:
    """Parts of a request would be free: tools, images and earlier tool calls are what agents mostly send."""
    message = {"role": "user", "content": "two words"}
    assert count_chat_input({"messages": [message]}, "words") == 3 + 1 + 2 + 3
    assert count_chat_input({"messages": [{**message, "name": "alex"}]}, "words") == 10
    parts = [
        {"type": "text", "text": "see this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}},
    ]
    assert count_chat_input({"messages": [{"role": "user", "content": parts}]}, "words") == 9 + IMAGE_TOKENS
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert count_chat_input({"messages": [asked]}, "words") == 3 + 1 + 1 + 2 + 3
    tools = [{"type": "function", "function": {"name": "look", "description": "looks at things"}}]
    assert count_chat_input({"messages": [message], "tools": tools}, "words") == 9 + 3
    formatted = {"messages": [message], "response_format": {"type": "json_object"}}
    assert count_chat_input(formatted, "words") == 9 + 1
    assert count_chat_input(formatted, "o200k") == 3 + 1 + 2 + 3 + count_text('{"type":"json_object"}', "o200k")


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "content", "tool_calls", "function", "name", "type", "text")),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(messages=_ODD, tools=_ODD)
def test_chat_input_counts_odd_shapes(messages: object, tools: object) -> None:
    """A request of unexpected types, which a lax provider answered, would end its settlement in an error."""
    assert count_chat_input({"messages": messages, "tools": tools}, "words") >= 3
