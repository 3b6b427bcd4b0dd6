"""Cohere's API outbound. The codec's functions live in `gatehouse.dialects.cohere`."""

from typing import Final

from gatehouse.adapters.providers._codec import Codec, Form
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.dialects.cohere import StreamDecoder, decode_answer, decode_embeddings, decode_error, encode_embeddings, encode_request

COHERE_BASE_URL: Final = "https://api.cohere.com"
"""Without a version: chats and embeddings are of the second, the list of models of the first."""


def cohere_codec() -> Codec:
    """Chats and embeddings with a key."""
    return Codec(
        name="cohere",
        forms={
            "chat": Form("/v2/chat", _encode_chat, _decode_chat, _read_chat),
            "embedding": Form("/v2/embed", _encode_embedding, decode_embeddings),
        },
        decode_error=decode_error,
        health="/v1/models",
    )


def _encode_chat(call: Call, target: Target) -> bytes:
    return encode_request(call, target.model)


def _decode_chat(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder()


def _encode_embedding(call: Call, target: Target) -> bytes:
    return encode_embeddings(call, target.model)
