"""A request of OpenAI's Responses API as a chat completion.

Format: OpenAI's API reference, "Create a model response". Nothing is kept between requests: what needs a response
that was kept (`previous_response_id`, `conversation`, references to items) is refused with that reason.
"""

from __future__ import annotations

from typing import Any

from faucet.gateway.faces.face import Fields, compact, encode, obj, objects, read_object, refuse_words, string, text_of
from faucet.kit.errors import field_error

_NOT_KEPT = "responses are not kept here: send the whole conversation in `input`"
_NOT_OFFERED = {
    "previous_response_id": _NOT_KEPT,
    "conversation": _NOT_KEPT,
    "background": "answers in the background are not offered here; use `stream`",
    "background_options": "answers in the background are not offered here; use `stream`",
    "prompt": "stored prompts are not offered here; a feature's manifest has its own",
    "context_management": "is not offered here; send what shall count",
    "max_tool_calls": "tools that run at the provider are not offered here",
    "moderation": "is not offered here",
    "image": "pictures as answers are not offered here",
}
_SAME = (
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "metadata",
    "stream",
)
_READ = frozenset(
    {
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "max_output_tokens",
        "top_logprobs",
        "include",
        "store",
        "truncation",
        "stream_options",
        "prompt_cache_options",
        *_SAME,
        *_NOT_OFFERED,
    }
)


def chat_of(fields: Fields) -> bytes:
    """The request as a chat completion. Raises Refusal `invalid_request`."""
    refuse_words(fields, _NOT_OFFERED)
    if fields.get("truncation") not in (None, "disabled"):
        raise field_error("truncation", "only `disabled` is offered here")
    chat = {name: value for name, value in fields.items() if name not in _READ}
    chat |= compact(
        model=fields.get("model"),
        max_completion_tokens=fields.get("max_output_tokens"),
        **{name: fields.get(name) for name in _SAME},
    )
    chat["messages"] = _messages(fields)
    if fields.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if fields.get("top_logprobs"):
        chat |= {"logprobs": True, "top_logprobs": fields["top_logprobs"]}
    if fields.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(objects(fields["tools"], "tools"))]
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise field_error("tool_choice.type", "only functions are offered here", param="tool_choice")
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice is not None and chat.get("tools"):
        chat["tool_choice"] = choice
    reasoning = fields.get("reasoning")
    if reasoning is not None and obj(reasoning, "reasoning").get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    _text(fields.get("text"), chat)
    return encode(chat)


def read(body: bytes) -> Fields:
    """The request as it came. Raises Refusal `invalid_request`."""
    return read_object(body)


def _messages(fields: Fields) -> list[Fields]:
    found: list[Fields] = []
    if fields.get("instructions"):
        found.append({"role": "system", "content": string(fields["instructions"], "instructions")})
    given = fields.get("input")
    if isinstance(given, str):
        return [*found, {"role": "user", "content": given}]
    items = objects(given, "input")
    if not items:
        raise field_error("input", "must be a text or an array of at least one item")
    for i, item in enumerate(items):
        _take(item, f"input[{i}]", found)
    return found


def _take(item: Fields, path: str, found: list[Fields]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise field_error(f"{path}.role", "must be `user`, `assistant`, `system` or `developer`", param="input")
        content = item.get("content")
        if not isinstance(content, str):
            content = [
                _part(part, f"{path}.content[{j}]") for j, part in enumerate(objects(content, f"{path}.content"))
            ]
            if role != "user":
                content = "".join(part.get("text", "") for part in content)
        # `developer` is a newer word for `system` that not every provider knows.
        found.append({"role": "system" if role == "developer" else role, "content": content})
    elif kind == "function_call":
        call = {
            "id": string(item.get("call_id"), f"{path}.call_id"),
            "type": "function",
            "function": {
                "name": string(item.get("name"), f"{path}.name"),
                "arguments": string(item.get("arguments"), f"{path}.arguments"),
            },
        }
        if not found or found[-1]["role"] != "assistant":
            found.append({"role": "assistant", "content": None})
        found[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        told = text_of(item.get("output"), f"{path}.output")
        found.append({"role": "tool", "tool_call_id": string(item.get("call_id"), f"{path}.call_id"), "content": told})
    elif kind == "item_reference":
        raise field_error(path, _NOT_KEPT, param="input")
    elif kind != "reasoning":  # what was thought is the provider's own affair
        raise field_error(path, f"an item of the type {str(kind)[:50]!r} is not offered here", param="input")


def _part(part: Fields, path: str) -> Fields:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": string(part.get("text"), f"{path}.text")}
    if kind == "refusal":
        return {"type": "text", "text": string(part.get("refusal"), f"{path}.refusal")}
    if kind == "input_image":
        if part.get("image_url") is None:
            raise field_error(f"{path}.file_id", "files are not kept here: send `image_url`", param="input")
        image = compact(url=string(part["image_url"], f"{path}.image_url"), detail=part.get("detail"))
        return {"type": "image_url", "image_url": image}
    if kind == "input_file" and part.get("file_data") is not None:
        return {"type": "file", "file": compact(filename=part.get("filename"), file_data=part["file_data"])}
    raise field_error(path, f"a part of the type {str(kind)[:50]!r} is not offered here", param="input")


def _tool(tool: Fields, path: str) -> Fields:
    if tool.get("type") != "function":
        raise field_error(f"{path}.type", "only tools of your own (`function`) are offered here", param="tools")
    function = compact(
        name=string(tool.get("name"), f"{path}.name"),
        description=tool.get("description"),
        parameters=tool.get("parameters"),
        strict=tool.get("strict"),
    )
    return {"type": "function", "function": function}


def _text(text: Any, chat: Fields) -> None:
    if text is None:
        return
    if obj(text, "text").get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    form = text.get("format")
    if form is None or obj(form, "text.format").get("type") == "text":
        return
    if form.get("type") == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif form.get("type") == "json_schema":
        shape = compact(
            name=form.get("name"),
            description=form.get("description"),
            schema=form.get("schema"),
            strict=form.get("strict"),
        )
        chat["response_format"] = {"type": "json_schema", "json_schema": shape}
    else:
        raise field_error("text.format.type", "must be `text`, `json_object` or `json_schema`", param="text")
