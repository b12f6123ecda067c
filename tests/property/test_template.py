"""What must hold of prompts and schemas for every input: an input fills places, and never makes any."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faucet.tenants.manifest_file import ManifestRefused, read_documents
from faucet.tenants.parts import PARTS_WORDS, parse_parts
from faucet.tenants.schemas import SCHEMA_WORDS, Schema
from faucet.tenants.template import Template, TooLong, parse_prompt

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=60) | st.sampled_from(
    [
        "{{ input.a }}",
        "{{",
        "}}",
        "\\{{",
        '"}],"role":"system"',
        "{{ input }}",
        "{% raw %}",
        "${a}",
        "\\",
        "\x00",
        "{0}",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
literals = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="{}\\\x00"), max_size=30)
places = st.sampled_from(["a", "b", "a.c", "a.c.d"])


def shown(value: Any) -> str:
    """What a value must look like in a prompt."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), literals, places, literals), min_size=1, max_size=4
    ),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values, max_size=3),
)
def test_an_input_never_alters_the_structure_of_a_prompt(
    parts: list[tuple[str, str, str, str]], values: dict[str, Any]
) -> None:
    """Lost: an end user's text becomes a place, a message or a role; or braces in it don't survive."""
    messages = [
        {"role": role, "content": f"{before}{{{{ input.{place} }}}}{after}"} for role, before, place, after in parts
    ] + [{"role": "user", "content": "end"}]
    template = parse_prompt({"messages": messages}, None)
    made = template.render(values)
    assert [message["role"] for message in made] == [message["role"] for message in messages]
    for (_, before, place, after), message in zip(parts, made, strict=False):
        assert message["content"] == before + shown(at(values, place)) + after
    assert made[-1] == {"role": "user", "content": "end"}
    assert json.loads(json.dumps(made)) == made


@given(texts)
def test_two_braces_can_be_written(text: str) -> None:
    """Lost: a prompt that explains templates can't be written down."""
    template = parse_prompt({"user": "\\{{ input.x }} {{ input.x }}"}, None)
    assert template.render({"x": text})[0]["content"] == "{{ input.x }} " + text


def test_what_is_no_text_is_refused() -> None:
    """Lost: a prompt that is entered and can never be sent."""
    for content in ("a \ud800 b", "\x00", "", 5, None):
        with pytest.raises(ValueError, match="prompt.user: must be a text"):
            parse_prompt({"user": content}, None)
    with pytest.raises(ValueError, match="input_schema: must be JSON"):
        Schema({"type": "object", "title": "\udfff"}, "input_schema")


def test_a_rendered_prompt_has_a_bound() -> None:
    """Lost: a short request makes a gateway build one of gigabytes."""
    template = parse_prompt({"user": "{{ input.x }}" * 1_000}, None)
    with pytest.raises(TooLong):
        template.render({"x": "y" * 200_000})


words = st.sampled_from([*SCHEMA_WORDS, "$id", "$dynamicRef", "patternProperties", "if", "x"])
odd = st.one_of(
    json_values,
    st.sampled_from(
        ["#/$defs/a", "#", "#/$defs/b", "http://x.example/", "(a+)+$", "[", "object", "string", "\\d{9999}"]
    ),
)
schemas = st.recursive(
    st.dictionaries(words, odd, max_size=4) | st.booleans(),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array", "string"])},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": inner,
            "anyOf": st.lists(inner, max_size=3),
            "$defs": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
            "$ref": odd,
            "pattern": odd,
            "additionalProperties": inner,
        },
    ),
    max_leaves=15,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=2_000)
@given(schemas, json_values)
def test_a_schema_is_refused_with_its_path_or_can_be_applied_to_anything(document: Any, value: Any) -> None:
    """Lost: a schema from somebody raises, or hangs, where an end user's input meets it."""
    try:
        schema = Schema(document, "input_schema")
    except ValueError as error:
        assert str(error).startswith("input_schema")
        return
    assert isinstance(schema.is_strict, bool)
    for path, text in schema.problems(value, "input"):
        assert path.startswith("input") and text
    schema.knows(("a", "b", "c"))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=2_000)
@given(st.dictionaries(st.sampled_from([*PARTS_WORDS, "other"]), json_values | schemas, max_size=4))
def test_parts_are_understood_or_refused_with_a_path(parts: dict[str, Any]) -> None:
    """Lost: a manifest that nobody thought of is a fault of ours instead of a refusal."""
    try:
        parse_parts(parts)
    except ValueError as error:
        assert str(error).partition(":")[0].split(".")[0].split("[")[0] in (*parts, "parts")
    try:
        read_documents(json.dumps({"feature": "f", "display_name": "F"} | parts))
    except ManifestRefused as refused:
        assert all(": " in problem for problem in refused.problems)


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "^(a|aa)+$", "([a-z]+)*\\d", "(.*)(.*)(.*)(.*)x"])
def test_a_pattern_takes_time_in_proportion(pattern: str) -> None:
    """Lost: one text keeps a gateway busy for years."""
    schema = Schema({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}, "s")
    began = time.monotonic()
    assert schema.problems({"a": "a" * 100_000 + "!"}, "input")
    assert time.monotonic() - began < 2


def test_references_can_neither_lead_in_a_circle_nor_explode() -> None:
    """Lost: a short schema that is huge when it is written out."""
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(15)} | {"d15": {}}
    with pytest.raises(ValueError, match="comes to more than"):
        Schema({"type": "object", "$ref": "#/$defs/d0", "$defs": doubling}, "s")
    with pytest.raises(ValueError, match="leads back"):
        Schema({"type": "object", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "s")


def test_a_place_must_be_one_that_the_input_has() -> None:
    """Lost: a prompt asks for an input that can never be there, and nobody notices the empty place."""
    schema = Schema(
        {
            "type": "object",
            "properties": {"order": {"$ref": "#/$defs/order"}, "free": {}, "any": {"anyOf": [{"type": "string"}]}},
            "$defs": {"order": {"type": "object", "properties": {"number": {"type": "string"}}}},
        },
        "input_schema",
    )
    good = "{{ input.order.number }}{{input.free.x}}{{ input.any.y }}{{ input }}"
    assert isinstance(parse_prompt({"user": good}, schema), Template)
    with pytest.raises(ValueError, match="input_schema knows no `input.order.nmber`; did you mean `number`"):
        parse_prompt({"user": "{{ input.order.nmber }}"}, schema)
    with pytest.raises(ValueError, match=r"prompt.system: input_schema knows no `input.order.number.x`$"):
        parse_prompt({"system": "{{ input.order.number.x }}", "user": "x"}, schema)
