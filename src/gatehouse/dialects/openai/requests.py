"""Requests for chat completions, both ways: the body a caller sent to a `Call`, and a `Call` to the body a target gets.

A request is never passed on as it came: what leaves is written from the `Call`, so guard and model read the same thing.

What is done with the documented fields we cannot carry in a `Call`:

- `store`, `service_tier`, `modalities`, `audio`, `prediction`, `web_search_options`, `verbosity`, `prompt_cache_key`,
  `prompt_cache_options`, `prompt_cache_retention`, `safety_identifier`, `moderation` and any other top-level field land in
  `Call.extra`. Route lets pass what only advises (`core.advice`) and refuses the others unless the model lists them in
  `extra_fields`, so that nothing that is asked for is ignored silently.
- `functions`, `function_call` and messages of role `function` are refused with a word on their successors.
- Inside objects every unknown field is refused (`prompt_cache_breakpoint` too): nobody could list it. Streams are not padded, so
  `include_obfuscation` may be said to be false, and true is refused.
- Custom tools and allowed-tools choices are refused; calls of custom tools in the history are carried.
- An explicit null is the same as an absent field.
"""

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

import msgspec

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    Role,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.dialects._bodies import is_unknown_field, read_with_extra
from gatehouse.dialects._forbidden import FORBIDDEN, refuse_forbidden
from gatehouse.dialects._json import explain, invalid, refuse_ambiguity
from gatehouse.dialects._schemas import SchemaBounds
from gatehouse.dialects.openai._shapes import (
    MAX_REMOTE_URL,
    AnyMessage,
    AssistantShape,
    ChatRequest,
    FileShape,
    FunctionTool,
    ImageShape,
    SchemaFormat,
    StreamOptions,
    SystemShape,
    UserShape,
)
from gatehouse.dialects.openai.profiles import BINDING, PLAIN, Profile

_DIGITS: Final = string.ascii_letters + string.digits
_SHORT_ID: Final = re.compile(r"[a-zA-Z0-9]{9}")
_SUCCESSORS: Final = {"functions": "tools", "function_call": "tool_choice"}
_decode: Final = msgspec.json.Decoder(ChatRequest).decode
_encode: Final = msgspec.json.Encoder().encode
_STREAM: Final = {"stream": True}
_STREAM_WITH_USAGE: Final = {"stream": True, "stream_options": {"include_usage": True}}


def decode_request(body: bytes) -> Call:
    """The call that a body asks for.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    try:
        request: ChatRequest = _decode(body)
    except (ValueError, RecursionError) as fault:
        if not is_unknown_field(fault):
            raise explain(fault, body) from None
        request, extra = _decode_with_extra(body, fault)
    else:
        extra = {}
        said = _only_said(request, body)
        if said is not None:
            # As most short chats.
            _check_fields(request)
            return _plain(request, said)
        refuse_ambiguity(body, request)
    plain = not extra and _options(request) == _NO_OPTIONS
    if not plain:
        _check_options(request, len(body))
    _check(request)
    messages = tuple([message.core() for message in request.messages])
    if plain:
        return _plain(request, messages)
    named = request.tool_choice
    choice = None if named is None else ToolChoice(named) if isinstance(named, str) else ToolChoice("required", named.function.name)
    stop = request.stop
    options = request.stream_options
    return Call(
        model=request.model,
        messages=messages,
        tools=tuple([tool.core() for tool in request.tools]) if request.tools else (),
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=None if request.response_format is None else request.response_format.core(),
        n=request.n or 1,
        max_tokens=request.max_tokens or request.max_completion_tokens,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        temperature=request.temperature,
        top_p=request.top_p,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        seed=request.seed,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        logit_bias=request.logit_bias or None,
        reasoning_effort=request.reasoning_effort,
        user=request.user,
        metadata=request.metadata or {},
        stream=bool(request.stream),
        include_usage=options is not None and bool(options.include_usage),
        extra=extra,
    )


_ANYWAY: Final = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "stream"})
_OPTIONAL: Final = tuple(field for field in ChatRequest.__struct_fields__ if field not in _ANYWAY)
_options: Final = attrgetter(*_OPTIONAL)
_NO_OPTIONS: Final = (None,) * len(_OPTIONAL)
"""What a request says of them that asks for nothing but an answer."""


def _decode_with_extra(body: bytes, fault: Exception) -> tuple[ChatRequest, dict[str, Any]]:
    """The longer way, for a body with top-level fields we do not know."""
    request, extra = read_with_extra(body, ChatRequest, fault)
    for name, successor in _SUCCESSORS.items():
        if name in extra:
            raise invalid(name, f"this field is no longer accepted; use {successor}.", "unknown_field")
    return request, extra


def _plain(request: ChatRequest, messages: tuple[Message, ...]) -> Call:
    """The call of a request that asks for nothing but an answer."""
    bound = request.max_tokens or request.max_completion_tokens
    return Call(model=request.model, messages=messages, max_tokens=bound, stream=bool(request.stream))


def _only_said(request: ChatRequest, body: bytes) -> tuple[Message, ...] | None:
    """The messages of a request that has nothing beside them and what `_plain` takes, no key twice; None where that is not known here.

    It is known by its colons: every key has one, and so has every colon in a text. Whatever else is in a body has a key more.
    """
    colons = 2 + request.model.count(":")
    colons += (request.max_tokens is not None) + (request.max_completion_tokens is not None) + (request.stream is not None)
    said: list[Message] = []
    for message in request.messages:
        content, role = message.content, _SAYING.get(type(message))
        if role is None or type(content) is not str or message.name is not None:
            return None
        colons += 2 + content.count(":")
        said.append(Message(role, content))
    if body.count(b":") != colons or (b"\\" in body and b"\\u" in body):
        return None
    return tuple(said)


_SAYING: Final[Mapping[type, Role]] = MappingProxyType({UserShape: "user", SystemShape: "system"})
"""Messages that have nothing but a role, a content and a name."""


def _check(request: ChatRequest) -> None:
    """What the shapes cannot say of what every request has."""
    _check_fields(request)
    for index, message in enumerate(request.messages):
        if type(message) is AssistantShape or type(message.content) is not str:
            _check_message(message, f"messages[{index}]")


def _check_fields(request: ChatRequest) -> None:
    """The same of its fields beside the messages."""
    if not request.model.isprintable():
        raise invalid("model", "the name holds control characters.")
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise invalid("max_completion_tokens", "differs from max_tokens; give one of them.")


def _check_options(request: ChatRequest, size: int) -> None:
    """The same of the others: fields that need each other, names that must exist, bounds of what is opaque."""
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "needs logprobs to be true.")
    if request.stream_options is not None:
        check_stream_options(request.stream_options, stream=bool(request.stream))
    if request.metadata and not FORBIDDEN.isdisjoint(request.metadata):
        refuse_forbidden(request.metadata, "metadata")
    if request.tools or request.tool_choice is not None:
        _check_tools(request.tools or (), request.tool_choice, size)
    wanted = request.response_format
    if type(wanted) is SchemaFormat and wanted.json_schema.schema is not None:
        SchemaBounds(size).check(wanted.json_schema.schema, "response_format.json_schema.schema")


def check_stream_options(options: StreamOptions, *, stream: bool) -> None:
    """Raises InvalidRequest for options without a stream, and for what a stream is not given here."""
    if not stream:
        raise invalid("stream_options", "needs stream to be true.")
    if options.include_obfuscation:
        raise invalid("stream_options.include_obfuscation", "streams are not padded here; leave it out or say false.")


def _check_tools(tools: Sequence[FunctionTool], choice: Any, size: int) -> None:
    names = set()
    bounds = SchemaBounds(size)
    for index, tool in enumerate(tools):
        name = tool.function.name
        if name in names:
            raise invalid(f"tools[{index}].function.name", f"two tools are called {name}.")
        names.add(name)
        if tool.function.parameters is not None:
            bounds.check(tool.function.parameters, f"tools[{index}].function.parameters")
    if choice is None:
        return
    if not tools:
        raise invalid("tool_choice", "is only allowed with tools.")
    if not isinstance(choice, str) and choice.function.name not in names:
        raise invalid("tool_choice.function.name", f"no tool is called {choice.function.name}.")


def _check_message(message: AnyMessage, path: str) -> None:
    if type(message) is AssistantShape:
        if not isinstance(message.content, str | list) and not message.tool_calls and not message.refusal:
            raise invalid(f"{path}.content", "is required unless tool_calls are given.")
    elif type(message) is UserShape and type(message.content) is list:
        for index, part in enumerate(message.content):
            if type(part) is ImageShape:
                check_url(part.image_url.url, f"{path}.content[{index}].image_url.url")
            elif type(part) is FileShape and part.file.file_data is None and part.file.file_id is None:
                raise invalid(f"{path}.content[{index}].file", "needs file_data or file_id.")


def check_url(url: str, path: str) -> None:
    """Raises InvalidRequest for what is neither a `data:` URL nor a remote one of sane length."""
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return
    if not scheme.startswith(("https://", "http://")):
        raise invalid(path, "must be a data:, https: or http: URL.")
    if len(url) > MAX_REMOTE_URL or not url.isprintable() or " " in url:
        raise invalid(path, f"must have at most {MAX_REMOTE_URL} printable characters.")


def encode_request(call: Call, model: str, profile: Profile = PLAIN) -> bytes:
    """The body that asks `model` for what `call` says, in the words of the server that `profile` describes.

    A stream is always asked to end with its usage. What advises and has no words here is left out: marks for a cache, how
    hard to think in Anthropic's words, and, unless the profile has a place for it, reasoning sent back as history.
    """
    body: dict[str, Any] = dict(call.extra)
    body["model"] = model
    rewrites = profile.rewrites
    body["messages"] = [
        _message(message, profile)
        if rewrites or type(message.content) is tuple or message.tool_calls or message.cache or message.is_error
        else message
        for message in call.messages
    ]
    if call.stream:
        body.update(_STREAM_WITH_USAGE if profile.asks_usage else _STREAM)
    if call.tools or call.tool_choice is not None:
        _write_tools(body, call, profile)
    if call.response_format is not None:
        body["response_format"] = _response_format(call.response_format)
    if call.n != 1:
        body["n"] = call.n
    if call.max_tokens is not None:
        body[profile.tokens_field] = call.max_tokens
    if call.stop:
        body["stop"] = call.stop
    if call.metadata:
        body["metadata"] = call.metadata
    if call.logit_bias:
        body["logit_bias"] = {token: int(bias) if bias.is_integer() else bias for token, bias in call.logit_bias.items()}
    same = _same(call)
    if same != _NOTHING_SAME:
        body.update([(name, value) for name, value in zip(_SAME, same, strict=True) if value is not None])
    if profile.adjusts:
        adjust(body, profile)
    return _encode(body)


_SAME: Final = (
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "user",
)
"""Fields that are called the same in core and say nothing when None."""
_same: Final = attrgetter(*_SAME)
_NOTHING_SAME: Final = (None,) * len(_SAME)


def adjust(body: dict[str, Any], profile: Profile) -> None:
    """Turn a body in OpenAI's words into one in the words of `profile`, in place."""
    if profile.insists and not BINDING.isdisjoint(body):
        for name, value in profile.insists.items():
            body.setdefault(name, value)
    for name in profile.drops:
        body.pop(name, None)
    for name, other in profile.renames.items():
        if name in body:
            body[other] = body.pop(name)


def _unmarked(tool: Tool) -> Tool:
    return tool if tool.cache is None else msgspec.structs.replace(tool, cache=None)


def _write_tools(body: dict[str, Any], call: Call, profile: Profile) -> None:
    if call.tools:
        body["tools"] = [{"type": "function", "function": _unmarked(tool)} for tool in call.tools]
    choice = call.tool_choice
    if choice is None:
        return
    if choice.name is not None:
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        body["tool_choice"] = profile.required_word if choice.mode == "required" else choice.mode


def _message(message: Message, profile: Profile) -> dict[str, Any]:
    """A message that is shaped otherwise than in core; all others encode as they are."""
    content = message.content
    role = message.role if message.role != "developer" or profile.developer_role else "system"
    body: dict[str, Any] = {"role": role, "content": content}
    if isinstance(content, tuple):
        body["content"] = [_part(part, profile) for part in content if type(part) is not ThinkingPart] or None
        thoughts = "".join([part.thinking for part in content if type(part) is ThinkingPart]) if profile.reasoning_field else ""
        if thoughts:
            body[profile.reasoning_field] = thoughts
    if message.name is not None and profile.speaker_names:
        body["name"] = message.name
    if message.tool_calls:
        body["tool_calls"] = [tool_call(called, _tool_id(called.id, profile)) for called in message.tool_calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = _tool_id(message.tool_call_id, profile)
    if message.refusal is not None:
        body["refusal"] = message.refusal
    return body


def _tool_id(identifier: str, profile: Profile) -> str:
    """The id a server takes; one that some other model made may be of a form it refuses."""
    if not profile.short_tool_ids or _SHORT_ID.fullmatch(identifier):
        return identifier
    number = int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "big")
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def tool_call(called: ToolCall, identifier: str | None = None) -> dict[str, Any]:
    """A complete tool call, as histories and answers write it; `identifier` takes the place of its own id."""
    identifier = called.id if identifier is None else identifier
    if called.kind == "custom":
        return {"id": identifier, "type": "custom", "custom": {"name": called.name, "input": called.arguments}}
    return {"id": identifier, "type": "function", "function": {"name": called.name, "arguments": called.arguments}}


def _part(part: Part, profile: Profile) -> Any:
    match part:
        case TextPart():
            written: dict[str, Any] | Part = part if part.cache is None else {"type": "text", "text": part.text}
        case ImagePart():
            image = {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}
            written = {"type": "image_url", "image_url": image}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart():
            fields = {"file_data": part.data, "file_id": part.file_id, "filename": part.filename}
            written = {"type": "file", "file": {name: value for name, value in fields.items() if value is not None}}
        case _:
            return part  # a refusal is written alike in core
    if part.cache is not None and profile.cache_marks and isinstance(written, dict):
        written["cache_control"] = {"type": "ephemeral"} if part.cache == "5m" else {"type": "ephemeral", "ttl": part.cache}
    return written


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind != "json_schema":
        return {"type": wanted.kind}
    fields = {"name": wanted.name, "description": wanted.description, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in fields.items() if value is not None}}
