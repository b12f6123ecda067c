"""Manifests as documents: what is written reads back, and what is wrong is told with its path and a suggestion."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.tenants.manifest_file import (
    Document,
    ManifestRefused,
    differences,
    read_documents,
    write_documents,
)

GOOD = """\
# a comment
app: app_support
feature: reply
display_name: Reply
policy:
  models: [mock-small, mock-large]
  max_output_tokens: 200
pricing:
  markup_percent: 12.5
  channel_share_bps: 4000
"""


def problems(text: str) -> list[str]:
    """What is wrong with a text."""
    with pytest.raises(ManifestRefused) as refused:
        read_documents(text)
    return refused.value.problems


def test_yaml_and_json_say_the_same() -> None:
    """Lost: a manifest means one thing in one form and another in the other."""
    (document,) = read_documents(GOOD)
    assert document == Document(
        "app_support",
        "reply",
        "Reply",
        {"models": ["mock-small", "mock-large"], "max_output_tokens": 200},
        {"markup_percent": 12.5, "channel_share_bps": 4000},
    )
    as_json = write_documents([document], as_json=True)
    assert json.loads(as_json)["policy"]["max_output_tokens"] == 200
    assert read_documents(as_json) == [document]
    several = GOOD + "---\n" + GOOD.replace("reply", "other")
    assert [one.feature for one in read_documents(several)] == ["reply", "other"]


WORD = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
TRICKY = st.sampled_from(
    ["yes", "on", "null", "~", "1e3", "0x1F", "2024-01-01", "1_000", "- a", "a: b", "#x", "'", "é"]
)


@settings(max_examples=200, deadline=None)
@given(
    title=st.one_of(TRICKY, WORD.filter(lambda text: bool(text.strip()))),
    models=st.lists(st.one_of(TRICKY, WORD), max_size=4, unique=True),
    tokens=st.integers(1, 2**31 - 1),
    percent=st.sampled_from([0, 30, 12.5, 0.01, 1000, "12.50"]),
    words=st.lists(st.one_of(TRICKY, WORD), max_size=4, unique=True),
)
def test_what_is_written_reads_back(
    title: str, models: list[str], tokens: int, percent: object, words: list[str]
) -> None:
    """Lost: exporting a feature and applying it changes it, because a text looks like something else to YAML."""
    schema = {
        "type": "object",
        "properties": {word: {"enum": [word, 1, 0.5, None, True], "description": title} for word in words},
        "required": words,
    }
    parts = {
        "input_schema": schema,
        "prompt": {"system": title.replace("{{", ""), "user": "{{ input }}\n  two lines\n"},
        "output_schema": schema,
        "limits": {"requests_per_minute": {"session": tokens % 1_000 + 1}},
    }
    policy: dict[str, object] = {"models": models, "max_output_tokens": tokens}
    document = Document("a", "f", title, policy, {"markup_percent": percent}, parts)
    for as_json in (False, True):
        (got,) = read_documents(write_documents([document], as_json=as_json))
        assert got == document
        assert differences(document, got) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("policy: {modles: [a]}", "policy.modles: unknown word; did you mean `models`?"),
        ("policy: {privacy: local_onyl}", "did you mean `local_only`?"),
        ("policy: {route_preference: [local, platfrm_pool]}", "policy.route_preference[1]: must be one of"),
        ("policy: {route_preference: [local, platfrm_pool]}", "did you mean `platform_pool`?"),
        ("policy: {max_output_tokens: 0}", "policy.max_output_tokens: must be"),
        ("policy: {privacy: local_only, route_preference: byok_first}", "policy.privacy: local_only needs"),
        ("policy: []", "policy: must be an object"),
        ("pricing: {markup: 3}", "pricing.markup: unknown word; did you mean `markup_percent`?"),
        ("pricing: {markup_percent: 1001}", "pricing.markup_percent: must be 0 to 1000"),
        ("pricing: {free_quota: 5}", "pricing.free_quota: must be an object with `usd`"),
        ("pricing: {free_quota: {requests: 5}}", "pricing.free_quota.requests: needs `fixed_price_usd`"),
        ("pricing: {mode: fixed_price}", "pricing.fixed_price_usd: "),
        ("pricing: {fixed_price_usd: '0'}", "pricing.fixed_price_usd: must be more than 0"),
        ("pricing: {fixed_price_usd: '1', markup_percent: 3}", "pricing.markup_percent: a fixed price has no markup"),
        ("policy: {model_policy: {order: fast}}", "policy.model_policy.order: must be one of cost"),
        ("policy: {model_policy: {candidates: [a]}, models: [a]}", "policy.models: model_policy.candidates says"),
        ("limits: {requests_per_minute: {end_users: 1}}", "limits.requests_per_minute.end_users: unknown word; did"),
        ("limits: {monthly_spend_usd: {feature: x}}", "limits.monthly_spend_usd.feature: "),
        ("prompt: {user: 'Hi {{ name }}'}", "prompt.user: `{{ name }}` is not a place for input; did you mean `{{ in"),
        ("prompt: {user: 'Hi {{ input.x '}", "prompt.user: `{{` begins a place that does not end"),
        ("prompt: {system: x}", "prompt: has no message of the role `user`"),
        ("prompt: {usr: x}", "prompt.usr: unknown word; did you mean `user`?"),
        ("prompt: {messages: [{role: robot, content: x}]}", "prompt.messages[0].role: must be one of system"),
        ("input_schema: {type: object, propertys: {}}", "input_schema.propertys: is not a word of JSON Schema that"),
        ("input_schema: {type: array}", "input_schema.type: must be object"),
        ("output_schema: {type: object, properties: {a: {type: strin}}}", "output_schema.properties.a.type: "),
        ("input_schema: {$ref: 'https://x.example/s'}", "input_schema.$ref: must be `#/$defs/` and a name"),
        ("input_schema: {type: object, properties: {a: {pattern: '(?=a)'}}}", "input_schema.properties.a.pattern: "),
        ("input_schema: {type: object, properties: {a: {uniqueItems: true}}}", "uniqueItems: needs `maxItems`"),
        ("input_schema: {type: object, $defs: {a: {$ref: '#/$defs/a'}}}", "leads back to itself"),
        ("polcy: {}", "polcy: unknown word; did you mean `policy`?"),
        ("zzz: 1", "zzz: unknown word; there are app, feature"),
        ("app: 'no spaces please'", "app: must be 1 to 128 letters"),
        ("app:", "app: must be there"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(line: str, told: str) -> None:
    """Lost: somebody searches a manifest for a slip of the pen."""
    found = problems(f"feature: f\ndisplay_name: F\n{line}\n")
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("prompt_template", "prompt"),
        ("free_quota", "pricing.free_quota"),
        ("fixed_price_usd", "pricing.fixed_price_usd"),
    ],
)
def test_a_word_in_the_wrong_place_is_told_where_it_belongs(word: str, meant: str) -> None:
    """Lost: a quota or a price that is written down, looks like a promise, and is kept by nobody."""
    found = problems(f"feature: f\ndisplay_name: F\n{word}: 1\n")
    assert found == [f"{word}: unknown word; did you mean `{meant}`?"]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """Lost: a manifest is corrected in as many rounds as it has mistakes."""
    found = problems("policy: {modles: 1, max_output_tokens: x}\npricing: {markup: 1}\n---\nfeature: f\n")
    assert [problem.partition(": ")[0] for problem in found] == [
        "[0].feature",
        "[0].display_name",
        "[0].policy.modles",
        "[0].policy.max_output_tokens",
        "[0].pricing.markup",
        "[1].display_name",
    ]
    assert problems("feature: f\ndisplay_name: F\n---\nfeature: f\ndisplay_name: G\n") == [
        "feature: 'f' is there twice"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("[]", "it is empty"),
        ("- 1\n", "must be an object"),
        ("just text", "must be an object"),
        ("a: [", "line 1"),
        ("{", "line 1, column 2"),
        ("feature: a\nfeature: b\n", "line 2, column 1: the word 'feature' is there twice"),
        ('{"feature": "a", "feature": "b"}', "the word 'feature' is there twice"),
        ('{"policy": NaN}', "NaN is not a number"),
        ("a: &x [1]\nb: [*x, *x]\n", "anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.getcwd []\n", "tags are not allowed"),
        ("1: a\n", "a key must be a word"),
        ("? [a]\n: b\n", "a key must be a word"),
        ("[" * 100_000, "nested too deeply"),
        ("feature: " + "[" * 5_000 + "\n", "nested too deeply"),
        ("a\x00b: 1", "special characters are not allowed"),
        ("x" * 2_000_000, "more than"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_texts_that_are_no_manifest_are_refused(text: str, told: str) -> None:
    """Lost: a file that runs code, blows up in memory, or ends in a traceback."""
    (problem,) = problems(text)
    assert told in problem


def test_differences_are_shown_by_path() -> None:
    """Lost: somebody applies a file without knowing what changes."""
    before = Document("a", "f", "F", {"models": ["x"], "fit_to_wallet": True}, {"markup_percent": 30})
    after = Document("a", "f", "G", {"models": ["x", "y"]}, {"markup_percent": 30, "channel_share_bps": 1})
    assert differences(before, after) == [
        '~ display_name: "F" → "G"',
        "- policy.fit_to_wallet: true",
        '~ policy.models: ["x"] → ["x", "y"]',
        "+ pricing.channel_share_bps: 1",
    ]
    assert differences(None, before)[0] == '+ display_name: "F"'
