"""Requests for messages, both ways: the body a caller sent to a `Call`, and a `Call` to the body a target gets.

A request is never passed on as it came: what leaves is written from the `Call`, so guard and model read the same thing.

Inbound, top-level fields that a `Call` cannot carry (`service_tier`, `container`, `mcp_servers`, `context_management`, ...) land
in `Call.extra`; Route refuses those that the model does not list in `extra_fields`, so none is ignored silently. Inside objects
every unknown field is refused. Tools that run at the provider are refused with a word on why; citations cannot be asked for.

Outbound, what asks for more than the API has words for (several choices, log probabilities, biases, audio, JSON without a
schema) is refused; seed, penalties, an image's `detail` and a participant's name are hints and are left out, as Anthropic's own
OpenAI-compatible endpoint does. Temperatures above 1 are capped there at 1, and here.
"""

from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from gatehouse.core.calls import Call, Message, Thinking
from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects._bodies import is_unknown_field, read_with_extra
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._forbidden import refuse_forbidden
from gatehouse.dialects._json import explain, invalid, refuse_ambiguity
from gatehouse.dialects._opinions import NOT_ASKED
from gatehouse.dialects._schemas import SchemaBounds
from gatehouse.dialects.anthropic._messages import system_and_turns, tool
from gatehouse.dialects.anthropic._shapes import (
    AssistantShape,
    CountRequest,
    DocumentShape,
    ImageShape,
    MessagesRequest,
    NamedChoice,
    ToolResultShape,
    ToolUseShape,
    UrlSource,
    UserShape,
    content_of,
    tool_choice,
)

R = TypeVar("R", bound=CountRequest)

MAX_REMOTE_URL: Final = 8_192
_NO_NAMES: Final[frozenset[str]] = frozenset()
DEFAULT_MAX_TOKENS: Final = 4096
"""The bound of the output where nobody set one: the API insists on it."""
_EFFORTS: Final = {"minimal": "low"}
"""Efforts that other APIs know, and the nearest of this one."""
_CHOICES: Final = {"none": "none", "auto": "auto", "required": "any"}


def decode_request(body: bytes) -> Call:
    """The call that a body asks for.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    request, extra = _read(body, MessagesRequest)
    call = _call(request, extra)
    metadata = request.metadata
    stream = bool(request.stream)
    return replace(
        call,
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences) if request.stop_sequences else (),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        user=None if metadata is None else metadata.user_id,
        stream=stream,
        include_usage=stream,
    )


def decode_count(body: bytes) -> Call:
    """The call whose prompt is to be counted. Raises InvalidRequest, as `decode_request`."""
    return _call(*_read(body, CountRequest))


def _read(body: bytes, shape: type[R]) -> tuple[R, dict[str, Any]]:
    extra: dict[str, Any] = {}
    try:
        request = msgspec.json.decode(body, type=shape)
    except (ValueError, RecursionError) as fault:
        try:
            if not is_unknown_field(fault):
                raise explain(fault, body) from None
            request, extra = read_with_extra(body, shape, fault)
        except InvalidRequest:
            _refuse_server_tools(body)
            raise
    else:
        refuse_ambiguity(body, request)
    _check(request, len(body))
    return request, extra


class _AnyTool(msgspec.Struct, gc=False):
    type: str | None = None


class _AnyTools(msgspec.Struct, gc=False):
    tools: list[_AnyTool] = []


def _refuse_server_tools(body: bytes) -> None:
    """A better word than "unknown field" for a body that was refused anyway."""
    try:
        tools = msgspec.json.decode(body, type=_AnyTools).tools
    except (ValueError, RecursionError):
        return
    for index, known in enumerate(tools):
        if known.type not in (None, "custom"):
            text = "tools that run at the provider are not available here; offer tools of your own (with name and input_schema)."
            raise invalid(f"tools[{index}].type", text, "server_tool")


def _call(request: CountRequest, extra: dict[str, Any]) -> Call:
    messages: list[Message] = []
    if request.system:
        system = request.system
        messages.append(Message("system", system if isinstance(system, str) else content_of([part.core() for part in system])))
    for message in request.messages:
        messages += message.core()
    if request.cache_control is not None:
        messages[-1] = replace(messages[-1], cache=messages[-1].cache or request.cache_control.core())
    choice, parallel = tool_choice(request.tool_choice)
    output = request.output_config
    return Call(
        model=request.model,
        messages=tuple(messages),
        tools=tuple([known.core() for known in request.tools]) if request.tools else (),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        thinking=None if request.thinking is None else request.thinking.core(),
        reasoning_effort=None if output is None else output.effort,
        response_format=None if output is None or output.format is None else output.format.core(),
        extra=extra,
    )


def _check(request: CountRequest, size: int) -> None:
    """What the shapes cannot say: names that must exist, bounds of what is opaque, addresses."""
    if not request.model.isprintable():
        raise invalid("model", "the name holds control characters.")
    if request.tools or request.tool_choice is not None:
        _check_tools(request, size)
    output = request.output_config
    if output is not None and output.format is not None:
        SchemaBounds(size).check(output.format.schema, "output_config.format.schema")
    for index, message in enumerate(request.messages):
        content = message.content
        if type(content) is list and type(message) in (UserShape, AssistantShape):
            _check_blocks(content, f"messages[{index}].content")


def _check_tools(request: CountRequest, size: int) -> None:
    names = set()
    bounds = SchemaBounds(size)
    for index, known in enumerate(request.tools or ()):
        if known.name in names:
            raise invalid(f"tools[{index}].name", f"two tools are called {known.name}.")
        names.add(known.name)
        bounds.check(known.input_schema, f"tools[{index}].input_schema")
    choice = request.tool_choice
    if choice is not None and not names:
        raise invalid("tool_choice", "is only allowed with tools.")
    if isinstance(choice, NamedChoice) and choice.name not in names:
        raise invalid("tool_choice.name", f"no tool is called {choice.name}.")


def _check_blocks(blocks: list[Any], path: str) -> None:
    for index, block in enumerate(blocks):
        kind = type(block)
        if kind is ToolUseShape:
            refuse_forbidden(block.input, f"{path}[{index}].input", _NO_NAMES)
        elif kind is ToolResultShape:
            if type(block.content) is list:
                _check_blocks(block.content, f"{path}[{index}].content")
        elif kind in (ImageShape, DocumentShape) and type(block.source) is UrlSource:
            _check_url(block.source.url, f"{path}[{index}].source.url")


def _check_url(url: str, path: str) -> None:
    if not url[:8].lower().startswith(("https://", "http://")):
        raise invalid(path, "must be an https: or http: URL; content itself goes under a source of type base64.")
    if len(url) > MAX_REMOTE_URL or not url.isprintable() or " " in url:
        raise invalid(path, f"must have at most {MAX_REMOTE_URL} printable characters.")


def encode_request(call: Call, model: str, *, system_turns: bool = False, anthropic_version: str | None = None) -> bytes:
    """The body that asks `model` for what `call` says.

    The end user is told when `call` names one: what of that a target may know was decided before. `system_turns`: the model
    takes instructions in the middle of the conversation. `anthropic_version` is for platforms that name the model in the path
    and want the version in the body.

    Raises:
        UpstreamFailed: the caller's fault; the call holds what no target of this kind takes. Nothing was sent.
    """
    if call.n != 1 or call.logprobs or call.logit_bias:
        _refuse(call)
    body: dict[str, Any] = {name: value for name, value in call.extra.items() if name not in NOT_ASKED}
    if anthropic_version is None:
        body["model"] = model
    else:
        body["anthropic_version"] = anthropic_version
    body["max_tokens"] = call.max_tokens or DEFAULT_MAX_TOKENS
    system, body["messages"] = system_and_turns(call.messages, system_turns=system_turns)
    if system:
        body["system"] = system
    if call.stream:
        body["stream"] = True
    if call.tools:
        body["tools"] = [tool(known) for known in call.tools]
        if (choice := _tool_choice(call)) is not None:
            body["tool_choice"] = choice
    if call.stop:
        body["stop_sequences"] = call.stop
    if call.temperature is not None:
        body["temperature"] = min(call.temperature, 1)
    for name in ("top_p", "top_k"):
        value = getattr(call, name)
        if value is not None:
            body[name] = value
    _add_reasoning(body, call)
    if call.user:
        body["metadata"] = {"user_id": call.user}
    return msgspec.json.encode(body)


def _refuse(call: Call) -> None:
    if call.n != 1:
        raise inexpressible("n", "this model gives one choice.")
    if call.logprobs:
        raise inexpressible("logprobs", "this model tells no log probabilities.")
    raise inexpressible("logit_bias", "this model takes no biases.")


def _tool_choice(call: Call) -> dict[str, Any] | None:
    wanted = call.tool_choice
    if wanted is None and call.parallel_tool_calls is not False:
        return None
    choice: dict[str, Any] = {"type": "auto"}
    if wanted is not None:
        choice = {"type": _CHOICES[wanted.mode]} if wanted.name is None else {"type": "tool", "name": wanted.name}
    if call.parallel_tool_calls is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _add_reasoning(body: dict[str, Any], call: Call) -> None:
    """How much to think, and the schema of the answer: both shape the output."""
    thinking, effort = call.thinking, call.reasoning_effort
    if thinking is None and effort == "none":
        thinking = Thinking("disabled")
    if thinking is not None:
        fields = {"type": thinking.mode, "budget_tokens": thinking.budget, "display": thinking.display}
        body["thinking"] = {name: value for name, value in fields.items() if value is not None}
    output: dict[str, Any] = {}
    if effort is not None and effort != "none":
        output["effort"] = _EFFORTS.get(effort, effort)
    form = call.response_format
    if form is not None and form.kind == "json_object":
        raise inexpressible("response_format", "this model gives JSON under a schema only (json_schema).")
    if form is not None and form.schema is not None:
        output["format"] = {"type": "json_schema", "schema": form.schema}
    if output:
        body["output_config"] = output
