"""The inbound side of the dialect, as `core.ports.Dialect` wants it."""

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Event
from gatehouse.dialects.openai import answers, requests, streams
from gatehouse.dialects.openai.errors import describe


class OpenAIDialect:
    """`POST /v1/chat/completions`. Pure and without state: one instance serves every call."""

    name = answers.NAME

    decode_request = staticmethod(requests.decode_request)
    encode_answer = staticmethod(answers.encode_answer)

    def open_stream(self, call: Call, request_id: str) -> "OpenAIStreamWriter":
        """What writes the stream."""
        return OpenAIStreamWriter(call, request_id)

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)


class OpenAIStreamWriter:
    """`chat.completion.chunk` frames: each stands for itself, so nothing is remembered between them."""

    __slots__ = ("_call", "_request_id")

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._request_id = request_id

    def event(self, event: Event, cost: str | None) -> bytes:
        """The frames for one event, possibly none."""
        return streams.encode_event(event, self._call, cost)

    def end(self) -> bytes:
        """`data: [DONE]`."""
        return streams.end_of_stream()

    def error(self, error: GatehouseError) -> bytes:
        """One frame with the error object."""
        return b"data: %s\n\n" % msgspec.json.encode(describe(error, self._request_id)[1])
