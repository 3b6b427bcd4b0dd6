"""OpenAI's protocol outbound: OpenAI itself, and everything that speaks like it (vLLM, llama.cpp, other gateways).

The codec's functions live in `gatehouse.dialects.openai`; here they are put together for the frame.
"""

from typing import Final, Literal

from gatehouse.adapters.providers._codec import Codec, Form
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.dialects.openai import StreamDecoder, decode_answer, decode_error, encode_request

OPENAI_BASE_URL: Final = "https://api.openai.com/v1"

TokensField = Literal["max_tokens", "max_completion_tokens"]


def openai_codec(tokens_field: TokensField = "max_tokens") -> Codec:
    """OpenAI's protocol for a provider that calls the bound of the output `tokens_field`."""

    def encode_chat(call: Call, target: Target) -> bytes:
        return encode_request(call, target.model, max_tokens_field=tokens_field)

    chat = Form("/chat/completions", encode_chat, _decode_chat, _read_chat)
    return Codec(name="openai", forms={"chat": chat}, decode_error=decode_error)


def _decode_chat(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder(call.n)
