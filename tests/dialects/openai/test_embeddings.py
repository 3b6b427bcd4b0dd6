"""`/v1/embeddings` both ways: inputs of every kind, vectors that pass unread, and both ways of writing them."""

import contextlib
import json
import struct
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call
from gatehouse.core.errors import InvalidRequest, UpstreamFailed
from gatehouse.core.events import Answer
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai import OpenAIEmbeddingsDialect, decode_embeddings, encode_embedding_request

DIALECT = OpenAIEmbeddingsDialect()


def decode(given: Any = "text", **fields: Any) -> Call:
    return DIALECT.decode_request(json.dumps({"model": "m", "input": given, **fields}).encode())


def packed(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def body(*vectors: Any, indexes: list[int | None] | None = None, **fields: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    for item, index in zip(data, indexes or [], strict=False):
        item["index"] = index
    return json.dumps(
        {"object": "list", "data": data, "model": "fake", "usage": {"prompt_tokens": 2, "total_tokens": 2}, **fields}
    ).encode()


@pytest.mark.parametrize(
    ("given", "inputs"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))]
)
def test_inputs_of_every_kind(given: Any, inputs: Any) -> None:
    """A text, texts, token ids and lists of them."""
    call = decode(given, dimensions=8, encoding_format="base64", user="u")
    assert (call.operation, call.inputs, call.dimensions, call.encoding_format, call.user) == ("embedding", inputs, 8, "base64", "u")
    sent = json.loads(encode_embedding_request(call, "target"))
    assert sent == {"model": "target", "input": given, "dimensions": 8, "encoding_format": "base64", "user": "u"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": "a\nb"}, "model"),
    ],
)
def test_what_is_refused_names_its_field(fields: dict[str, Any], param: str) -> None:
    """Empty texts, mixed kinds, too many, formats nobody knows: a 400 with the field."""
    with pytest.raises(InvalidRequest) as caught:
        decode(**{"given" if name == "input" else name: value for name, value in fields.items()})
    assert caught.value.param == param


def test_a_request_to_stream_is_not_passed_over() -> None:
    """`stream` means nothing here, so it is a field we do not know: Route refuses it."""
    assert decode(stream=True).extra == {"stream": True}


@pytest.mark.parametrize(
    ("form", "vector"), [("float", [0.5, -1.0]), (None, [0.5, -1.0]), ("base64", b64encode(packed(0.5, -1.0)).decode())]
)
def test_vectors_in_the_format_asked_for_pass_as_they_came(form: str | None, vector: Any) -> None:
    """Nobody looks into them: the bytes are the answer."""
    call, raw = decode(["a", "b"], encoding_format=form), body(vector, vector)
    answer = decode_embeddings(raw, call)
    assert (answer.vectors, answer.usage, answer.choices) == ((), Usage(input=2), ())
    assert DIALECT.encode_answer(answer, call) == raw


@pytest.mark.parametrize("form", ["float", "base64"])
def test_the_other_format_is_written(form: str) -> None:
    """A target that knows one format serves callers of both, with the same numbers in the order of the inputs."""
    first, second = [0.25, -2.0], [1.5, 3.0]
    vectors = [b64encode(packed(*each)).decode() if form == "float" else each for each in (second, first)]
    call = decode(["a", "b"], encoding_format=form)
    answer = decode_embeddings(body(*vectors, indexes=[1, 0]), call)
    assert answer.vectors == (packed(*first), packed(*second))
    told = json.loads(DIALECT.encode_answer(answer, call))
    wanted = [b64encode(packed(*each)).decode() if form == "base64" else each for each in (first, second)]
    assert [each["embedding"] for each in told["data"]] == wanted
    assert [each["index"] for each in told["data"]] == [0, 1]
    assert (told["object"], told["model"], told["usage"]) == ("list", "fake", {"prompt_tokens": 2, "total_tokens": 2})


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_no_number_changes_on_the_way(vectors: list[list[float]]) -> None:
    """float32 to base64 and back, and to JSON numbers, is exact."""
    answer = Answer((), vectors=tuple(packed(*each) for each in vectors))
    for form in ("float", "base64"):
        call = decode(["a"] * len(vectors), encoding_format=form)
        raw = DIALECT.encode_answer(answer, call)
        other = decode(["a"] * len(vectors), encoding_format="base64" if form == "float" else "float")
        again = decode_embeddings(raw, other)
        assert again.vectors == answer.vectors


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"no", "upstream_invalid"),
        (b"{}", "upstream_invalid"),
        (body([1.0]), "upstream_invalid"),  # one vector for two inputs
        (body([1.0], [1.0], indexes=[0, 0]), "upstream_invalid"),
        (body("AAA", "AAA"), "upstream_invalid"),
        (body({"a": 1}, None), "upstream_invalid"),
        (b'{"error":{"message":"busy","code":429}}', "upstream_overloaded"),
    ],
)
def test_what_is_no_answer(raw: bytes, code: str) -> None:
    """Too few vectors, two for one input, what is no vector, an error dressed as an answer: the target's failure."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_embeddings(raw, decode(["a", "b"], encoding_format="float"))
    assert caught.value.code == code


def test_usage_that_cannot_be_true_does_not_leave() -> None:
    """Neither in the value nor in the bytes."""
    call = decode("a")
    answer = decode_embeddings(body([1.0], usage={"prompt_tokens": -5, "total_tokens": 1}), call)
    assert answer.usage is None
    assert "usage" not in json.loads(DIALECT.encode_answer(answer, call))


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_nothing_but_typed_refusals_come_out(garbage: bytes) -> None:
    """Whatever stands in a body or an answer, it is read or refused by name."""
    for read in (DIALECT.decode_request, lambda data: decode_embeddings(data, decode())):
        with contextlib.suppress(InvalidRequest, UpstreamFailed):
            read(garbage)
