"""Embeddings of the Gemini API (https://ai.google.dev/api/embeddings) and of Vertex AI's predict
(https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api)."""

import json
import struct
from typing import Any

import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.usage import Usage
from gatehouse.dialects.gemini import decode_embeddings, decode_predictions, encode_embeddings, encode_predictions

CALL = Call(operation="embedding", model="e", inputs=("What is the meaning of life?", "How does the brain work?"), dimensions=3)
VECTORS = ([0.5, -0.25, 1.0], [0.0, 2.0, -8.3654784e-05])
PACKED = tuple(struct.pack("<3f", *vector) for vector in VECTORS)


def test_requests_of_the_gemini_api() -> None:
    """One an input, in order; a field the operator lets pass goes into each."""
    call = Call(operation="embedding", model="e", inputs=("a", "b"), dimensions=3, extra={"taskType": "RETRIEVAL_QUERY"})
    assert json.loads(encode_embeddings(call, "gemini-embedding-001")) == {
        "requests": [
            {
                "taskType": "RETRIEVAL_QUERY",
                "model": "models/gemini-embedding-001",
                "content": {"parts": [{"text": text}]},
                "outputDimensionality": 3,
            }
            for text in ("a", "b")
        ]
    }


def test_requests_of_vertex() -> None:
    """Instances and parameters."""
    assert json.loads(encode_predictions(CALL)) == {
        "instances": [{"content": "What is the meaning of life?"}, {"content": "How does the brain work?"}],
        "parameters": {"outputDimensionality": 3},
    }
    assert json.loads(encode_predictions(Call(operation="embedding", model="e", inputs=("a",)))) == {"instances": [{"content": "a"}]}


def test_token_ids_are_refused() -> None:
    """Gemini's tokens are not the caller's."""
    call = Call(operation="embedding", model="e", inputs=("a", (1, 2)))
    with pytest.raises(UpstreamFailed) as first:
        encode_embeddings(call, "m")
    with pytest.raises(UpstreamFailed) as second:
        encode_predictions(call)
    for failed in (first.value, second.value):
        assert (failed.sent, failed.param) == (False, "input")


def test_vectors_are_little_endian_floats_in_the_order_of_the_inputs() -> None:
    """With the tokens that were counted, where they were."""
    body: dict[str, Any] = {"embeddings": [{"values": vector} for vector in VECTORS]}
    answer = decode_embeddings(json.dumps(body).encode(), CALL)
    assert (answer.vectors, answer.usage, answer.choices) == (PACKED, None, ())
    body["usageMetadata"] = {"promptTokenCount": 12}
    assert decode_embeddings(json.dumps(body).encode(), CALL).usage == Usage(input=12)
    predictions = [{"embeddings": {"values": vector, "statistics": {"truncated": False, "token_count": 6}}} for vector in VECTORS]
    answer = decode_predictions(json.dumps({"predictions": predictions}).encode(), CALL)
    assert (answer.vectors, answer.usage) == (PACKED, Usage(input=12))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"embeddings":[{"values":[1]}],"predictions":[{"embeddings":{"values":[1]}}]}',
        b'{"embeddings":[{"values":[]},{"values":[]}],"predictions":[]}',
        b'{"embeddings":[{"values":[1e300]},{"values":[1]}],"predictions":[{"embeddings":{"values":[1e300]}},{"embeddings":{"values":[1]}}]}',
        b'{"embeddings":[{"values":["secret"]}],"predictions":[{"embeddings":{"values":["secret"]}}]}',
    ],
)
def test_what_are_no_vectors_is_a_typed_failure(body: bytes) -> None:
    """Too few, empty, beyond a float, or no numbers."""
    for decode in (decode_embeddings, decode_predictions):
        with pytest.raises(UpstreamFailed) as caught:
            decode(body, CALL)
        assert caught.value.code == "upstream_invalid"
        assert "secret" not in caught.value.detail


def test_an_error_in_a_200_is_an_error() -> None:
    """Not a missing vector."""
    body = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}'
    for decode in (decode_embeddings, decode_predictions):
        with pytest.raises(UpstreamFailed) as caught:
            decode(body, CALL)
        assert caught.value.code == "upstream_overloaded"
