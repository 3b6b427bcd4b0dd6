"""The inbound side of the Responses API, as `core.ports.Dialect` wants it."""

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer
from gatehouse.dialects.openai.errors import describe
from gatehouse.dialects.openai.responses import answers, requests
from gatehouse.dialects.openai.responses.streams import ResponsesStreamWriter


class ResponsesDialect:
    """`POST /v1/responses`. Pure and without state: one instance serves every call."""

    name = answers.NAME

    def decode_request(self, body: bytes) -> Call:
        """The call. Raises InvalidRequest naming the field."""
        return requests.decode_request(body)

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body."""
        return answers.encode_answer(answer, call)

    def open_stream(self, call: Call, request_id: str) -> ResponsesStreamWriter:
        """What writes the stream."""
        return ResponsesStreamWriter(call, request_id)

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body, in the shape of all of OpenAI's errors."""
        status, body = describe(error, request_id)
        return status, msgspec.json.encode(body)
