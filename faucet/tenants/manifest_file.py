"""A feature's manifest as a document in YAML or JSON: read strictly, written so that it reads back as it was.

    app: app_support
    feature: reply_to_customer
    display_name: Reply to a customer
    policy:
      models: [mock-small]
    pricing:
      markup_percent: 30
    input_schema: {type: object, properties: {question: {type: string}}, required: [question]}
    prompt: {system: You answer customers., user: "{{ input.question }}"}

A document holds one feature; a YAML file may hold several, with `---` between them, a JSON file an array of them.
Everything that is wrong is told at once, each with its path and, where a word is near a known one, that word. What
the words mean is `manifest`'s, `parts`' and `rating.price`'s.

YAML is read as its JSON part: no tags, no anchors (a short text that names itself could become a huge one), no key
twice, and `yes`, `on` and dates stay text.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from faucet.kit.errors import FaucetError
from faucet.rating.price import PRICING_WORDS, PricePlan
from faucet.tenants.manifest import POLICY_WORDS, parse_manifest, parse_policy
from faucet.tenants.parts import PARTS_WORDS, parse_parts

CHARACTERS_MAX = 1 << 20
DOCUMENTS_MAX = 1_000
PROBLEMS_MAX = 50
NAME_CHARACTERS_MAX = 200
WORDS = ("app", "feature", "display_name", "policy", "pricing", *PARTS_WORDS)
_ELSEWHERE: Mapping[str, str] = {
    "prompt_template": "unknown word; did you mean `prompt`?",
    "free_quota": "unknown word; did you mean `pricing.free_quota`?",
    "fixed_price_usd": "unknown word; did you mean `pricing.fixed_price_usd`?",
    "models": "unknown word; did you mean `policy.models`?",
}
"""Words that stand somewhere else, or are called otherwise."""

_IDENTIFIER = re.compile(r"[a-zA-Z0-9_:-]{1,128}")


class ManifestRefused(FaucetError):
    """A document can't be used. Each problem begins with the path of the word that is wrong."""

    def __init__(self, problems: Sequence[str], name: str = "the manifest") -> None:
        shown = [*problems[:PROBLEMS_MAX]]
        if len(problems) > PROBLEMS_MAX:
            shown.append(f"… and {len(problems) - PROBLEMS_MAX} more")
        super().__init__(f"{name} can't be used:\n" + "\n".join(f"- {problem}" for problem in shown))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Document:
    """One feature as its document says it."""

    app: str | None
    """The app's public id, where the document names one."""
    feature: str
    display_name: str
    policy: dict[str, Any] = field(default_factory=dict)
    pricing: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    """`input_schema`, `prompt`, `output_schema` and `limits`, those that there are."""


def read_documents(text: str, name: str = "the manifest") -> list[Document]:
    """The features that a text describes, at least one. Raises ManifestRefused with every problem at once."""
    found = _values(text, name)
    if not found:
        raise ManifestRefused(["it is empty; a manifest names a `feature` and a `display_name`"], name)
    if len(found) > DOCUMENTS_MAX:
        raise ManifestRefused([f"it has more than {DOCUMENTS_MAX} features"], name)
    problems: list[str] = []
    documents: list[Document] = []
    for position, value in enumerate(found):
        prefix = f"[{position}]." if len(found) > 1 else ""
        wrong = _problems(value)
        problems += [prefix + problem for problem in wrong]
        if not wrong:
            documents.append(_document(value))
    names = [(document.app, document.feature) for document in documents]
    problems += sorted({f"feature: {key!r} is there twice" for app, key in names if names.count((app, key)) > 1})
    if problems:
        raise ManifestRefused(problems, name)
    return documents


def write_documents(documents: Sequence[Document], *, as_json: bool = False) -> str:
    """The text of which `read_documents` makes these."""
    values = [_value(document) for document in documents]
    if as_json:
        return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False, indent=2) + "\n"
    return "---\n".join(
        yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100) for value in values
    )


def differences(before: Document | None, after: Document) -> list[str]:
    """What is different, a line for each path: `+` new, `-` gone, `~` changed."""
    old = {} if before is None else dict(_flat(_value(before)))
    new = dict(_flat(_value(after)))
    lines = []
    for path in sorted(old.keys() | new.keys()):
        if path == "app":
            continue
        if path not in old:
            lines.append(f"+ {path}: {_shown(new[path])}")
        elif path not in new:
            lines.append(f"- {path}: {_shown(old[path])}")
        elif _shown(old[path]) != _shown(new[path]):
            lines.append(f"~ {path}: {_shown(old[path])} → {_shown(new[path])}")
    return lines


# ── text ──


def _values(text: str, name: str) -> list[Any]:
    if len(text) > CHARACTERS_MAX:
        raise ManifestRefused([f"it has more than {CHARACTERS_MAX} characters"], name)
    try:
        if text.lstrip().startswith(("{", "[")):
            value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
            return value if isinstance(value, list) else [value]
        return [value for value in yaml.load_all(text, Loader=_Loader) if value is not None]
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        problem = at + (error.problem or error.context or "is not YAML")
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise ManifestRefused([problem], name)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, _ in pairs if sum(1 for other, _ in pairs if other == key) > 1)
        raise ValueError(f"the word {twice!r} is there twice in one object")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


class _Loader(yaml.SafeLoader):
    """YAML's JSON part."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "tags are not allowed", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                problem = f"the word {key.value!r} is there twice in one object"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads: texts that look like something else to other readers of YAML are quoted, too."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)(?:[eE][-+][0-9]+)?$"),
    list("-0123456789"),
)


# ── words ──


def _problems(value: object) -> list[str]:
    """Everything that is wrong with one document."""
    if not isinstance(value, Mapping):
        return ["it must be an object with the words " + ", ".join(WORDS)]
    problems = [_unknown(word, "", WORDS) for word in value if word not in WORDS]
    for word, needed in (("app", False), ("feature", True)):
        given = value.get(word)
        if given is None and (needed or word in value):
            problems.append(f"{word}: must be there")
        elif given is not None and not (isinstance(given, str) and _IDENTIFIER.fullmatch(given)):
            problems.append(f"{word}: must be 1 to 128 letters, digits, `_`, `:` and `-`")
    title = value.get("display_name")
    if not isinstance(title, str) or not title.strip() or len(title) > NAME_CHARACTERS_MAX or "\x00" in title:
        problems.append(f"display_name: must be there, a text of 1 to {NAME_CHARACTERS_MAX} characters")
    policy, pricing = value.get("policy", {}), value.get("pricing", {})
    problems += _section("policy", policy, POLICY_WORDS, parse_policy)
    problems += _section("pricing", pricing, PRICING_WORDS, PricePlan.parse_pricing)
    parts = {word: value[word] for word in PARTS_WORDS if word in value}
    for word, given in parts.items():
        # A prompt is checked against the schema of its input; where that is wrong, it has been told.
        beside = {"input_schema": parts["input_schema"]} if word == "prompt" and "input_schema" in parts else {}
        if word != "prompt" or not any(problem.startswith("input_schema") for problem in problems):
            problems += _refused(lambda w=word, g=given, b=beside: parse_parts({w: g} | b))
    if not any(problem.startswith(("policy", "pricing", *PARTS_WORDS)) for problem in problems):
        # Each word by itself is well; some are wrong only beside others.
        problems += _refused(lambda: parse_manifest(policy, pricing, parts, default_share_bps=0))
    return problems


_NEEDS_OTHERS = (("pricing", "mode"), ("pricing", "free_quota"))


def _section(name: str, value: object, words: Collection[str], parse: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{name}: must be an object"]
    problems = []
    for word, given in value.items():
        if word not in words:
            problems.append(_unknown(word, f"{name}.", words))
        elif (name, word) not in _NEEDS_OTHERS and ((name, word) != ("policy", "privacy") or given != "local_only"):
            problems += [
                _with_suggestion(problem, given) for problem in _refused(lambda w=word, g=given: parse({w: g}))
            ]
    return problems


def _refused(parse: Any) -> list[str]:
    try:
        parse()
    except ValueError as error:
        return [str(error)]
    return []


def _unknown(word: object, path: str, words: Collection[str]) -> str:
    shown = f"{path}{str(word)[:100]}"
    if shown in _ELSEWHERE:
        return f"{shown}: {_ELSEWHERE[shown]}"
    near = difflib.get_close_matches(str(word), words, n=1)
    return f"{shown}: unknown word; " + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(words)}")


def _with_suggestion(problem: str, given: object) -> str:
    """A problem whose text lists the words that are allowed, with the one that was probably meant."""
    path, _, text = problem.partition(": ")
    listed = text.removeprefix("must be one of ")
    at = re.search(r"\[(\d+)\]$", path)
    word = given[int(at[1])] if at and isinstance(given, list) else given
    if listed == text or not isinstance(word, str):
        return problem
    near = difflib.get_close_matches(word, listed.split(", "), n=1)
    return f"{problem}; did you mean `{near[0]}`?" if near else problem


def _document(value: Mapping[str, Any]) -> Document:
    return Document(
        app=value.get("app"),
        feature=value["feature"],
        display_name=value["display_name"],
        policy=dict(value.get("policy", {})),
        pricing=dict(value.get("pricing", {})),
        parts={word: value[word] for word in PARTS_WORDS if word in value},
    )


def _value(document: Document) -> dict[str, Any]:
    value: dict[str, Any] = {} if document.app is None else {"app": document.app}
    return value | {
        "feature": document.feature,
        "display_name": document.display_name,
        "policy": document.policy,
        "pricing": document.pricing,
        **document.parts,
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for word, given in value.items():
        if isinstance(given, Mapping) and (given or not prefix):
            found += _flat(given, f"{prefix}{word}.")
        else:
            found.append((f"{prefix}{word}", given))
    return found


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
