"""`/v1/completions`, both ways: text to be continued, as base models, infilling and older programs use it.

What is decided here, beside what the chat format decides (see `requests`):

- `best_of` is refused unless it asks for nothing (1, or as many as `n`): what is generated and thrown away costs like what is kept.
- Without `max_tokens` the bound is 16 tokens, as OpenAI's own API has it; 0 with `echo` asks for the prompt's own figures.
- `logprobs` is a number here: the most likely tokens told beside each. In a Call it is `logprobs` and `top_logprobs`.
- Several prompts make one call: its choices are numbered prompt by prompt, `n` for each.
- A target that only chats is not asked: what its template would make of a prompt is not what was sent (see Route).
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event
from gatehouse.dialects._bodies import read_body
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._json import invalid
from gatehouse.dialects.openai._inputs import Inputs, read_inputs, write_inputs
from gatehouse.dialects.openai._replies import ABSENT, finish_reason, given, is_known
from gatehouse.dialects.openai._shapes import Identifier, Penalty, StopText, StreamOptions, TokenId
from gatehouse.dialects.openai.answers import without_usage
from gatehouse.dialects.openai.errors import describe, error_in_answer
from gatehouse.dialects.openai.profiles import PLAIN, Profile
from gatehouse.dialects.openai.requests import adjust, check_stream_options
from gatehouse.dialects.openai.streams import StreamDecoder, end_of_stream, pass_usage, with_usage
from gatehouse.dialects.openai.usage import read_usage, write_usage

NAME: Final = "openai-completions"
DEFAULT_MAX_TOKENS: Final = 16
MOST_PROMPTS: Final = 128
_INT64: Final = 2**63
_WITH_USAGE: Final = {"include_usage": True}
_SAME: Final = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "suffix", "user")
"""Fields that are called the same in core and say nothing when None."""


class CompletionRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The body, field by field."""

    model: Identifier
    prompt: Inputs
    suffix: Annotated[str, Meta(max_length=1_000_000)] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1_024)] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def decode_completion_request(body: bytes) -> Call:
    """The call that a body asks for.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    request, extra = read_body(body, CompletionRequest)
    if not request.model.isprintable():
        raise invalid("model", "the name holds control characters.")
    n = request.n or 1
    if request.best_of not in (None, 1, n):
        raise invalid("best_of", "is not offered here: what is thrown away costs like what is kept. Ask for n choices and take the best.")
    if request.stream_options is not None:
        check_stream_options(request.stream_options, stream=bool(request.stream))
    stop, options = request.stop, request.stream_options
    return Call(
        operation="completion",
        model=request.model,
        inputs=read_inputs(request.prompt, "prompt", MOST_PROMPTS),
        suffix=request.suffix or None,
        echo=bool(request.echo),
        n=n,
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        temperature=request.temperature,
        top_p=request.top_p,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        seed=request.seed,
        logprobs=None if request.logprobs is None else True,
        top_logprobs=request.logprobs,
        logit_bias=request.logit_bias or None,
        user=request.user,
        stream=bool(request.stream),
        include_usage=options is not None and bool(options.include_usage),
        extra=extra,
    )


def encode_completion_request(call: Call, model: str, profile: Profile = PLAIN) -> bytes:
    """The body that asks `model` for what `call` says. A stream is always asked to end with its usage."""
    body: dict[str, Any] = dict(call.extra)
    body["model"] = model
    body["prompt"] = write_inputs(call.inputs)
    if call.stream:
        body["stream"] = True
        if profile.asks_usage:
            body["stream_options"] = _WITH_USAGE
    if call.max_tokens is not None:
        body["max_tokens"] = call.max_tokens
    if call.n != 1:
        body["n"] = call.n
    if call.echo:
        body["echo"] = True
    if call.logprobs:
        body["logprobs"] = call.top_logprobs or 0
    if call.stop:
        body["stop"] = call.stop
    if call.logit_bias:
        body["logit_bias"] = {token: int(bias) if bias.is_integer() else bias for token, bias in call.logit_bias.items()}
    for name in _SAME:
        value = getattr(call, name)
        if value is not None:
            body[name] = value
    if profile.adjusts:
        adjust(body, profile)
    return msgspec.json.encode(body)


# -- what a target answers -------------------------------------------------------------------------------------------------


class _Piece(Struct, gc=False):
    """One choice of an answer, or a piece of one."""

    text: str | None = None
    index: int = 0
    finish_reason: str | None = None
    logprobs: Any = None


class _StrictPiece(_Piece, gc=False, forbid_unknown_fields=True):
    """The same with nothing in it that we do not read."""

    stop_reason: int | None = None
    matched_stop: int | None = None
    prompt_logprobs: None = None
    prompt_token_ids: None = None
    token_ids: None = None


class _Reply(Struct, gc=False):
    """A whole answer, or one frame of a stream."""

    choices: list[_Piece] | None = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: msgspec.Raw = ABSENT
    system_fingerprint: str | None = None
    error: msgspec.Raw = ABSENT


class _StrictReply(_Reply, gc=False):
    choices: list[_StrictPiece] | None = None  # type: ignore[assignment]


_decode: Final = msgspec.json.Decoder(_Reply).decode
_decode_strictly: Final = msgspec.json.Decoder(_StrictReply).decode


def decode_completion(body: bytes) -> Answer:
    """The answer in a 200 response's body; what a choice holds that is not read makes it opaque.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or an error dressed as one.
    """
    opaque = False
    try:
        try:
            reply: _Reply = _decode_strictly(body)
        except msgspec.ValidationError:
            reply, opaque = _decode(body), True
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    if not reply.choices:
        if given(reply.error):
            raise error_in_answer(reply.error)
        raise not_understood(f"answer of {len(body)} bytes without choices")
    opaque = opaque or not all(is_known(choice.finish_reason) for choice in reply.choices)
    usage = None
    if given(reply.usage):
        usage = read_usage(reply.usage)
        if usage is None:
            body = without_usage(body)
    return Answer(
        tuple(
            [
                Choice(each.index, each.text or "", finish=finish_reason(each.finish_reason), logprobs=each.logprobs)
                for each in reply.choices
            ]
        ),
        reply.id or "",
        reply.model or "",
        int(reply.created or 0),
        usage,
        reply.system_fingerprint,
        body,
        NAME,
        opaque,
    )


class CompletionStreamDecoder(StreamDecoder):
    """Bytes of a stream, as they come, to events."""

    __slots__ = ()
    dialect = NAME

    def _read(self, payload: bytes) -> Any:
        if not self._opaque:
            try:
                return _decode_strictly(payload)
            except msgspec.ValidationError:
                self._opaque = True
        return _decode(payload)

    def _delta(self, choice: Any) -> ChoiceDelta:
        begins, finish = self._follow(choice.index, choice.finish_reason)
        return ChoiceDelta(choice.index, choice.text or "", finish=finish, logprobs=choice.logprobs, begins=begins)


# -- what a caller gets ----------------------------------------------------------------------------------------------------


class OpenAICompletionsDialect:
    """`POST /v1/completions`. Pure and without state: one instance serves every call."""

    name = NAME

    def decode_request(self, body: bytes) -> Call:
        """The call. Raises InvalidRequest naming the field."""
        return decode_completion_request(body)

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body: its own bytes when they are of this dialect."""
        if answer.raw and answer.dialect == NAME:
            return answer.raw
        body = _body(answer, call, [_choice(each.index, each.text or "", each.logprobs, each.finish) for each in answer.choices])
        if answer.usage is not None:
            body["usage"] = write_usage(answer.usage)
        return msgspec.json.encode(body)

    def open_stream(self, call: Call, request_id: str) -> "CompletionWriter":
        """What writes the stream."""
        return CompletionWriter(call, request_id)

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)


class CompletionWriter:
    """Frames that stand each for itself, so nothing is remembered between them."""

    __slots__ = ("_call", "_request_id")

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._request_id = request_id

    def event(self, event: Event, cost: str | None) -> bytes:
        """The frames for one event, possibly none."""
        call = self._call
        if isinstance(event, Answer):
            return self._replay(event, cost)
        if event.raw and event.dialect == NAME:
            if event.usage is None:
                return event.raw
            passed = pass_usage(event, call, cost)
            if passed is not None:
                return passed
        usage = event.usage if call.include_usage and not event.interim else None
        if not event.choices and usage is None:
            return b""
        choices = [_choice(each.index, each.text, each.logprobs, each.finish) for each in event.choices]
        return _frame(with_usage(_body(event, call, choices), usage, cost))

    def end(self) -> bytes:
        """`data: [DONE]`."""
        return end_of_stream()

    def error(self, error: GatehouseError) -> bytes:
        """One frame with the error object."""
        return b"data: %s\n\n" % msgspec.json.encode(describe(error, self._request_id)[1])

    def _replay(self, answer: Answer, cost: str | None) -> bytes:
        """A whole answer as a stream: a chunk with each choice, and the usage if asked for."""
        call = self._call
        frames = [
            _frame(_body(answer, call, [_choice(each.index, each.text or "", each.logprobs, each.finish)])) for each in answer.choices
        ]
        if answer.usage is not None and call.include_usage:
            frames.append(_frame(with_usage(_body(answer, call, []), answer.usage, cost)))
        return b"".join(frames)


def _body(event: Chunk | Answer, call: Call, choices: list[dict[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": event.id,
        "object": "text_completion",
        "created": event.created,
        "model": event.model or call.model,
        "choices": choices,
    }
    if event.fingerprint is not None:
        body["system_fingerprint"] = event.fingerprint
    return body


def _choice(index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
    # The stop of a call for a tool does not exist here.
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": "stop" if finish == "tool_calls" else finish}


def _frame(body: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(body)
