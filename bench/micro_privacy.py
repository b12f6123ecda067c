"""What privacy costs a request: a prompt of 4 kB redacted, an answer restored, and nothing where it is off.

Run: `pytest bench/micro_privacy.py`. Each checks what it made, so that a fast wrong answer is none.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from faucet.gateway.attempt import Answering
from faucet.gateway.exchange import Exchange
from faucet.gateway.redaction import RestoringRelay, redactions_note, relay_for
from faucet.gateway.relay import Relay
from faucet.privacy.find import find
from faucet.privacy.redact import Redactor

ENGLISH = (
    "The customer wrote to us about her last order, which came late and with the wrong size. We answered that a new"
    " parcel is on its way and that the old one can be kept. She asked for a call in the afternoon of 12/05/2024. "
) * 18 + (
    "Mail anna@example.com or call (202) 555-0143. Ship to 10 High Street, Oxford OX1 4BG. The card is"
    " 4111 1111 1111 1111. Password: Tr0ub4dor&3"
)
CHINESE = (
    "客户来信说上次的订单送达太晚，而且尺码不对。我们已经安排重新发货，旧的商品可以保留。客户希望在2024年3月15日下午接到电话。"
) * 22 + "邮箱zhang@example.com，手机13912345678，地址：北京市朝阳区建国路88号3号楼1201室。"
LOG = (
    '{"at":"2024-05-01T12:30:45.123Z","level":"info","event":"order.shipped","order":4155550100123,"took_ms":15}\n'
) * 37 + '{"event":"login","email":"anna@example.com"}'
TEXTS = {"english": (ENGLISH, 5), "chinese": (CHINESE, 3), "log": (LOG, 1)}
ANSWER = ["Dear ", "[EM", "AIL_1", "],", " your", " order", " is", " on", " its", " way"] * 10


@pytest.mark.parametrize("text", TEXTS)
def test_redact(benchmark: Any, text: str) -> None:
    """A request with one message of 4 kB: read, redacted and written again."""
    content, expected = TEXTS[text]
    assert 3900 < len(content.encode()) < 4400
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0.7}
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}

    def redact() -> Redactor:
        redactor = Redactor()
        redactor.redact_chat(fields)
        return redactor

    assert sum(benchmark(redact).counts.values()) == expected


def test_find_nothing(benchmark: Any) -> None:
    """Looking through 4 kB of prose that has nothing personal in it."""
    assert benchmark(find, ENGLISH[:4000].replace("12/05/2024", "tomorrow")[:3900]) == []


def test_restore_stream(benchmark: Any) -> None:
    """A hundred pieces of an answer, ten placeholders of it cut in three."""
    redactor = Redactor()
    redactor.redact_text("anna@example.com")

    def restore() -> str:
        restorer = redactor.stream()
        return "".join(restorer.feed(piece) for piece in ANSWER) + restorer.finish()

    assert benchmark(restore).count("anna@example.com") == 10


def test_privacy_off(benchmark: Any) -> None:
    """All that a request passes on its way where its feature wants no privacy: the plain relay is made anyhow."""
    exchange, answering = cast(Exchange, None), cast(Answering, None)

    def passed() -> Relay:
        assert redactions_note(None) == b""
        return relay_for(None, exchange, answering, "chatcmpl_mf_1", record=False)

    relay = benchmark(passed)
    assert type(relay) is Relay and not isinstance(relay, RestoringRelay)
