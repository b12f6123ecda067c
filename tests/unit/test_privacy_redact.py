"""Placeholders of one request: out, and back into a whole answer. Streams are in `tests/property`."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from faucet.privacy.find import find
from faucet.privacy.redact import Redactor

MAIL, MOBILE, CARD = "anna@example.com", "13912345678", "4111 1111 1111 1111"


def redacted(body: dict[str, Any], sensitive: tuple[str, ...] = ()) -> tuple[dict[str, Any], Redactor]:
    """A request's body as a provider would get it, and what brings the values back."""
    redactor = Redactor(sensitive)
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    made = redactor.redact_chat(fields)
    return msgspec.json.decode(msgspec.json.encode(made)), redactor


def content(text: str, **fields: Any) -> dict[str, Any]:
    """A request with one message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def test_the_same_value_is_the_same_placeholder() -> None:
    """A model can tell two persons apart, and knows one again, also in the next turn."""
    first = content(f"{MAIL} wrote to bob@example.com, then {MAIL} called {MOBILE}.")
    body, redactor = redacted(first)
    said = "[EMAIL_1] wrote to [EMAIL_2], then [EMAIL_1] called [PHONE_1]."
    assert body["messages"][0]["content"] == said
    assert redactor.counts == {"email": 2, "phone": 1}
    first["messages"] += [
        {"role": "assistant", "content": f"Answer {MAIL}."},
        {"role": "user", "content": "And carol@example.com?"},
    ]
    later, _ = redacted(first)
    assert [message["content"] for message in later["messages"]] == [said, "Answer [EMAIL_1].", "And [EMAIL_3]?"]


def test_a_value_that_is_known_once_is_known_everywhere() -> None:
    """What its words gave away in one message doesn't leave in another that lacks them, be it earlier or JSON."""
    body = content("2025550162 is a good customer, 12025550162 isn't.")
    body["messages"] += [
        {"role": "user", "content": "My phone is 2025550162, the password: Sun-2024-x."},
        {"role": "assistant", "content": "2025550162 it is, with Sun-2024-x, bob@example.com"},
        {"role": "tool", "content": '{"n": [2025550162, 20255501625], "t": "Sun-2024-x"}'},
    ]
    body["metadata"] = {"n": 2025550162}
    made, redactor = redacted(body)
    assert [message["content"] for message in made["messages"]] == [
        "[PHONE_1] is a good customer, 12025550162 isn't.",
        "My phone is [PHONE_1], the password: [SECRET_1].",
        "[PHONE_1] it is, with [SECRET_1], [EMAIL_1]",
        '{"n": ["[PHONE_1]", 20255501625], "t": "[SECRET_1]"}',
    ]
    assert made["metadata"] == {"n": "[PHONE_1]"}
    assert redactor.counts == {"phone": 1, "secret": 1, "email": 1}


def test_everything_that_is_written_is_redacted() -> None:
    """Names, parts, system prompts, results and arguments of tools, descriptions: none of them carries a value out."""
    messages = [
        {"role": "system", "content": f"Serve {MAIL}."},
        {"role": "user", "name": MAIL, "content": [{"type": "text", "text": f"I am {MAIL}"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": f"not {MAIL}",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {
                        "name": "mail",
                        "arguments": json.dumps({"to": MAIL, "地址": "北京市朝阳区建国路88号"}),
                    },
                }
            ],
            "function_call": {"name": "mail", "arguments": f'{{"to":"{MAIL}"}}'},
        },
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"sent": [MAIL], "mobile": int(MOBILE)})},
    ]
    tools = [
        {
            "type": "function",
            "function": {
                "name": "mail",
                "description": f"Mail somebody, as {MAIL} does.",
                "parameters": {
                    "type": "object",
                    "properties": {"to": {"type": "string", "enum": [MAIL], "description": f"e.g. {MAIL}"}},
                },
            },
        }
    ]
    body = {
        "model": "m",
        "messages": messages,
        "tools": tools,
        "user": MAIL,
        "metadata": {"who": MAIL},
        "stop": [MAIL],
        "prediction": {"type": "content", "content": f"Dear {MAIL}"},
        "x_unknown": {"deep": [{"er": MAIL}, int(MOBILE)]},
    }
    made, redactor = redacted(body)
    text = json.dumps(made, ensure_ascii=False)
    assert MAIL not in text and MOBILE not in text and "建国路" not in text
    assert text.count("[EMAIL_1]") == 15 and redactor.counts == {"email": 1, "phone": 1, "address": 1}
    call = made["messages"][2]["tool_calls"][0]
    assert call["id"] == "call_1" and call["function"]["name"] == "mail"
    assert json.loads(call["function"]["arguments"]) == {"to": "[EMAIL_1]", "地址": "[ADDRESS_1]"}
    assert json.loads(made["messages"][3]["content"]) == {"sent": ["[EMAIL_1]"], "mobile": "[PHONE_1]"}
    assert made["tools"][0]["function"]["parameters"]["properties"]["to"]["enum"] == ["[EMAIL_1]"]


TOKEN = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"


@pytest.mark.parametrize(
    ("text", "personal"),
    [
        ("pay 4111 1111 1111 1111/a@b.com now", ["4111 1111 1111", "1111/a@b.com"]),
        ("12 Main Street, Springfield, IL 62704/a@b.com", ["12 Main Street, Springfield, IL", "62704/a@b.com"]),
        (f"git clone https://oauth2:{TOKEN}@git.example", [TOKEN]),
    ],
)  # fmt: skip
def test_what_two_values_share_hides_neither(text: str, personal: list[str]) -> None:
    """Lost: of two values that overlap, the rest of one leaves."""
    assert [text[found.start : found.end] for found in find(text)] == personal


def test_images_are_left_alone() -> None:
    """An image, a sound or a file is the same bytes as before; they are not looked into."""
    parts = [
        {"type": "image_url", "image_url": {"url": f"https://example.com/{MAIL}.png"}},
        {"type": "input_audio", "input_audio": {"data": "MTM5MTIzNDU2Nzg=", "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:text/plain;base64,{MAIL}"}},
        {"type": "text", "text": MAIL},
    ]
    made, _ = redacted({"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert made["messages"][0]["content"] == [*parts[:3], {"type": "text", "text": "[EMAIL_1]"}]


def test_what_nobody_writes_in_is_the_same() -> None:
    """Numbers, names of models and fields without words keep their bytes."""
    fields = {
        "model": msgspec.Raw(b'"sk-mini-13912345678"'),
        "temperature": msgspec.Raw(b"1.10"),
        "top_p": msgspec.Raw(b"0.950000001"),
        "user": msgspec.Raw(b'"u-1"'),
        "seed": msgspec.Raw(b"13912345678"),
        "messages": msgspec.Raw(b'[{"role":"user","content":"hello"}]'),
    }
    assert Redactor().redact_chat(fields) == fields


@pytest.mark.parametrize(
    "forged",
    [
        "[EMAIL_1]",
        "Say [EMAIL_1] and [EMAIL_2].",
        '{"a": "\\u005bEMAIL_1\\u005d"}',
        "[EMAIL_1",
        "[EMAIL_[EMAIL_1]]",
        "[PHONE_1][EMAIL_0]",
        "[EMAIL_01]",
    ],
)
def test_a_placeholder_cannot_be_forged(forged: str) -> None:
    """What looked like a placeholder in the request means itself, there and in the answer."""
    made, redactor = redacted(content(f"{forged} {MAIL} {MOBILE}", user=forged))
    sent = made["messages"][0]["content"]
    assert sent.startswith(forged) and MAIL not in sent and MOBILE not in sent
    assert redactor.restore_text(sent) == f"{forged} {MAIL} {MOBILE}"
    assert redactor.restore_text(forged) == forged
    assert redactor.restore_text("[EMAIL_99] [SECRET_1] [email_1]") == "[EMAIL_99] [SECRET_1] [email_1]"


def test_a_value_that_looks_like_a_placeholder_is_put_back_once() -> None:
    """A declared value can be anything; what is put back isn't looked at again."""
    made, redactor = redacted(content(f"[EMAIL_1] {MAIL} [SENSITIVE_1]"), ("[EMAIL_1]",))
    sent = made["messages"][0]["content"]
    assert sent == "[SENSITIVE_2] [EMAIL_2] [SENSITIVE_1]"
    assert redactor.restore_text(sent) == f"[EMAIL_1] {MAIL} [SENSITIVE_1]"


def test_declared_values() -> None:
    """Values that the caller calls sensitive go, as whole words, the longest first, also as numbers of JSON."""
    body, redactor = redacted(
        content("Ann Lee of Annex 42 has 42 apples; 李雷说好 \n", metadata={"age": 42, "level": 142}),
        ("Ann", "Ann Lee", "42", "李雷", "", " "),
    )
    sent = body["messages"][0]["content"]
    assert sent == "[SENSITIVE_1] of Annex [SENSITIVE_2] has [SENSITIVE_2] apples; [SENSITIVE_3]说好 \n"
    assert body["metadata"] == {"age": "[SENSITIVE_2]", "level": 142}
    assert redactor.restore_text(sent) == "Ann Lee of Annex 42 has 42 apples; 李雷说好 \n"


def test_json_in_a_text_stays_json() -> None:
    """However a program spelt its JSON, a value in it is found, and what is around it keeps every byte."""
    spelt = '{"a": 1.10, "tel":"\\u7535\\u8bdd13912345678\\n", "m":"x\\nanna@example.com", "n": [4111111111111111, -0]}'
    redactor = Redactor()
    made = redactor.redact_json(spelt)
    assert made == ('{"a": 1.10, "tel":"\\u7535\\u8bdd[PHONE_1]\\n", "m":"x\\n[EMAIL_1]", "n": ["[CARD_1]", -0]}')
    assert redactor.redact_json('{"half": "anna@example.com') == '{"half": "[EMAIL_1]'
    assert redactor.redact_json('{"a":"12 Old Mill Road","b":"Oxford"}') == '{"a":"[ADDRESS_1]","b":"Oxford"}'
    keyed = '{"phone": 2025550143, "order": 2025550143}'
    assert redactor.redact_json(keyed) == '{"phone": "[PHONE_2]", "order": 2025550143}'


def test_values_come_back_into_an_answer() -> None:
    """In content, refusals and reasoning as they were; in the arguments of tools escaped, so that they stay JSON."""
    secret = 'pa"ss\\word\n99'
    _, redactor = redacted(content(f"{MAIL} {secret}"), (secret,))
    arguments = '{"to":"[EMAIL_1]","note":"say [SENSITIVE_1] or [EMAIL_7]"}'
    message = {
        "role": "assistant",
        "content": "Dear [EMAIL_1], [SENSITIVE_1]!",
        "refusal": "[EMAIL_1]",
        "reasoning_content": "[EMAIL_1]",
        "reasoning_details": [{"type": "text", "text": "[EMAIL_1]"}],
        "tool_calls": [{"id": "[EMAIL_1]", "function": {"name": "mail", "arguments": arguments}}],
    }
    choices = [{"index": 0, "message": message, "logprobs": {"content": [{"token": "[EMAIL_1]"}]}}]
    whole = redactor.chat_restorer().whole(choices)[0]
    got = whole["message"]
    assert got["content"] == f"Dear {MAIL}, {secret}!"
    assert got["refusal"] == got["reasoning_content"] == got["reasoning_details"][0]["text"] == MAIL
    called = json.loads(got["tool_calls"][0]["function"]["arguments"])
    assert called == {"to": MAIL, "note": f"say {secret} or [EMAIL_7]"}
    assert got["tool_calls"][0]["id"] == "[EMAIL_1]" and whole["logprobs"]["content"][0]["token"] == "[EMAIL_1]"


def test_a_structured_answer_stays_json() -> None:
    """Where the reply's content must be JSON, a value with quotes doesn't break it."""
    secret = 'a"b\\c 99'
    _, redactor = redacted(content(secret, response_format={"type": "json_object"}), (secret,))
    choices = [{"message": {"content": '{"said":"[SENSITIVE_1]"}'}}]
    whole = redactor.chat_restorer().whole(choices)
    assert json.loads(whole[0]["message"]["content"]) == {"said": secret}


def test_a_number_beside_the_messages_is_looked_at() -> None:
    """A field of the request may be somebody's number, too."""
    made, redactor = redacted(content("hello", user=int(MOBILE), n=1, stream=True))
    assert made["user"] == "[PHONE_1]" and made["n"] == 1 and made["stream"] is True
    assert redactor.counts == {"phone": 1}


def test_odd_json_is_redacted_too() -> None:
    """Twice the same key, big numbers and deep values: nothing of it reaches a provider by a side door."""
    fields = {"messages": msgspec.Raw(f'[{{"role":"user","content":"{MAIL}","content":"x"}}]'.encode())}
    assert MAIL.encode() not in bytes(Redactor().redact_chat(fields)["messages"])
    fields = {"x": msgspec.Raw(b"[123456789012345678901234567890, true, null, 1.5]")}
    assert Redactor().redact_chat(fields) == {"x": msgspec.Raw(b"[123456789012345678901234567890,true,null,1.5]")}


@pytest.mark.parametrize(
    "piece",
    "1,1 ,(0,+1 ,a@,a.,key,pass=,密码:a1,路1号,在路1,1 Aa ,1 Aa Street, ,DE12 ,sk-,eyJaaaaaaaa.,://a:,bearer ,\\n1,４"
    "".split(",")
    + ["-----BEGIN PRIVATE KEY-----", "tel 12345678901234 ", "PO Box 1, Aa, "],
)
def test_no_text_takes_long(piece: str) -> None:
    """A text made to be slow is no way to hold up everybody else: time grows with its length, not faster."""
    text = piece * (50_000 // max(1, len(piece)))
    began = time.process_time()
    find(text)
    assert time.process_time() - began < 3


def test_escapes_and_wide_letters_hide_nothing() -> None:
    """Values after an escape, in full-width characters or beside other letters are found where they are."""
    for text, value in (
        (r"line\nanna@example.com", MAIL),
        (r"tel\t13912345678\n", MOBILE),
        ("电话１３９１２３４５６７８。", "１３９１２３４５６７８"),
        ("邮箱ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ", "ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ"),
        ("İİİ password: Tr0ub4dor&3", "Tr0ub4dor&3"),
    ):
        assert [text[found.start : found.end] for found in find(text)] == [value], text


def test_what_a_provider_signed_comes_back_to_it_as_it_was() -> None:
    """Lost: a provider refuses its own thinking, for the next turn brings it with other characters."""
    talk = content(f"Write to {MAIL}.")
    signed = {"type": "thinking", "thinking": "They want [EMAIL_1] told.", "signature": "EqQB4111111111111111"}
    sealed = {"type": "redacted_thinking", "data": "AAEC 4111111111111111"}
    restored = redacted(talk)[1].chat_restorer().whole([{"message": {"thinking_blocks": [signed | {}, sealed | {}]}}])
    blocks = restored[0]["message"]["thinking_blocks"]
    assert blocks == [signed | {"thinking": f"They want {MAIL} told."}, sealed]
    talk["messages"] += [
        {"role": "assistant", "content": "Done.", "modelfaucet_thinking": blocks},
        {"role": "user", "content": "?"},
    ]
    assert redacted(talk)[0]["messages"][1]["modelfaucet_thinking"] == [signed, sealed]


def test_what_is_sealed_hides_nothing_beside_it() -> None:
    """Lost: a part that calls itself sealed takes a mail address past the gateway in another of its fields."""
    for kind in ("base64", "redacted_thinking"):
        part = {"type": kind, "data": "4111111111111111", "text": f"Write to {MAIL}.", "of": [MAIL]}
        (sent,) = redacted({"messages": [{"role": "user", "content": [part]}]})[0]["messages"][0]["content"]
        assert sent == {"type": kind, "data": "4111111111111111", "text": "Write to [EMAIL_1].", "of": ["[EMAIL_1]"]}
