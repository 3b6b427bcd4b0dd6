"""Embeddings by InvokeModel: the formats of Titan and Cohere, as AWS's pages on their parameters give them."""

import json
import struct
from typing import Any

import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.usage import Usage
from gatehouse.dialects.bedrock.embeddings import decode_embedding, embedding_path, encode_embedding

TITAN = "amazon.titan-embed-text-v2:0"
COHERE = "cohere.embed-multilingual-v3"


def call_of(*inputs: Any, **fields: Any) -> Call:
    return Call(operation="embedding", model="vectors", inputs=inputs, **fields)


def floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


@pytest.mark.parametrize(
    ("model", "call", "body"),
    [
        (TITAN, call_of("a"), {"inputText": "a"}),
        (TITAN, call_of("a", dimensions=256, extra={"normalize": False}), {"inputText": "a", "dimensions": 256, "normalize": False}),
        ("amazon.titan-embed-text-v1", call_of("a"), {"inputText": "a"}),
        (COHERE, call_of("a", "b"), {"texts": ["a", "b"], "input_type": "search_document"}),
        (COHERE, call_of("a", extra={"input_type": "search_query"}), {"texts": ["a"], "input_type": "search_query"}),
        (
            "us.cohere.embed-v4:0",
            call_of("a", dimensions=512),
            {"texts": ["a"], "input_type": "search_document", "output_dimension": 512, "embedding_types": ["float"]},
        ),
    ],
)
def test_what_is_asked(model: str, call: Call, body: dict[str, Any]) -> None:
    """Each family's own words."""
    assert json.loads(encode_embedding(call, model)) == body
    assert embedding_path(TITAN) == "/model/amazon.titan-embed-text-v2%3A0/invoke"


@pytest.mark.parametrize(
    ("model", "call", "param"),
    [
        (TITAN, call_of("a", "b"), "input"),
        (TITAN, call_of((1, 2)), "input"),
        ("amazon.titan-embed-text-v1", call_of("a", dimensions=256), "dimensions"),
        ("amazon.nova-2-multimodal-embeddings-v1:0", call_of("a"), "model"),
    ],
)
def test_what_cannot_be_asked(model: str, call: Call, param: str) -> None:
    """Named before anything is sent."""
    with pytest.raises(UpstreamFailed) as caught:
        encode_embedding(call, model)
    assert (caught.value.param, caught.value.sent) == (param, False)


@pytest.mark.parametrize(
    ("body", "vectors", "usage"),
    [
        ({"embedding": [0.5, -1.0], "inputTextTokenCount": 3}, [[0.5, -1.0]], Usage(input=3)),
        ({"embeddings": [[0.5], [1.5]], "id": "x", "response_type": "embeddings_floats", "texts": ["a", "b"]}, [[0.5], [1.5]], None),
        ({"embeddings": {"float": [[0.25]]}, "response_type": "embeddings_by_type"}, [[0.25]], None),
    ],
)
def test_what_comes_back(body: dict[str, Any], vectors: list[list[float]], usage: Usage | None) -> None:
    """One vector a text, as little-endian float32, and the tokens where the family tells them."""
    answer = decode_embedding(json.dumps(body).encode(), call_of(*"ab"[: len(vectors)]))
    assert [floats(vector) for vector in answer.vectors] == vectors
    assert (answer.usage, answer.choices) == (usage, ())


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"embedding":[]}', b'{"embedding":["x"]}', b'{"embeddings":[[1],[2]]}', b'{"embedding":[1e300]}']
)
def test_what_is_no_vector(body: bytes) -> None:
    """Nothing, other shapes, another number than asked for, numbers beyond float32."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_embedding(body, call_of("a"))
    assert caught.value.code == "upstream_invalid"
