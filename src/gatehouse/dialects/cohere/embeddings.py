"""Embeddings of Cohere's `/v2/embed`."""

import struct
from typing import Any

import msgspec
from msgspec import Raw, Struct

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.dialects._failures import inexpressible, not_understood
from gatehouse.dialects.cohere._replies import ABSENT, NAME, given, read_usage


class _Vectors(Struct, gc=False):
    floats: list[list[float]] = msgspec.field(name="float", default_factory=list)


class _Embeddings(Struct, gc=False):
    embeddings: _Vectors
    id: str | None = None
    meta: Raw = ABSENT


def encode_embeddings(call: Call, model: str) -> bytes:
    """The body of an embedding request. Cohere wants to know what the vectors are for (`input_type`): documents to be searched,
    unless the caller says otherwise in a field of that name that the operator lets pass.

    Raises:
        UpstreamFailed: an input is a list of token ids, which Cohere does not take (nothing was sent).
    """
    if not all(isinstance(text, str) for text in call.inputs):
        raise inexpressible("input", "this model takes texts only, no lists of token ids.")
    body: dict[str, Any] = {"input_type": "search_document", **call.extra}
    body |= {"model": model, "texts": call.inputs, "embedding_types": ["float"]}
    if call.dimensions is not None:
        body["output_dimension"] = call.dimensions
    return msgspec.json.encode(body)


def decode_embeddings(body: bytes, call: Call) -> Answer:
    """The vectors, in the order of the inputs.

    Raises:
        UpstreamFailed: not an answer, or not one vector an input (upstream_invalid).
    """
    try:
        reply = msgspec.json.decode(body, type=_Embeddings)
        vectors = reply.embeddings.floats
        packed = tuple([struct.pack(f"<{len(vector)}f", *vector) for vector in vectors])
    except (ValueError, RecursionError, OverflowError, struct.error) as fault:
        raise not_understood(f"embeddings of {len(body)} bytes: {type(fault).__name__}") from None
    if len(packed) != len(call.inputs) or not all(packed):
        raise not_understood(f"{len(packed)} vectors for {len(call.inputs)} inputs")
    usage = read_usage(reply.meta) if given(reply.meta) else None
    return Answer((), reply.id or "", usage=usage, dialect=NAME, vectors=packed)
