"""A request of Anthropic's Messages API as a chat completion.

Format: Anthropic's API reference, "Create a Message". Tools that run at Anthropic, containers and the like are
refused: they would be billed outside of our rating, or are not there when another provider answers.
"""

from __future__ import annotations

from typing import Any

from faucet.gateway.faces.face import (
    Fields,
    compact,
    encode,
    is_thought,
    obj,
    objects,
    read_object,
    refuse_words,
    string,
)
from faucet.kit.errors import field_error
from faucet.providers.chat_words import SIGNED_THINKING

_NOT_OFFERED = {
    "container": "containers are not offered here",
    "mcp_servers": "servers of tools are not offered here",
    "context_management": "is not offered here; send the messages that shall count",
    "inference_geo": "where an answer is made can't be chosen here",
    "prefill": "is not offered here; end `messages` with one of the assistant's",
}
_READ = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "system",
        "stop_sequences",
        "stream",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "service_tier",
        "metadata",
        "cache_control",
        "diagnostics",
        "speed",
        *_NOT_OFFERED,
    }
)
_EFFORTS = ((2048, "low"), (8192, "medium"))
"""A thinking budget up to so many tokens is called so; a larger one is `high`."""


def chat_of(body: bytes) -> bytes:
    """The request as a chat completion. Raises Refusal `invalid_request`."""
    fields = read_object(body)
    refuse_words(fields, _NOT_OFFERED)
    if fields.get("max_tokens") is None:
        raise field_error("max_tokens", "is required")
    chat = {name: value for name, value in fields.items() if name not in _READ}
    chat |= compact(
        model=fields.get("model"),
        max_completion_tokens=fields["max_tokens"],
        stop=fields.get("stop_sequences"),
    )
    chat["messages"] = _messages(fields)
    if fields.get("stream"):
        chat["stream"] = fields["stream"]
        chat["stream_options"] = {"include_usage": True}
    if fields.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(objects(fields["tools"], "tools"))]
    _tool_choice(fields.get("tool_choice"), chat)
    _thinking(fields, chat)
    _metadata(fields.get("metadata"), chat)
    return encode(chat)


def _messages(fields: Fields) -> list[Fields]:
    given = objects(fields.get("messages"), "messages")
    if not given:
        raise field_error("messages", "must be an array of at least one message")
    found: list[Fields] = []
    if fields.get("system"):
        found.append({"role": "system", "content": _system(fields["system"])})
    for i, message in enumerate(given):
        path = f"messages[{i}]"
        role = message.get("role")
        content = message.get("content")
        if role not in ("user", "assistant", "system"):
            raise field_error(f"{path}.role", "must be `user` or `assistant`", param="messages")
        if isinstance(content, str):
            found.append({"role": role, "content": content})
            continue
        blocks = objects(content, f"{path}.content")
        if role == "assistant":
            found += _assistant(blocks, path)
        else:
            found += _asked(role, blocks, path)
    return found


def _system(system: Any) -> str | list[Fields]:
    if isinstance(system, str):
        return system
    return [
        _cached({"type": "text", "text": string(block.get("text"), f"system[{i}].text")}, block)
        for i, block in enumerate(objects(system, "system"))
    ]


def _assistant(blocks: list[Fields], path: str) -> list[Fields]:
    """A turn of the model: one message, or some, where it thought again after it had said something."""
    messages: list[Fields] = []
    texts: list[str] = []
    calls: list[Fields] = []
    thoughts: list[Fields] = []
    for i, block in enumerate(blocks):
        here = f"{path}.content[{i}]"
        kind = block.get("type")
        if kind == "text":
            texts.append(string(block.get("text"), f"{here}.text"))
        elif kind == "tool_use":
            name = string(block.get("name"), f"{here}.name")
            arguments = encode(obj(block.get("input", {}), f"{here}.input")).decode()
            calls.append(
                {
                    "id": string(block.get("id"), f"{here}.id"),
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
            )
        elif kind not in ("thinking", "redacted_thinking"):
            raise field_error(here, f"a block of the type {str(kind)[:50]!r} can't be an assistant's here")
        elif is_thought(block):
            if texts and not calls:
                messages.append(_turn(texts, calls, thoughts))
                texts, thoughts = [], []
            thoughts.append(block)
    return [*messages, _turn(texts, calls, thoughts)]


def _turn(texts: list[str], calls: list[Fields], thoughts: list[Fields]) -> Fields:
    message: Fields = {"role": "assistant", "content": "".join(texts) if texts else None}
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    if thoughts:
        message[SIGNED_THINKING] = thoughts
    return message


def _asked(role: str, blocks: list[Fields], path: str) -> list[Fields]:
    """What a person says, after the results of tools: they answer the calls of the message before."""
    results: list[Fields] = []
    parts: list[Fields] = []
    for i, block in enumerate(blocks):
        here = f"{path}.content[{i}]"
        if block.get("type") == "tool_result":
            shown = _result(block, here, parts)
            results.append(
                {
                    "role": "tool",
                    "tool_call_id": string(block.get("tool_use_id"), f"{here}.tool_use_id"),
                    "content": shown,
                }
            )
        else:
            parts.append(_part(block, here))
    return results + ([{"role": role, "content": parts}] if parts or not results else [])


def _result(block: Fields, path: str, parts: list[Fields]) -> str:
    """A tool's result as text. Pictures in it are shown beside it: a tool's message can't carry them."""
    content = block.get("content")
    if content is None or isinstance(content, str):
        text = content or ""
    else:
        texts = []
        for i, inner in enumerate(objects(content, f"{path}.content")):
            if inner.get("type") == "text":
                texts.append(string(inner.get("text"), f"{path}.content[{i}].text"))
            else:
                parts.append(_part(inner, f"{path}.content[{i}]"))
        text = "\n".join(texts)
    return f"Error: {text}" if block.get("is_error") is True else text


def _part(block: Fields, path: str) -> Fields:
    kind = block.get("type")
    if kind == "text":
        return _cached({"type": "text", "text": string(block.get("text"), f"{path}.text")}, block)
    if kind in ("image", "document"):
        source = obj(block.get("source"), f"{path}.source")
        if source.get("type") == "text" and kind == "document":
            return _cached({"type": "text", "text": string(source.get("data"), f"{path}.source.data")}, block)
        if source.get("type") == "base64":
            media = string(source.get("media_type"), f"{path}.source.media_type")
            url = f"data:{media};base64,{string(source.get('data'), f'{path}.source.data')}"
            if kind == "document":
                name = block.get("title") or "document.pdf"
                return _cached({"type": "file", "file": {"filename": name, "file_data": url}}, block)
            return _cached({"type": "image_url", "image_url": {"url": url}}, block)
        if source.get("type") == "url" and kind == "image":
            url = string(source.get("url"), f"{path}.source.url")
            return _cached({"type": "image_url", "image_url": {"url": url}}, block)
    raise field_error(path, f"a block of the type {str(kind)[:50]!r} with such a source is not offered here")


def _cached(part: Fields, block: Fields) -> Fields:
    """The mark that a prompt may be kept by the provider up to here travels on, for those that know it."""
    if block.get("cache_control") is not None:
        part["cache_control"] = block["cache_control"]
    return part


def _tool(tool: Fields, path: str) -> Fields:
    if tool.get("type") not in (None, "custom"):
        raise field_error(f"{path}.type", "only tools of your own (`custom`) are offered here", param="tools")
    function = compact(
        name=string(tool.get("name"), f"{path}.name"),
        description=tool.get("description"),
        parameters=obj(tool.get("input_schema"), f"{path}.input_schema"),
        strict=tool.get("strict"),
    )
    return _cached({"type": "function", "function": function}, tool)


def _tool_choice(choice: Any, chat: Fields) -> None:
    if choice is None:
        return
    kind = obj(choice, "tool_choice").get("type")
    if kind == "tool":
        name = string(choice.get("name"), "tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in ("auto", "any", "none"):
        chat["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise field_error("tool_choice.type", "must be `auto`, `any`, `tool` or `none`", param="tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        chat["parallel_tool_calls"] = False


def _thinking(fields: Fields, chat: Fields) -> None:
    thinking = fields.get("thinking")
    if thinking is not None:
        kind = obj(thinking, "thinking").get("type")
        if kind == "enabled":
            budget = thinking.get("budget_tokens")
            if type(budget) is not int or budget < 1:
                raise field_error("thinking.budget_tokens", "must be a whole number of at least 1", param="thinking")
            chat["reasoning_effort"] = next((word for most, word in _EFFORTS if budget <= most), "high")
        elif kind not in ("disabled", "adaptive"):
            raise field_error("thinking.type", "must be `enabled`, `adaptive` or `disabled`", param="thinking")
        if kind != "disabled":
            chat[SIGNED_THINKING] = thinking
    config = fields.get("output_config")
    if config is not None:
        effort = obj(config, "output_config").get("effort")
        if effort is not None:
            chat["reasoning_effort"] = "high" if effort == "max" else string(effort, "output_config.effort")
        form = config.get("format")
        if form is not None:
            if obj(form, "output_config.format").get("type") != "json_schema":
                raise field_error("output_config.format.type", "must be `json_schema`", param="output_config")
            schema = obj(form.get("schema"), "output_config.format.schema")
            chat["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }


def _metadata(metadata: Any, chat: Fields) -> None:
    """`user_id` is how this API names whom an answer is for; the other words are ours or the caller's."""
    if metadata is None:
        return
    rest = dict(obj(metadata, "metadata"))
    named = rest.pop("user_id", None)
    if named is not None:
        chat["user"] = string(named, "metadata.user_id")
    if rest:
        chat["metadata"] = rest
