"""Embeddings by InvokeModel, which carries each family's own format: Amazon Titan (one text a request) and Cohere Embed."""

import struct
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.usage import Usage
from gatehouse.dialects._failures import inexpressible, not_understood
from gatehouse.dialects.bedrock.answers import NAME

_Family = Literal["titan", "cohere"]
_FIRST_TITAN: Final = ("titan-embed-text-v1", "titan-embed-g1-text")
"""These know no options at all."""
_Vector = Annotated[list[float], Meta(min_length=1, max_length=16_384)]


class _ByType(Struct, gc=False):
    float: list[_Vector]


class _Reply(Struct, gc=False):
    embedding: _Vector | None = None
    inputTextTokenCount: Annotated[int, Meta(ge=0, le=10**9)] | None = None  # noqa: N815 - the API's name
    embeddings: list[_Vector] | _ByType | None = None


def embedding_path(model: str) -> str:
    """The path; `model` is an id or an ARN, and is one segment of it."""
    return f"/model/{quote(model, safe='')}/invoke"


def encode_embedding(call: Call, model: str) -> bytes:
    """The body that asks `model` for vectors of the call's texts.

    Raises:
        UpstreamFailed: token ids, several texts for a model that takes one, a length it cannot give; before anything was sent.
    """
    texts = [text for text in call.inputs if isinstance(text, str)]
    if len(texts) != len(call.inputs):
        raise inexpressible("input", "this model takes texts, not token ids.")
    if _family(model) == "cohere":
        return _encode_cohere(call, texts)
    if len(texts) != 1:
        raise inexpressible("input", "this model takes one text a request.")
    body: dict[str, Any] = {**call.extra, "inputText": texts[0]}
    if call.dimensions is not None:
        if any(name in model for name in _FIRST_TITAN):
            raise inexpressible("dimensions", "this model gives vectors of one length only.")
        body["dimensions"] = call.dimensions
    return msgspec.json.encode(body)


def decode_embedding(body: bytes, call: Call) -> Answer:
    """The vectors in a 200 response's body. Cohere reports no tokens here: whoever accounts counts for itself.

    Raises:
        UpstreamFailed: not vectors, or not as many as were asked for (upstream_invalid).
    """
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"vectors of {len(body)} bytes: {type(fault).__name__}") from None
    found = reply.embeddings.float if isinstance(reply.embeddings, _ByType) else reply.embeddings
    vectors = found if found is not None else [reply.embedding] if reply.embedding is not None else []
    if len(vectors) != len(call.inputs):
        raise not_understood(f"{len(vectors)} vectors for {len(call.inputs)} texts")
    try:
        written = tuple([struct.pack(f"<{len(vector)}f", *vector) for vector in vectors])
    except OverflowError:
        raise not_understood("a number that no vector holds") from None
    usage = Usage(input=reply.inputTextTokenCount) if reply.inputTextTokenCount else None
    return Answer((), usage=usage, dialect=NAME, vectors=written)


def _family(model: str) -> _Family:
    if "cohere.embed" in model:
        return "cohere"
    if "titan-embed-text" in model or "titan-embed-g1-text" in model:
        return "titan"
    raise inexpressible("model", "this model gives no embeddings here; Titan Text Embeddings and Cohere Embed do.")


def _encode_cohere(call: Call, texts: list[str]) -> bytes:
    body: dict[str, Any] = {"input_type": "search_document", **call.extra, "texts": texts}
    if call.dimensions is not None:
        body["output_dimension"] = call.dimensions
        body["embedding_types"] = ["float"]
    return msgspec.json.encode(body)
