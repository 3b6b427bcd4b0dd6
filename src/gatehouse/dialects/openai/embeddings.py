"""`/v1/embeddings`, both ways.

Vectors are many numbers that nobody on the way has to look at: an answer in the format that was asked for passes as the
bytes that came, its vectors unread. They are read only to be written in the other format (`float` or `base64`, which is
little-endian float32), since not every target knows both.
"""

import sys
from array import array
from base64 import b64decode, b64encode
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, UpstreamFailed
from gatehouse.core.events import Answer, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects._bodies import read_body
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._json import invalid
from gatehouse.dialects.openai._inputs import Inputs, read_inputs, write_inputs
from gatehouse.dialects.openai._replies import ABSENT, given
from gatehouse.dialects.openai._shapes import Identifier
from gatehouse.dialects.openai.answers import without_usage
from gatehouse.dialects.openai.errors import describe, error_in_answer
from gatehouse.dialects.openai.profiles import PLAIN, Profile
from gatehouse.dialects.openai.requests import adjust
from gatehouse.dialects.openai.usage import read_usage

NAME: Final = "openai-embeddings"
MOST_INPUTS: Final = 2_048


class EmbeddingRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The body, field by field."""

    model: Identifier
    input: Inputs
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


def decode_embedding_request(body: bytes) -> Call:
    """The call that a body asks for.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    request, extra = read_body(body, EmbeddingRequest)
    if not request.model.isprintable():
        raise invalid("model", "the name holds control characters.")
    inputs = read_inputs(request.input, "input", MOST_INPUTS)
    for index, text in enumerate(inputs):
        if not text:
            raise invalid("input" if isinstance(request.input, str) else f"input[{index}]", "an empty text has no embedding.")
    return Call(
        operation="embedding",
        model=request.model,
        inputs=inputs,
        dimensions=request.dimensions,
        encoding_format=request.encoding_format,
        user=request.user,
        extra=extra,
    )


def encode_embedding_request(call: Call, model: str, profile: Profile = PLAIN) -> bytes:
    """The body that asks `model` for what `call` says."""
    body: dict[str, Any] = dict(call.extra)
    body["model"] = model
    body["input"] = write_inputs(call.inputs)
    for name in ("dimensions", "encoding_format", "user"):
        value = getattr(call, name)
        if value is not None:
            body[name] = value
    if profile.adjusts:
        adjust(body, profile)
    return msgspec.json.encode(body)


class _Item(Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Reply(Struct, gc=False):
    data: list[_Item] | None = None
    model: str | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


def decode_embeddings(body: bytes, call: Call) -> Answer:
    """The answer in a 200 response's body: `raw` alone when it is in the format that `call` asks for, else the vectors.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or an error dressed as one.
    """
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    if not reply.data:
        if given(reply.error):
            raise error_in_answer(reply.error)
        raise not_understood(f"answer of {len(body)} bytes without vectors")
    items = _in_order(reply.data, len(call.inputs))
    usage = _usage(reply.usage)
    sign = b'"' if call.encoding_format == "base64" else b"["
    if all(bytes(item[:1]) == sign for item in items):
        raw = body if usage is not None or not given(reply.usage) else without_usage(body)
        if raw:
            return Answer((), model=reply.model or "", usage=usage, raw=raw, dialect=NAME)
    return Answer((), model=reply.model or "", usage=usage, dialect=NAME, vectors=tuple([_vector(item) for item in items]))


def _in_order(data: list[_Item], wanted: int) -> list[memoryview]:
    """Each input's vector as it was written, by the index it names or by its place."""
    places = [place if item.index is None else item.index for place, item in enumerate(data)]
    if sorted(places) != list(range(wanted)):
        raise not_understood(f"{len(data)} vectors for {wanted} inputs")
    found = sorted(zip(places, data, strict=True), key=lambda pair: pair[0])
    return [memoryview(item.embedding) for _, item in found]


def _usage(raw: msgspec.Raw) -> Usage | None:
    return read_usage(raw) if given(raw) else None


def _vector(raw: memoryview) -> bytes:
    """Little-endian float32, whichever way it was written."""
    try:
        value = msgspec.json.decode(raw, type=str | list[float])
        if isinstance(value, str):
            packed = b64decode(value, validate=True)
            if not packed or len(packed) % 4:
                raise ValueError("no whole number of values")
            return packed
        numbers = array("f", value)
    except (ValueError, OverflowError) as fault:
        raise _no_vector(fault) from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _no_vector(fault: Exception) -> UpstreamFailed:
    return not_understood(f"a vector that is none: {type(fault).__name__}")


class OpenAIEmbeddingsDialect:
    """`POST /v1/embeddings`. Pure and without state: one instance serves every call."""

    name = NAME

    def decode_request(self, body: bytes) -> Call:
        """The call. Raises InvalidRequest naming the field."""
        return decode_embedding_request(body)

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body: its own bytes when they are of this dialect."""
        if answer.raw and answer.dialect == NAME:
            return answer.raw
        write = _as_text if call.encoding_format == "base64" else _as_numbers
        total = answer.usage.input_total if answer.usage is not None else 0
        body = {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": write(each)} for index, each in enumerate(answer.vectors)],
            "model": answer.model or call.model,
            "usage": {"prompt_tokens": total, "total_tokens": total},
        }
        return msgspec.json.encode(body)

    def open_stream(self, call: Call, request_id: str) -> "NoStream":
        """Embeddings do not stream, and no call that asks for them says so."""
        return NoStream(self, call, request_id)

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)


class NoStream:
    """The one event of an answer that does not stream, for a reader that asked for frames all the same."""

    __slots__ = ("_call", "_dialect", "_request_id")

    def __init__(self, dialect: OpenAIEmbeddingsDialect, call: Call, request_id: str) -> None:
        self._dialect = dialect
        self._call = call
        self._request_id = request_id

    def event(self, event: Event, cost: str | None) -> bytes:
        """The answer as one frame."""
        if not isinstance(event, Answer):
            return b""
        return b"data: %s\n\n" % self._dialect.encode_answer(event, self._call).replace(b"\n", b"\ndata: ")

    def end(self) -> bytes:
        """Nothing: the answer is the end."""
        return b""

    def error(self, error: GatehouseError) -> bytes:
        """One frame with the error object."""
        return b"data: %s\n\n" % msgspec.json.encode(describe(error, self._request_id)[1])


def _as_text(vector: bytes) -> str:
    return b64encode(vector).decode()


def _as_numbers(vector: bytes) -> list[float]:
    numbers = array("f")
    numbers.frombytes(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
