"""A feature's prompt: messages with places for an end user's input, which is put in once and never read again.

    prompt:
      system: You answer customers of {{ input.shop }} politely.
      user: "{{ input.question }}"

A place is `{{ input.name }}`, or `{{ input.name.of.a.property }}`, or `{{ input }}` for all of it. The template is cut
into its pieces when it is entered; putting values in only joins pieces, so nothing that an input says can become a
place, a message or a role. A text goes in as it is, a list or an object as JSON, and what is missing as nothing.
`\\{{` is two braces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faucet.kit.words import unknown_word
from faucet.tenants.schemas import Schema

MESSAGES_MAX = 50
CHARACTERS_MAX = 65_536
RENDERED_CHARACTERS_MAX = 1 << 21
ROLES = ("system", "developer", "user", "assistant")
PROMPT_WORDS = ("messages", "system", "user", "locked")
_PLACE = re.compile(r"\\\{\{|\{\{(.*?)\}\}|\{\{", re.S)
_NAME = re.compile(r"input(?:\.[A-Za-z_][A-Za-z0-9_-]{0,99}){0,10}")

Piece = str | tuple[str, ...]
"""A text as it stands, or the path of a value under `input`."""


class TooLong(ValueError):
    """The messages with this input are longer than a request may be."""


@dataclass(frozen=True, slots=True)
class Template:
    """A checked prompt."""

    messages: tuple[tuple[str, tuple[Piece, ...]], ...]
    """Role and pieces of each."""
    locked: bool = False
    """Whether the feature answers its own prompt only, and no chat."""

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The messages with the values in their places. Raises TooLong."""
        rendered = []
        room = RENDERED_CHARACTERS_MAX
        for role, pieces in self.messages:
            texts = []
            for piece in pieces:
                text = piece if isinstance(piece, str) else _shown(_value(values, piece))
                room -= len(text)
                if room < 0:
                    raise TooLong(f"the prompt with this input has more than {RENDERED_CHARACTERS_MAX} characters")
                texts.append(text)
            rendered.append({"role": role, "content": "".join(texts)})
        return rendered

    def standing(self) -> list[dict[str, str]]:
        """What a chat with the feature begins with: the system's messages before any other, without input."""
        standing = []
        for role, pieces in self.messages:
            if role not in ("system", "developer"):
                break
            standing.append({"role": role, "content": "".join(p if isinstance(p, str) else "" for p in pieces)})
        return standing


def parse_prompt(prompt: object, schema: Schema | None, path: str = "prompt") -> Template:
    """The template of a manifest's `prompt`. Raises ValueError, whose text starts with the path of what is wrong."""
    if not isinstance(prompt, Mapping):
        raise ValueError(f"{path}: must be an object with `messages`, or with `system` and `user`")
    for word in prompt:
        if word not in PROMPT_WORDS:
            raise unknown_word(path, word, PROMPT_WORDS)
    locked = prompt.get("locked", False)
    if not isinstance(locked, bool):
        raise ValueError(f"{path}.locked: must be true or false")
    given = _given(prompt, path)
    if sum(len(content) for _, content, _ in given) > CHARACTERS_MAX:
        raise ValueError(f"{path}: has more than {CHARACTERS_MAX} characters")
    if not any(role == "user" for role, _, _ in given):
        raise ValueError(f"{path}: has no message of the role `user`")
    return Template(tuple((role, _pieces(content, schema, at)) for role, content, at in given), locked)


def _given(prompt: Mapping[str, Any], path: str) -> list[tuple[str, str, str]]:
    """Role, content and path of each message."""
    if "messages" not in prompt:
        given = [(role, prompt[role], f"{path}.{role}") for role in ("system", "user") if role in prompt]
        if not given:
            raise ValueError(f"{path}: must have `messages`, or `system` and `user`")
    else:
        for word in ("system", "user"):
            if word in prompt:
                raise ValueError(f"{path}.{word}: is one of `messages` already, or stands without them")
        messages = prompt["messages"]
        if not isinstance(messages, list | tuple) or not 1 <= len(messages) <= MESSAGES_MAX:
            raise ValueError(f"{path}.messages: must be an array of 1 to {MESSAGES_MAX} messages")
        given = []
        for i, message in enumerate(messages):
            at = f"{path}.messages[{i}]"
            if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
                raise ValueError(f"{at}: must be an object with `role` and `content`")
            if message["role"] not in ROLES:
                raise ValueError(f"{at}.role: must be one of {', '.join(ROLES)}")
            given.append((message["role"], message["content"], f"{at}.content"))
    for _, content, at in given:
        if not isinstance(content, str) or not content or not _is_text(content):
            raise ValueError(f"{at}: must be a text")
    return given


def _is_text(content: str) -> bool:
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in content


def _pieces(content: str, schema: Schema | None, path: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    end = 0
    for match in _PLACE.finditer(content):
        pieces.append(content[end : match.start()])
        end = match.end()
        if match[0].startswith("\\"):
            pieces.append("{{")
            continue
        if match[1] is None:
            raise ValueError(f"{path}: `{{{{` begins a place that does not end; write `\\{{{{` for two braces")
        pieces.append(_place(match[1].strip(), schema, path))
    pieces.append(content[end:])
    return tuple(piece for piece in pieces if piece)


def _place(name: str, schema: Schema | None, path: str) -> tuple[str, ...]:
    if not _NAME.fullmatch(name):
        shown = name[:100]
        hint = f"; did you mean `{{{{ input.{shown} }}}}`?" if re.fullmatch(r"[A-Za-z_][\w.-]*", shown) else ""
        raise ValueError(f"{path}: `{{{{ {shown} }}}}` is not a place for input{hint}")
    names = tuple(name.split("."))
    if schema is not None:
        near = schema.knows(names[1:])
        if near is not None:
            hint = f"; did you mean `{near}`?" if near else ""
            raise ValueError(f"{path}: input_schema knows no `{name}`{hint}")
    return names


def _value(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    value: Any = values
    for name in names[1:]:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
