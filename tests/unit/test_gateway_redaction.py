"""What may leave a gateway: the request that is held for and sent, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import msgspec
import pytest

from faucet.gateway.admit import Feature
from faucet.gateway.redaction import LARGE_BYTES, let_out, redactions_note, restored
from faucet.gateway.wire import ChatAsk, parse_chat, upstream_body
from faucet.kit.errors import Refusal
from faucet.privacy.redact import Redactor
from faucet.rating.price import PricePlan
from faucet.routing.plan import RoutePolicy

MAIL = "anna@example.com"


def feature(privacy: str) -> Feature:
    """A feature with this privacy."""
    plan = PricePlan.parse_pricing({"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000})
    return Feature(UUID(int=1), "f", b'"f"', RoutePolicy(), plan, True, None, 1, "{}", privacy=privacy)


def out(text: str, privacy: str = "redact_pii_before_cloud", **more: Any) -> tuple[ChatAsk, Redactor]:
    """What may leave of a request with this text."""
    sensitive = more.pop("sensitive", ())
    ask = parse_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode())
    ask.sensitive = sensitive
    return asyncio.run(let_out(feature(privacy), ask, "req_1"))


def test_what_is_held_for_is_what_is_sent() -> None:
    """Lost: a hold that bounds another request than the one that the provider bills."""
    ask, redactor = out(f"{MAIL} " * 9, prediction={"type": "content", "content": f"Dear {MAIL}"})
    sent = upstream_body(ask, b'"m"', 10, "max_tokens")
    assert MAIL.encode() not in sent and sent.count(b"[EMAIL_1]") == 10
    assert ask.body_bytes == len(ask.body) and msgspec.json.decode(ask.body)["messages"] == json.loads(sent)["messages"]
    assert ask.extra_output_bytes == len(b'{"type":"content","content":"Dear [EMAIL_1]"}')
    assert redactions_note(redactor) == b',"redactions":{"email":1}'


def test_declared_values_leave_as_placeholders() -> None:
    """What a feature's manifest calls sensitive is kept back whatever it looks like."""
    ask, redactor = out("The patient is Ruth, file K7.", sensitive=("Ruth", "K7"))
    content = msgspec.json.decode(ask.fields["messages"])[0]["content"]
    assert content == "The patient is [SENSITIVE_1], file [SENSITIVE_2]."
    choices = msgspec.Raw(b'[{"message":{"content":"[SENSITIVE_1]: [SENSITIVE_2]"}}]')
    assert b"Ruth: K7" in bytes(restored(redactor, choices))


def test_a_large_body_is_redacted_too() -> None:
    """A body that is searched in a thread is searched as well as a small one."""
    ask, redactor = out(f"{MAIL} und so weiter " * (LARGE_BYTES // 20))
    assert MAIL.encode() not in ask.body and redactor.counts == {"email": 1}


def test_block_tells_counts_only() -> None:
    """The refusal says what kinds there are, how many of each, and no value."""
    with pytest.raises(Refusal) as refused:
        out(f"{MAIL} 13912345678 13912345679", "block")
    assert (refused.value.code, refused.value.status, refused.value.param) == ("forbidden", 403, "messages")
    assert refused.value.details == {"personal_data": {"email": 1, "phone": 2}}
    assert MAIL not in refused.value.public and "139" not in refused.value.public
    ask, _ = out("nothing of that kind", "block")
    assert b"nothing of that kind" in ask.body


def test_an_answer_without_placeholders_keeps_its_bytes() -> None:
    """Where nothing was taken out, or nothing comes back, the provider's bytes are the client's."""
    choices = msgspec.Raw(b'[ {"message": {"content": "plain"}, "logprobs": 1.50} ]')
    _, redactor = out(MAIL)
    assert restored(redactor, choices) is choices
    _, redactor = out("hello [EMAIL_1]")
    listed = msgspec.Raw(b'[ {"message": {"content": "[EMAIL_1]"}} ]')
    assert restored(redactor, listed) is listed


def test_metadata_has_no_names_that_are_left_alone() -> None:
    """Lost: an e-mail address that a caller files a request under goes to the provider, because it is called an id."""
    metadata = {"id": MAIL, "file": MAIL, "type": MAIL, "name": MAIL, "note": MAIL}
    ask, _ = out("Hello", metadata=metadata)
    assert MAIL.encode() not in ask.body
    assert set(msgspec.json.decode(ask.fields["metadata"]).values()) == {"[EMAIL_1]"}


def test_names_of_files_and_of_metadata_are_looked_at() -> None:
    """Lost: a person's number leaves as the name of a file, or as the name of a note."""
    part = {"type": "file", "file": {"filename": f"{MAIL} 2.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    messages = [{"role": "user", "content": [part]}]
    ask, _ = out("Hello", metadata={MAIL: "x", "y": MAIL}, messages=messages)
    assert b"anna" not in ask.body
    assert msgspec.json.decode(ask.fields["metadata"]) == {"[EMAIL_1]": "x", "y": "[EMAIL_1]"}
