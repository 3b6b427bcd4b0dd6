"""The Gemini API outbound, with a key. The codec's functions live in `gatehouse.dialects.gemini`."""

from typing import Final

from gatehouse.adapters.providers._codec import Codec, Credential, Form, segment
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.dialects.gemini import StreamDecoder, decode_answer, decode_embeddings, decode_error, encode_embeddings, encode_request

GEMINI_BASE_URL: Final = "https://generativelanguage.googleapis.com/v1beta"


def gemini_codec() -> Codec:
    """The key travels in a header: in the address, where Google's examples have it, it would stand in every log on the way."""
    chat = Form(lambda call, target: f"/{_resource(target.model)}:{verb(call)}", _encode_chat, _decode_chat, _read_chat)
    embedding = Form(lambda call, target: f"/{_resource(target.model)}:batchEmbedContents", _encode_embedding, decode_embeddings)
    return Codec(
        name="gemini",
        forms={"chat": chat, "embedding": embedding},
        decode_error=decode_error,
        credential=Credential("x-goog-api-key", ""),
    )


def verb(call: Call) -> str:
    """What is asked of a model; a stream as server-sent events, since without that word it is one JSON array."""
    return "streamGenerateContent?alt=sse" if call.stream else "generateContent"


def _resource(model: str) -> str:
    """The path of a model; a tuned one is named with its collection ("tunedModels/NAME")."""
    steps = model.split("/") if "/" in model else ["models", model]
    return "/".join([segment(step) for step in steps])


def _encode_chat(call: Call, target: Target) -> bytes:
    return encode_request(call, target.model)


def _decode_chat(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder(call.n)


def _encode_embedding(call: Call, target: Target) -> bytes:
    return encode_embeddings(call, target.model)
