"""The inbound side of the dialect, as `core.ports.Dialect` wants it."""

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer
from gatehouse.dialects.anthropic import answers, requests
from gatehouse.dialects.anthropic.errors import describe
from gatehouse.dialects.anthropic.writer import AnthropicStreamWriter


class AnthropicDialect:
    """`POST /v1/messages`. Pure and without state: one instance serves every call."""

    name = answers.NAME

    def decode_request(self, body: bytes) -> Call:
        """The call. Raises InvalidRequest naming the field."""
        return requests.decode_request(body)

    def decode_count(self, body: bytes) -> Call:
        """The call whose prompt `POST /v1/messages/count_tokens` asks about. Raises InvalidRequest naming the field."""
        return requests.decode_count(body)

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body."""
        return answers.encode_answer(answer, call)

    def open_stream(self, call: Call, request_id: str) -> AnthropicStreamWriter:
        """What writes the stream."""
        return AnthropicStreamWriter(call, request_id)

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)
