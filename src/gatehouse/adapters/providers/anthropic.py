"""Anthropic's Messages API outbound. The codec's functions live in `gatehouse.dialects.anthropic`."""

from typing import Final

from gatehouse.adapters.providers._codec import Codec, Credential, Form
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.dialects.anthropic import StreamDecoder, decode_answer, decode_error, encode_request

ANTHROPIC_BASE_URL: Final = "https://api.anthropic.com/v1"
VERSION: Final = "2023-06-01"
"""Of the API: https://docs.anthropic.com/en/api/versioning"""


def anthropic_codec() -> Codec:
    """The Messages API with a key."""
    return Codec(
        name="anthropic",
        forms={"chat": Form("/messages", _encode, _decode, _read)},
        decode_error=decode_error,
        credential=Credential("x-api-key", ""),
        headers=(("anthropic-version", VERSION),),
    )


def _encode(call: Call, target: Target) -> bytes:
    return encode_request(call, target.model)


def _decode(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read(call: Call) -> StreamDecoder:
    return StreamDecoder()
