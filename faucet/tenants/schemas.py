"""JSON Schemas of a feature's input and output: the subset that is safe to take from anybody, checked and applied.

A schema comes from a developer and is applied to what end users send, so neither may make the other's work
unbounded: references stay inside the document and never lead in a circle, sizes have limits, and patterns run on an
engine that needs time in proportion to the text (no look-around, no back-references). Not here: what is done with
an input (`template`), or when a schema is asked (`gateway.feature_run`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

from pydantic_core import SchemaError as PatternRefused
from pydantic_core import SchemaValidator, ValidationError, core_schema

BYTES_MAX = 32_768
DEPTH_MAX = 20
NODES_MAX = 2_000
"""Subschemas with every reference written out."""
PATTERN_CHARACTERS_MAX = 500
UNIQUE_ITEMS_MAX = 1_000
STEPS_MAX = 200_000
"""Values of an input times subschemas: more is refused, because it would keep a gateway busy for seconds."""
PROBLEMS_MAX = 20
_DRAFT = "https://json-schema.org/draft/2020-12/schema"

_NOTES = ("title", "description", "default", "examples", "format", "$comment", "deprecated", "readOnly", "writeOnly")
"""Words that say something to readers and models, and nothing to us."""
SENSITIVE = "x-sensitive"
"""Says of a value that it is personal: where the feature's privacy redacts, no provider sees it."""
_ONE = ("items", "additionalProperties", "not", "contains")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs")
_PLAIN = (
    "type", "enum", "const", "required", "minProperties", "maxProperties", "minItems", "maxItems", "minContains",
    "maxContains", "uniqueItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "$ref", "$schema",
)  # fmt: skip
SCHEMA_WORDS = (*_PLAIN, *_ONE, *_MANY, *_NAMED, *_NOTES, SENSITIVE)
"""The words of JSON Schema 2020-12 that a manifest may use."""

Problem = tuple[str, str]
"""The path of a value, and what is wrong with it."""


class Schema:
    """A checked schema of an object. Raises ValueError, whose text starts with the path of what is wrong.

    One that `is_stored` was checked when it was entered; what costs much of that is not done again.
    """

    def __init__(self, document: object, path: str, *, is_stored: bool = False) -> None:
        if not isinstance(document, Mapping):
            raise ValueError(f"{path}: must be a JSON Schema, an object")
        try:
            text = json.dumps(document, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{path}: must be JSON") from None
        if len(text) > BYTES_MAX:
            raise ValueError(f"{path}: has more than {BYTES_MAX} characters")
        self.document: Mapping[str, Any] = document
        self.nodes = _Walk(document, path).nodes
        if not is_stored:
            _check_values(document, path)
        if document.get("type") != "object":
            raise ValueError(f"{path}.type: must be object, for a feature's input and output are objects")

    @cached_property
    def _validator(self) -> Any:
        return _validator_class()(self.document)

    def problems(self, value: Any, name: str) -> list[Problem]:
        """What is wrong with a value, each with its path under `name`; empty where nothing is."""
        steps = self.nodes * _count(value)
        if steps > STEPS_MAX:
            return [(name, "has too many values for its schema")]
        found = []
        try:
            for error in self._validator.iter_errors(value):
                found.append((_joined(name, error.absolute_path), _said(error)))
                if len(found) >= PROBLEMS_MAX:
                    break
        except (ArithmeticError, RecursionError):
            return [(name, "has a number or a depth that can't be checked")]
        return found

    def knows(self, names: tuple[str, ...]) -> str | None:
        """None where an input may have a value at this path, else the name that is nearest to the unknown one."""
        node: Any = self.document
        for name in names:
            if not isinstance(node, Mapping):
                return "" if node is False else None
            node = self._resolved(node)
            properties = node.get("properties")
            if isinstance(properties, Mapping):
                if name not in properties:
                    near = difflib.get_close_matches(name, properties, n=1)
                    return near[0] if near else ""
                node = properties[name]
            elif any(word in node for word in ("anyOf", "oneOf", "allOf")) or "type" not in node:
                return None  # one of several shapes: it is known when the input is
            elif "object" not in _list(node["type"]) or node.get("additionalProperties") is False:
                return ""
            else:
                return None
        return None

    def _resolved(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(DEPTH_MAX):
            reference = node.get("$ref")
            if reference is None:
                return node
            found = self.document["$defs"][reference.removeprefix("#/$defs/")]
            node = found if isinstance(found, Mapping) else {}
        return node

    def sensitive(self, value: Any) -> tuple[str, ...]:
        """The texts and numbers of an input that its schema marks `x-sensitive`, each once, as text."""
        found: dict[str, None] = {}
        self._mark(self.document, value, found)
        return tuple(found)

    def _mark(self, node: Any, value: Any, found: dict[str, None]) -> None:
        if not isinstance(node, Mapping):
            return
        node = self._resolved(node)
        if node.get(SENSITIVE) is True:
            found.update(dict.fromkeys(_leaves(value)))
            return
        for word in ("anyOf", "oneOf", "allOf"):
            for each in node.get(word, ()):
                self._mark(each, value, found)
        if isinstance(value, Mapping):
            properties = node.get("properties", {})
            for name, inner in value.items():
                self._mark(properties.get(name, node.get("additionalProperties")), inner, found)
        elif isinstance(value, list):
            first = node.get("prefixItems", ())
            for i, inner in enumerate(value):
                self._mark(first[i] if i < len(first) else node.get("items"), inner, found)

    @property
    def is_strict(self) -> bool:
        """Whether every object of it names all of its properties as required and allows no others.

        Only such a schema may be sent as `strict` to the providers that enforce structured outputs.
        """
        return all(
            node.get("additionalProperties") is False
            and set(node.get("required", ())) == set(node.get("properties", {}))
            for node in _nodes(self.document)
            if "object" in _list(node.get("type", ()))
        )


class _Walk:
    """Looks at every word of a schema once, and counts what it comes to with its references written out."""

    def __init__(self, document: Mapping[str, Any], path: str) -> None:
        self._path = path
        definitions = document.get("$defs", {})
        self._definitions: Mapping[str, Any] = definitions if isinstance(definitions, Mapping) else {}
        self._sizes: dict[str, int] = {}
        self._within: list[str] = []
        self._root = document
        self._seen = 0
        size = self._size(document, path, 0)
        for name in self._definitions:
            self._reference(f"#/$defs/{name}", f"{path}.$defs.{name}")
        self.nodes = size

    def _size(self, node: Any, path: str, depth: int) -> int:
        if isinstance(node, bool):
            return 1
        if not isinstance(node, Mapping):
            raise ValueError(f"{path}: must be a schema, an object")
        self._seen += 1
        if depth > DEPTH_MAX or self._seen > NODES_MAX:
            raise ValueError(
                f"{path}: is nested more than {DEPTH_MAX} deep, or is one of more than {NODES_MAX} schemas"
            )
        size = 1
        for word, value in node.items():
            at = f"{path}.{word}"
            if word not in SCHEMA_WORDS:
                raise ValueError(f"{at}: {_unknown(word)}")
            if word == "$schema" and value != _DRAFT:
                raise ValueError(f"{at}: must be {_DRAFT}")
            if word == "$defs" and node is not self._root:
                raise ValueError(f"{at}: belongs at the top of the schema")
            if word == SENSITIVE and not isinstance(value, bool):
                raise ValueError(f"{at}: must be true or false")
            if word in _ONE:
                size += self._size(value, at, depth + 1)
            elif word in _MANY and isinstance(value, list):
                size += sum(self._size(each, f"{at}[{i}]", depth + 1) for i, each in enumerate(value))
            elif word == "properties" and isinstance(value, Mapping):
                size += sum(self._size(each, f"{at}.{name}", depth + 1) for name, each in value.items())
            elif word == "$ref":
                size += self._reference(value, at)
            elif word == "pattern":
                _check_pattern(value, at)
            elif word == "uniqueItems" and value is True:
                most = node.get("maxItems")
                if type(most) is not int or most > UNIQUE_ITEMS_MAX:
                    raise ValueError(f"{at}: needs `maxItems` of at most {UNIQUE_ITEMS_MAX} beside it")
            if size > NODES_MAX:
                raise ValueError(f"{at}: comes to more than {NODES_MAX} schemas with its references")
        return size

    def _reference(self, reference: object, path: str) -> int:
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
        if not isinstance(reference, str) or name == reference or name not in self._definitions:
            near = difflib.get_close_matches(name, self._definitions, n=1)
            text = f"; did you mean `#/$defs/{near[0]}`?" if near else ""
            raise ValueError(f"{path}: must be `#/$defs/` and a name in this schema's own $defs{text}")
        if name in self._within:
            raise ValueError(f"{path}: leads back to itself")
        if name not in self._sizes:
            self._within.append(name)
            if len(self._within) > DEPTH_MAX:
                raise ValueError(f"{path}: references are nested more than {DEPTH_MAX} deep")
            self._sizes[name] = self._size(self._definitions[name], f"{self._path}.$defs.{name}", 1)
            self._within.pop()
        return self._sizes[name]


def _unknown(word: object) -> str:
    near = difflib.get_close_matches(str(word), SCHEMA_WORDS, n=1)
    return "is not a word of JSON Schema that is known here" + (f"; did you mean `{near[0]}`?" if near else "")


def _check_pattern(value: object, path: str) -> None:
    if not isinstance(value, str) or len(value) > PATTERN_CHARACTERS_MAX:
        raise ValueError(f"{path}: must be a regular expression of at most {PATTERN_CHARACTERS_MAX} characters")
    try:
        _pattern_of(value)
    except PatternRefused as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("error: ")
        raise ValueError(f"{path}: {reason[:200]}") from None


def _check_values(document: Mapping[str, Any], path: str) -> None:
    """That every word has a value of its kind, as the specification's own schema says."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(document))
    if error is not None:
        raise ValueError(f"{_joined(path, error.absolute_path)}: {_said(error)}")


def _leaves(value: Any) -> Iterator[str]:
    """The texts and numbers in a value, as text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        yield node
        for word, value in node.items():
            if word in _ONE:
                yield from _nodes(value)
            elif word in _MANY:
                for each in value:
                    yield from _nodes(each)
            elif word in _NAMED:
                for each in value.values():
                    yield from _nodes(each)


@lru_cache(maxsize=1_000)
def _pattern_of(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _count(value: Any) -> int:
    """The values of a JSON value, itself included. Iterative: an input may be nested as deep as JSON is."""
    seen, left = 0, [value]
    while left:
        each = left.pop()
        seen += 1
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list):
            left += each
    return seen


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _joined(name: str, path: Any) -> str:
    return name + "".join(f"[{part}]" if isinstance(part, int) else f".{str(part)[:100]}" for part in path)


# ── applying ──


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    """JSON Schema's validator with patterns in linear time, and problems that name the property that they are about."""
    from jsonschema import Draft202012Validator, validators

    return validators.extend(
        Draft202012Validator,
        {"pattern": _apply_pattern, "required": _apply_required, "additionalProperties": _apply_additional},
    )


def _apply_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError as Wrong

    if isinstance(instance, str):
        try:
            _pattern_of(pattern).validate_python(instance)
        except ValidationError:
            yield Wrong("pattern")


def _apply_required(validator: Any, required: list[str], instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError as Wrong

    if isinstance(instance, dict):
        for name in required:
            if name not in instance:
                yield Wrong("required", path=(name,))


def _apply_additional(validator: Any, rest: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError as Wrong

    if isinstance(instance, dict):
        for name in instance:
            if name not in schema.get("properties", {}):
                if rest is False:
                    yield Wrong("additionalProperties", path=(name,))
                else:
                    yield from validator.descend(instance[name], rest, path=name)


_SAID = {
    "required": "is missing",
    "additionalProperties": "is not known",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} properties",
    "maxProperties": "must have at most {} properties",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "pattern": "must match {}",
    "enum": "must be one of {}",
    "const": "must be {}",
    "uniqueItems": "must have no item twice",
    "anyOf": "matches none of the shapes that are allowed",
    "oneOf": "must match exactly one of the shapes that are allowed",
    "not": "has a shape that is not allowed",
    "contains": "lacks an item of the shape that must be there",
}


def _said(error: Any) -> str:
    """What is wrong, without the value: it may be long, and it is the caller's."""
    if error.validator == "type":
        kinds = " or ".join(str(kind) for kind in _list(error.validator_value))
        return f"must be of type {kinds}"
    text = _SAID.get(str(error.validator), "does not match its schema")
    if "{}" not in text:
        return text
    return text.format(json.dumps(error.validator_value, ensure_ascii=False)[:300])
