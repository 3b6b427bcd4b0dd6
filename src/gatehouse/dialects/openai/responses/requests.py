"""Requests of the Responses API to a `Call`. A request is never passed on as it came: the target is asked from the `Call`.

What is done with the documented fields that a `Call` cannot carry:

- What would run on OpenAI's machines is refused in words that say so: hosted tools, `background`, `conversation`, `prompt`, items
  that are references or belong to hosted tools, files and images by URL or id where only content will do.
- `truncation: auto` is refused: nothing of a conversation is left out silently.
- `text.verbosity`, `service_tier`, `prompt_cache_key` and any other top-level field land in `Call.extra`, as for chat completions.
- Inside objects every unknown field is refused. An explicit null is the same as an absent field.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, Message, ToolChoice, Turn
from gatehouse.dialects._forbidden import FORBIDDEN, refuse_forbidden
from gatehouse.dialects._json import explain, invalid, plain, refuse_ambiguity
from gatehouse.dialects._schemas import SchemaBounds
from gatehouse.dialects.openai.responses.items import read_items
from gatehouse.dialects.openai.responses.shapes import FIELDS, FunctionTool, ResponsesRequest, SchemaFormat

_SEALED: Final = "reasoning.encrypted_content"
_LOGPROBS: Final = "message.output_text.logprobs"
_NOT_HERE: Final = {
    "background": "responses are not made in the background here; stream it, and cancel it when it is not wanted any more.",
    "conversation": "conversations are not kept as objects here; continue a response with previous_response_id.",
    "prompt": "prompts are not kept here; send instructions and input.",
    "context_management": "nothing is left out of a conversation here; send what the model is to read.",
    "max_tool_calls": "it bounds hosted tools, and none run here.",
    "max_tokens": "this field is called max_output_tokens here.",
    "max_completion_tokens": "this field is called max_output_tokens here.",
    "messages": "this field is called input here.",
    "response_format": "this field is called text.format here.",
    "reasoning_effort": "this field is called reasoning.effort here.",
}
_ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning"})
_HOSTED_ITEM: Final = "items of this type are not known here: messages, reasoning, function calls and their outputs are."
_HOSTED_TOOL: Final = "hosted tools do not run here; offer a function and run it yourself."


def decode_request(body: bytes) -> Call:
    """The call that a body asks for.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    value = plain(body)
    refuse_ambiguity(body, value)
    extra = _extra(value)
    _name_types(value)
    try:
        request = msgspec.convert({name: item for name, item in value.items() if name in FIELDS}, ResponsesRequest)
    except (ValueError, RecursionError) as fault:
        raise explain(fault, body) from None
    _check(request, len(body))
    return _call(request, extra)


def _extra(value: dict[str, Any]) -> dict[str, Any]:
    """The fields we do not know. Raises InvalidRequest for those nobody may send and those that mean something else here."""
    extra = {name: item for name, item in value.items() if name not in FIELDS}
    if not extra:
        return extra
    refuse_forbidden(extra)
    extra = {name: item for name, item in extra.items() if item is not None}
    for name in extra:
        if name in _NOT_HERE:
            raise invalid(name, _NOT_HERE[name], "unsupported_field")
        if len(name) > 64 or not name.isprintable():
            raise invalid(name, "unknown field.", "unknown_field")
    return extra


def _name_types(value: dict[str, Any]) -> None:
    """Write in that an item with a role is a message, and say what items and tools are not for us before their shape is looked at."""
    items = value.get("input")
    if isinstance(items, list):
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                continue
            kind = item.setdefault("type", "message") if "role" in item else item.get("type")
            if isinstance(kind, str) and kind not in _ITEMS:
                raise invalid(f"input[{index}].type", _HOSTED_ITEM, "unsupported_item")
            if kind is None and "id" in item:
                raise invalid(f"input[{index}]", "references to items are not followed here; send the item.", "unsupported_item")
    tools = value.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            raise invalid(f"tools[{index}].type", _HOSTED_TOOL, "unsupported_tool")
    choice = value.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise invalid("tool_choice.type", "only a function can be chosen here.", "unsupported_tool")


def _call(request: ResponsesRequest, extra: dict[str, Any]) -> Call:
    messages = (Message("user", request.input),) if isinstance(request.input, str) else read_items(request.input)
    instructions = request.instructions
    if instructions is not None:
        messages = (Message("developer", instructions), *messages)
    text, reasoning, named = request.text, request.reasoning, request.tool_choice
    include = frozenset(request.include or ())
    if text is not None and text.verbosity is not None:
        extra = {**extra, "verbosity": text.verbosity}
    if request.store is False:
        # A target may keep what it is asked, too, and is asked not to.
        extra = {**extra, "store": False}
    wanted = None if text is None or text.format is None else text.format.core()
    logprobs = _LOGPROBS in include or bool(request.top_logprobs)
    return Call(
        model=request.model,
        messages=messages,
        tools=tuple([tool.core() for tool in request.tools]) if request.tools else (),
        tool_choice=None if named is None else ToolChoice(named) if isinstance(named, str) else ToolChoice("required", named.name),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=wanted,
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        logprobs=logprobs or None,
        top_logprobs=request.top_logprobs if logprobs else None,
        reasoning_effort=None if reasoning is None else reasoning.effort,
        user=request.safety_identifier or request.user,
        metadata=request.metadata or {},
        stream=bool(request.stream),
        include_usage=bool(request.stream),
        extra=extra,
        turn=Turn(
            previous=request.previous_response_id,
            store=request.store,
            instructions=instructions is not None,
            begins=int(instructions is not None),
            summary=reasoning is not None and (reasoning.summary or reasoning.generate_summary) is not None,
            sealed=_SEALED in include,
            safety=bool(request.safety_identifier),
        ),
    )


def _check(request: ResponsesRequest, size: int) -> None:
    """What the shapes cannot say: what we do not do, fields that need each other, names that must exist, bounds of what is opaque."""
    if not request.model.isprintable():
        raise invalid("model", "the name holds control characters.")
    _check_service(request)
    for index, wish in enumerate(request.include or ()):
        if wish not in (_SEALED, _LOGPROBS):
            raise invalid(f"include[{index}]", f"only {_SEALED} and {_LOGPROBS} can be included here.", "unsupported_field")
    if request.user and request.safety_identifier and request.user != request.safety_identifier:
        raise invalid("user", "differs from safety_identifier; give one of them.")
    if request.metadata and not FORBIDDEN.isdisjoint(request.metadata):
        refuse_forbidden(request.metadata, "metadata")
    if request.tools or request.tool_choice is not None:
        _check_tools(request.tools or (), request.tool_choice, size)
    wanted = None if request.text is None else request.text.format
    if type(wanted) is SchemaFormat and wanted.schema is not None:
        SchemaBounds(size).check(wanted.schema, "text.format.schema")


def _check_service(request: ResponsesRequest) -> None:
    """What OpenAI does with a response and we do not."""
    if request.background:
        raise invalid("background", _NOT_HERE["background"], "unsupported_field")
    if request.truncation == "auto":
        raise invalid("truncation", "nothing is left out of a conversation here; leave it out or say disabled.", "unsupported_field")
    options = request.stream_options
    if options is not None:
        if not request.stream:
            raise invalid("stream_options", "needs stream to be true.")
        if options.include_obfuscation:
            raise invalid("stream_options.include_obfuscation", "streams are not padded here; leave it out or say false.")


def _check_tools(tools: Sequence[FunctionTool], choice: Any, size: int) -> None:
    names = set()
    bounds = SchemaBounds(size)
    for index, tool in enumerate(tools):
        if tool.name in names:
            raise invalid(f"tools[{index}].name", f"two tools are called {tool.name}.")
        names.add(tool.name)
        if tool.parameters is not None:
            bounds.check(tool.parameters, f"tools[{index}].parameters")
    if choice is None or choice in ("auto", "none"):
        return
    if not tools:
        raise invalid("tool_choice", "is only allowed with tools.")
    if not isinstance(choice, str) and choice.name not in names:
        raise invalid("tool_choice.name", f"no tool is called {choice.name}.")
