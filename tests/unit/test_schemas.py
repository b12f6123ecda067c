"""What a feature's schema says of the values of an input."""

from __future__ import annotations

import pytest

from faucet.tenants.schemas import Schema

SCHEMA = {
    "type": "object",
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string", "x-sensitive": True}}}},
    "properties": {
        "patient": {"$ref": "#/$defs/person"},
        "others": {"type": "array", "items": {"$ref": "#/$defs/person"}},
        "file": {"type": "object", "x-sensitive": True},
        "either": {"anyOf": [{"type": "integer", "x-sensitive": True}, {"type": "boolean"}]},
        "note": {"type": "string"},
    },
    "additionalProperties": {"x-sensitive": True},
}


def test_what_is_marked_is_found_wherever_it_stands() -> None:
    """A name that a schema calls personal would leave, because it stood in a list or behind a reference."""
    told = Schema(SCHEMA, "input_schema").sensitive(
        {
            "patient": {"name": "Ann Example"},
            "others": [{"name": "Ben Example"}, {"name": "Ann Example"}],
            "file": {"id": 71, "lines": ["first", True, None]},
            "either": 12.5,
            "note": "not personal",
            "more": "Carl Example",
        }
    )
    assert told == ("Ann Example", "Ben Example", "71", "first", "12.5", "Carl Example")


def test_the_mark_is_true_or_false() -> None:
    """A typo would let out what was meant to stay."""
    with pytest.raises(ValueError, match=r"^input_schema\.properties\.a\.x-sensitive: must be true or false"):
        Schema({"type": "object", "properties": {"a": {"x-sensitive": "yes"}}}, "input_schema")
