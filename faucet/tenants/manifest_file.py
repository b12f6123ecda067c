"""A feature's manifest as a file: YAML or JSON in, checked as a whole with every problem and its path, and out again.

The file has the feature's key and name beside the words of its policy and pricing (`manifest`). Words that this
version of ModelFaucet does not act on yet are checked for shape and then refused by name, so that nobody relies on
what does nothing. Not here: sending it anywhere.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from faucet.rating.price import PRICING_WORDS, PricePlan
from faucet.tenants.manifest import parse_policy, policy_words

BYTES_MAX = 262_144
FEATURES_MAX = 200
KEY = re.compile(r"[a-zA-Z0-9_:-]{1,128}")
NAME_CHARACTERS_MAX = 200
NOT_YET = {
    "input_schema": "what a feature's input must look like",
    "prompt": "templates that stay on the server",
    "output_schema": "structured output",
    "limits": "limits of a feature (`faucet limits set feature APP/FEATURE …` sets them)",
}
"""Words of a feature that are understood and not acted on: a file that has one is refused."""
_FEATURE_WORDS = ("feature_key", "display_name", "policy", "pricing")
_FILE_WORDS = ("app", "features")


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """One feature of a file, in the words of the API."""

    feature_key: str
    display_name: str
    policy: dict[str, Any]
    pricing: dict[str, Any]

    def body(self) -> dict[str, Any]:
        """What the API takes of it, and gives."""
        return {
            "feature_key": self.feature_key,
            "display_name": self.display_name,
            "policy": self.policy,
            "pricing": self.pricing,
        }


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """An app's features."""

    app: str
    features: tuple[FeatureFile, ...]


class ManifestRefused(ValueError):
    """A file that can't be used, with every problem, each beginning with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_manifest(text: str) -> ManifestFile:
    """The file's features. JSON is YAML too. Raises ManifestRefused."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise ManifestRefused([f"the file has more than {BYTES_MAX} bytes"])
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that is stricter still
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ManifestRefused([f"{place}{error.problem or 'is not YAML'}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestRefused([f"is not YAML ({type(error).__name__})"]) from None
    problems: list[str] = []
    if not isinstance(document, Mapping):
        raise ManifestRefused(["the file must be an object with `app` and `features`"])
    _known(document, _FILE_WORDS, "", problems)
    app = document.get("app")
    if not isinstance(app, str) or not KEY.fullmatch(app):
        problems.append("app: must be the app's public id")
    listed = document.get("features")
    if not isinstance(listed, list) or not 1 <= len(listed) <= FEATURES_MAX:
        problems.append(f"features: must be a list of 1 to {FEATURES_MAX} features")
        listed = []
    features = [_feature(item, f"features[{position}]", problems) for position, item in enumerate(listed)]
    keys = [feature.feature_key for feature in features if feature is not None]
    problems += [f"features: {key!r} is there twice" for key in sorted({key for key in keys if keys.count(key) > 1})]
    if problems:
        raise ManifestRefused(problems)
    return ManifestFile(str(app), tuple(feature for feature in features if feature is not None))


def write_manifest(manifest: ManifestFile, *, as_json: bool = False) -> str:
    """The file that `read_manifest` reads as this manifest."""
    document = {"app": manifest.app, "features": [feature.body() for feature in manifest.features]}
    if as_json:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two features, as the API has them: path, before, after. None is: not there."""
    old, new = _flat(before or {}), _flat(after)
    return [(path, old.get(path), new.get(path)) for path in {**old, **new} if old.get(path) != new.get(path)]


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(item, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = item
    return flat


def _feature(item: Any, path: str, problems: list[str]) -> FeatureFile | None:
    if not isinstance(item, Mapping):
        problems.append(f"{path}: must be an object")
        return None
    for word in item:
        if word in NOT_YET:
            problems.append(f"{path}.{word}: is not acted on yet ({NOT_YET[word]}); take it out")
    _known({word: item[word] for word in item if word not in NOT_YET}, _FEATURE_WORDS, path, problems)
    key, name = item.get("feature_key"), item.get("display_name", item.get("feature_key"))
    if not isinstance(key, str) or not KEY.fullmatch(key):
        problems.append(f"{path}.feature_key: must be 1 to 128 letters, digits, or any of _ : -")
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        problems.append(f"{path}.display_name: must be a text of 1 to {NAME_CHARACTERS_MAX} characters")
    policy, pricing = item.get("policy", {}), item.get("pricing", {})
    found = len(problems)
    for part, words, value in (("policy", policy_words(), policy), ("pricing", PRICING_WORDS, pricing)):
        if isinstance(value, Mapping):
            _known(value, words, f"{path}.{part}", problems)
    if found == len(problems):
        for check in (lambda: parse_policy(policy), lambda: PricePlan.parse_pricing(pricing)):
            try:
                check()
            except ValueError as error:
                problems.append(f"{path}.{error}")
    if len(problems) > found:
        return None
    return FeatureFile(str(key), str(name), dict(policy), dict(pricing))


def _known(value: Mapping[Any, Any], words: tuple[str, ...], path: str, problems: list[str]) -> None:
    for word in value:
        if word not in words:
            text = str(word)[:100]
            problems.append(f"{path}{'.' if path else ''}{text}: unknown word{_did_you_mean(text, words)}")


def _did_you_mean(word: str, words: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, [*words, *NOT_YET], n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(words)}"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML without anchors, whose repetition makes small files huge, without dates, and without repeated words."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a word must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the word {key.value[:100]!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
