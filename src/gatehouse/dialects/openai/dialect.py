"""The inbound side of the dialect, as `core.ports.Dialect` wants it."""

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Event
from gatehouse.dialects.openai import answers, requests, streams
from gatehouse.dialects.openai.errors import describe


class OpenAIDialect:
    """`POST /v1/chat/completions`. Pure and without state: one instance serves every call."""

    name = answers.NAME

    def decode_request(self, body: bytes) -> Call:
        """The call. Raises InvalidRequest naming the field."""
        return requests.decode_request(body)

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body."""
        return answers.encode_answer(answer, call)

    def encode_event(self, event: Event, call: Call, cost: str | None) -> bytes:
        """The frames for one event, possibly none."""
        return streams.encode_event(event, call, cost)

    def end_of_stream(self, call: Call) -> bytes:
        """`data: [DONE]`."""
        return streams.end_of_stream()

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)

    def encode_stream_error(self, error: GatehouseError, request_id: str) -> bytes:
        """The frame that ends a broken stream."""
        return b"data: %s\n\n" % msgspec.json.encode(describe(error, request_id)[1])
