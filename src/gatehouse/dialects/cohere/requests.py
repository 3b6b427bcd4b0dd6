"""Requests to Cohere's `/v2/chat`, written from a `Call`.

Whatever a call asks for and Cohere has no words for is refused before a byte is sent. A tool that must be called is asked
for as the only one, since a tool cannot be named. Text beside the tool calls of an assistant is the `tool_plan`, as Cohere
itself calls it. Not sent are `user`, `metadata`, `name` and what a tool failed with (`is_error`: its text says so).
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, ImagePart, Message, Part, RefusalPart, ResponseFormat, TextPart, ThinkingPart, Tool
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._opinions import NOT_ASKED

_Json = dict[str, Any]

_SAME: Final = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logprobs": "logprobs",
}
_NO_PARAMETERS: Final[_Json] = {"type": "object", "properties": {}}


def encode_request(call: Call, model: str) -> bytes:
    """The body that asks `model` for what `call` says.

    Raises:
        UpstreamFailed: naming what Cohere has no words for (nothing was sent).
    """
    _refuse(call)
    body: _Json = {name: value for name, value in call.extra.items() if name not in NOT_ASKED}
    body["model"] = model
    body["messages"] = [_message(message, f"messages[{at}]") for at, message in enumerate(call.messages)]
    body["stream"] = call.stream
    if call.tools:
        _write_tools(call, body)
    if call.response_format is not None and call.response_format.kind != "text":
        body["response_format"] = _format(call.response_format)
    if call.stop:
        body["stop_sequences"] = call.stop
    for name, theirs in _SAME.items():
        value = getattr(call, name)
        if value is not None:
            body[theirs] = value
    thinking = _thinking(call)
    if thinking is not None:
        body["thinking"] = thinking
    return msgspec.json.encode(body)


def _refuse(call: Call) -> None:
    if call.operation != "chat":
        raise inexpressible("model", "this model takes chats only.")
    if call.n != 1:
        raise inexpressible("n", "this model gives one choice a request.")
    if call.logit_bias:
        raise inexpressible("logit_bias", "this model takes no bias on tokens.")
    if call.top_logprobs:
        raise inexpressible("top_logprobs", "this model tells the probability of the tokens it chose only.")
    if call.tools and call.parallel_tool_calls is False:
        raise inexpressible("parallel_tool_calls", "this model cannot be kept from calling several tools at once.")
    if call.tools and call.response_format is not None and call.response_format.kind != "text":
        raise inexpressible("response_format", "this model takes no response format beside tools.")


def _write_tools(call: Call, body: _Json) -> None:
    choice = call.tool_choice
    tools = call.tools
    if choice is not None and choice.name is not None:
        tools = tuple([tool for tool in tools if tool.name == choice.name])
    body["tools"] = [_tool(tool) for tool in tools]
    if all(tool.strict for tool in tools):
        body["strict_tools"] = True
    elif any(tool.strict for tool in tools):
        raise inexpressible("tools", "this model can be held to the schemas of all tools or of none: set strict alike.")
    if choice is not None and choice.mode != "auto":
        body["tool_choice"] = "REQUIRED" if choice.mode == "required" else "NONE"


def _tool(tool: Tool) -> _Json:
    function: _Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    return {"type": "function", "function": function}


def _format(wanted: ResponseFormat) -> _Json:
    return {"type": "json_object"} if wanted.schema is None else {"type": "json_object", "json_schema": wanted.schema}


def _thinking(call: Call) -> _Json | None:
    if call.thinking is None:
        if call.reasoning_effort is None:
            return None
        if call.reasoning_effort == "none":
            return {"type": "disabled"}
        raise inexpressible("reasoning_effort", f"this model does not know the effort {call.reasoning_effort[:32]!r}: none turns it off.")
    if call.thinking.mode == "disabled":
        return {"type": "disabled"}
    return {"type": "enabled"} if call.thinking.budget is None else {"type": "enabled", "token_budget": call.thinking.budget}


def _message(message: Message, path: str) -> _Json:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id or "", "content": _text(message, path)}
    if message.role == "assistant":
        return _assistant(message, path)
    role = "user" if message.role == "user" else "system"
    content = message.content
    if not isinstance(content, tuple):
        return {"role": role, "content": content or ""}
    return {"role": role, "content": [_part(part, f"{path}.content[{at}]") for at, part in enumerate(content)]}


def _assistant(message: Message, path: str) -> _Json:
    text = _text(message, path) + (message.refusal or "")
    written: _Json = {"role": "assistant"}
    parts = message.content if isinstance(message.content, tuple) else ()
    thoughts = [part.thinking for part in parts if isinstance(part, ThinkingPart) and part.signature is None and part.thinking]
    content: list[_Json] = [{"type": "thinking", "thinking": thought} for thought in thoughts]
    if message.tool_calls:
        if text:
            written["tool_plan"] = text
        written["tool_calls"] = [_called(message, at, path) for at in range(len(message.tool_calls))]
    elif not content:
        written["content"] = text
    elif text:
        content.append({"type": "text", "text": text})
    if content:
        written["content"] = content
    return written


def _called(message: Message, at: int, path: str) -> _Json:
    called = message.tool_calls[at]
    if called.kind == "custom":
        raise inexpressible(f"{path}.tool_calls[{at}]", "this model has no custom tools.")
    return {"id": called.id, "type": "function", "function": {"name": called.name, "arguments": called.arguments or "{}"}}


def _part(part: Part, path: str) -> _Json:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(url=url, detail=detail):
            return {"type": "image_url", "image_url": {"url": url} if detail is None else {"url": url, "detail": detail}}
        case _:
            raise inexpressible(path, "this model takes text and images only.")


def _text(message: Message, path: str) -> str:
    """All text of a message that may hold nothing else but reasoning."""
    content = message.content
    if not isinstance(content, tuple):
        return content or ""
    texts = []
    for at, part in enumerate(content):
        match part:
            case TextPart(text=text) | RefusalPart(refusal=text):
                texts.append(text)
            case ThinkingPart():
                pass
            case _:
                raise inexpressible(f"{path}.content[{at}]", "this model takes text only here.")
    return "".join(texts)
