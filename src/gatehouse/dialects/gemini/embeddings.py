"""Embeddings: `batchEmbedContents` of the Gemini API, and `predict` of Vertex AI."""

import struct
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.usage import Usage
from gatehouse.dialects._failures import inexpressible, not_understood
from gatehouse.dialects.gemini._replies import ABSENT, given
from gatehouse.dialects.gemini.answers import NAME
from gatehouse.dialects.gemini.errors import error_in_answer

_Count = Annotated[float, Meta(ge=0, le=10**9)]


class _Embedding(Struct, gc=False):
    values: list[float]


class _EmbeddingUsage(Struct, gc=False, rename="camel"):
    prompt_token_count: _Count = 0


class _Embeddings(Struct, gc=False, rename="camel"):
    embeddings: list[_Embedding] = []
    usage_metadata: _EmbeddingUsage | None = None
    error: Raw = ABSENT


class _Statistics(Struct, gc=False):
    token_count: _Count = 0


class _Predicted(Struct, gc=False):
    values: list[float]
    statistics: _Statistics | None = None


class _Prediction(Struct, gc=False):
    embeddings: _Predicted


class _Predictions(Struct, gc=False):
    predictions: list[_Prediction] = []
    error: Raw = ABSENT


def encode_embeddings(call: Call, model: str) -> bytes:
    """The body of `batchEmbedContents`: one request an input, in order.

    Raises:
        UpstreamFailed: an input is a list of token ids, which Gemini does not take (nothing was sent).
    """
    requests = []
    for text in _texts(call):
        request: dict[str, Any] = {"model": f"models/{model}", "content": {"parts": [{"text": text}]}}
        if call.dimensions is not None:
            request["outputDimensionality"] = call.dimensions
        requests.append({**call.extra, **request})
    return msgspec.json.encode({"requests": requests})


def decode_embeddings(body: bytes, call: Call) -> Answer:
    """The vectors of a `batchEmbedContents` answer, in the order of the inputs.

    Raises:
        UpstreamFailed: not an answer, or not one vector an input (upstream_invalid).
    """
    try:
        reply = msgspec.json.decode(body, type=_Embeddings)
        if given(reply.error):
            raise error_in_answer(reply.error)
        tokens = 0 if reply.usage_metadata is None else int(reply.usage_metadata.prompt_token_count)
        return _answer([embedding.values for embedding in reply.embeddings], tokens, call)
    except (ValueError, RecursionError, OverflowError, struct.error) as fault:
        raise not_understood(f"embeddings of {len(body)} bytes: {type(fault).__name__}") from None


def encode_predictions(call: Call) -> bytes:
    """The body of `predict`; raises as `encode_embeddings`."""
    body: dict[str, Any] = {**call.extra, "instances": [{"content": text} for text in _texts(call)]}
    if call.dimensions is not None:
        body["parameters"] = {"outputDimensionality": call.dimensions}
    return msgspec.json.encode(body)


def decode_predictions(body: bytes, call: Call) -> Answer:
    """The vectors of a `predict` answer; raises as `decode_embeddings`."""
    try:
        reply = msgspec.json.decode(body, type=_Predictions)
        if given(reply.error):
            raise error_in_answer(reply.error)
        found = [prediction.embeddings for prediction in reply.predictions]
        tokens = sum(int(one.statistics.token_count) for one in found if one.statistics is not None)
        return _answer([one.values for one in found], tokens, call)
    except (ValueError, RecursionError, OverflowError, struct.error) as fault:
        raise not_understood(f"predictions of {len(body)} bytes: {type(fault).__name__}") from None


def _texts(call: Call) -> list[str]:
    texts = [text for text in call.inputs if isinstance(text, str)]
    if len(texts) != len(call.inputs):
        raise inexpressible("input", "this model takes texts only, no lists of token ids.")
    return texts


def _answer(vectors: list[list[float]], tokens: int, call: Call) -> Answer:
    if len(vectors) != len(call.inputs) or not all(vectors):
        raise not_understood(f"{len(vectors)} vectors for {len(call.inputs)} inputs")
    packed = tuple([struct.pack(f"<{len(vector)}f", *vector) for vector in vectors])
    return Answer((), usage=Usage(input=tokens) if tokens else None, dialect=NAME, vectors=packed)
