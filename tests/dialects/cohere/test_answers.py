"""Cohere's answers, whole and streamed, counts, vectors and errors. Where the golden files come from is in golden/README.md."""

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call, ToolCall
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Choice, Chunk, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects.cohere import StreamDecoder, decode_answer, decode_embeddings, decode_error, encode_embeddings
from gatehouse.dialects.cohere._replies import read_usage
from tests.dialects.piecewise import cut, fail, read, whole

GOLDEN = Path(__file__).parent / "golden"
START = b'data: {"type":"message-start","id":"m"}\n\n'
END = b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n'


def said(text: str = "x") -> bytes:
    delta = {"message": {"content": {"text": text}}}
    return b"data: " + json.dumps({"type": "content-delta", "index": 0, "delta": delta}).encode() + b"\n\n"


def stream_of(name: str) -> bytes:
    return (GOLDEN / "streams" / f"{name}.sse").read_bytes()


def answer_with(finish: str | None = "COMPLETE", **message: Any) -> bytes:
    return json.dumps({"id": "i", "finish_reason": finish, "message": {"role": "assistant", **message}}).encode()


def test_a_documented_answer() -> None:
    """What is billed is what counts: the tokens of Cohere's own template are not paid for."""
    answer = decode_answer((GOLDEN / "answers" / "text.json").read_bytes())
    assert answer.choices == (Choice(0, "LLM stands for Large Language Model.", finish="stop"),)
    assert (answer.id, answer.usage) == ("c14c80c3-18eb-4519-9460-6c92edd8cfb4", Usage(input=5, output=418))
    assert (answer.raw, answer.dialect) == (b"", "cohere")


def test_documented_calls_of_tools() -> None:
    """The plan is the text beside them, arguments are the very text."""
    answer = decode_answer((GOLDEN / "answers" / "tools.json").read_bytes())
    (choice,) = answer.choices
    assert choice.text == "I will search for the weather in Madrid and Brasilia."
    assert choice.tools == (
        ToolCall("get_weather_p1t92w7gfgq7", "get_weather", '{\n    "location": "Madrid"\n}'),
        ToolCall("get_weather_ay6nmvjgp9vn", "get_weather", '{\n    "location": "Brasilia"\n}'),
    )
    assert (choice.finish, answer.usage) == ("tool_calls", Usage(input=37, output=28))


def test_the_documented_stream_of_tools_is_the_same_answer() -> None:
    """Two calls in pieces, each under its own index."""
    answer = whole(read(StreamDecoder(), stream_of("tools")))
    expected = decode_answer((GOLDEN / "answers" / "tools.json").read_bytes())
    assert answer.choices[0].tools == expected.choices[0].tools
    assert (answer.choices[0].text, answer.choices[0].finish, answer.usage) == (
        "I will search for the weather.",
        "tool_calls",
        expected.usage,
    )
    assert answer.id == "fba98ad3-e5a1-413c-a8de-84fbf9baabf7"


def test_a_stream_of_text_with_citations() -> None:
    """Citations, for which nobody asked, are no part of it."""
    events = read(StreamDecoder(), stream_of("text"))
    answer = whole(events)
    assert (answer.text, answer.choices[0].finish, answer.usage) == ("It is currently 24°C in Madrid.", "stop", Usage(input=87, output=19))
    assert [delta.begins for event in events if isinstance(event, Chunk) for delta in event.choices] == [True] + [False] * 8


def test_a_stream_of_thoughts() -> None:
    """Reasoning apart, probabilities in OpenAI's shape, cached tokens in their own bucket."""
    answer = whole(read(StreamDecoder(), stream_of("thinking")))
    (choice,) = answer.choices
    assert (choice.reasoning, choice.text, choice.finish) == ("Adding up.", "Two.", "length")
    assert choice.logprobs == {"content": [{"token": "Two.", "logprob": -0.75, "bytes": [84, 119, 111, 46], "top_logprobs": []}]}
    assert answer.usage == Usage(input=6, cached_input=4, output=12)


@pytest.mark.parametrize("name", ["text", "tools", "thinking"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(places=st.lists(st.integers(0, 5_000), max_size=20), comments=st.booleans())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cut_of_a_stream_gives_the_same_events(name: str, end: bytes, places: list[int], comments: bool) -> None:
    """Any split, any line end, comments between."""
    plain = stream_of(name)
    stream = (plain.replace(b"data: ", b": ping\ndata:") if comments else plain).replace(b"\n", end)
    assert read(StreamDecoder(), *cut(stream, places)) == read(StreamDecoder(), plain)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6), st.lists(st.integers(0, 2_000), max_size=10))
@settings(max_examples=100, deadline=None)
def test_the_pieces_are_the_whole(texts: list[str], places: list[int]) -> None:
    """Concatenated deltas equal the whole text."""
    stream = START + b"".join([said(text) for text in texts]) + END
    assert whole(read(StreamDecoder(), *cut(stream, places))).text == "".join(texts)


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("ERROR_TOXIC", "content_filter"),
        ("A_NEW_WORD", "stop"),
    ],
)
def test_reasons_to_end(word: str, finish: str) -> None:
    """In core's words, alike whole and streamed."""
    assert decode_answer(answer_with(word)).choices[0].finish == finish
    event = read(StreamDecoder(), START, END.replace(b"COMPLETE", word.encode()))[-1]
    assert isinstance(event, Chunk)
    assert event.choices[0].finish == finish


@pytest.mark.parametrize(("word", "code"), [("ERROR", "upstream_rejected"), ("TIMEOUT", "upstream_timeout")])
def test_an_end_in_an_error_is_a_failure(word: str, code: str) -> None:
    """Never an answer that looks finished."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(answer_with(word))
    assert (caught.value.code, caught.value.caller_fault) == (code, False)
    assert fail(StreamDecoder(), said(), END.replace(b"COMPLETE", word.encode()))[1].code == code


@pytest.mark.parametrize(
    "tail",
    [b"", b"data: ", b'data: {"type":"message-end"', b": bye\n\n", b'data: {"type":"message-end"}\n\n', END.replace(b"COMPLETE", b"")],
)
def test_a_stream_without_its_end_is_broken(tail: bytes) -> None:
    """`message-end` is the last word, where it says why it ended; what follows it is dropped."""
    events, failed = fail(StreamDecoder(), START, said(), tail)
    assert (len(events), failed.code) == (1, "upstream_broken")
    assert len(read(StreamDecoder(), START + said() + END + said("late"), b"data: [DONE]\n\n")) == 2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b'data: {"type":"message-end","delta":{"error":"secret","finish_reason":"ERROR"}}\n\n', "upstream_rejected"),
        (b'data: {"message":"secret"}\n\n', "upstream_rejected"),
        (b"data: secret\n\n", "upstream_invalid"),
        (b"data: [1]\n\n", "upstream_invalid"),
        (b'data: {"type":"tool-call-start","delta":{}}\n\n', "upstream_invalid"),
        (b'data: {"type":"content-delta","delta":{"message":"secret"}}\n\n', "upstream_invalid"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "upstream_invalid"),
        (b"data: " + b"x" * 5_000_000, "upstream_invalid"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_event_fails_after_what_came_before(bad: bytes, code: str) -> None:
    """Errors inside a 200, garbage, an event that never ends: nothing of it is quoted."""
    events, failed = fail(StreamDecoder(), said(), bad)
    assert (len(events), failed.code) == (1, code)
    assert "secret" not in failed.message + failed.detail


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_a_fault_of_ours(data: bytes) -> None:
    """Whatever comes is events or a typed failure."""
    for stream in (data, b"data: " + data.replace(b"\n", b" ") + b"\n\n"):
        decoder = StreamDecoder()
        events: list[Event] = []
        try:
            events += decoder.feed(stream)
            decoder.close()
        except UpstreamFailed:
            continue
        assert events


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"{", b'{"message":"secret"}', b'{"message":{"content":"secret"}}', b'{"id":3}'])
def test_what_is_no_answer_is_a_typed_failure(raw: bytes) -> None:
    """Never a fault of ours, never quoted; one without a reason to end was cut off."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(raw)
    assert caught.value.code == "upstream_invalid"
    assert "secret" not in caught.value.message + caught.value.detail
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(answer_with(None))
    assert caught.value.code == "upstream_broken"


# Counts


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"billed_units": {"input_tokens": 5.0, "output_tokens": 7}, "tokens": {"input_tokens": 71}}, Usage(input=5, output=7)),
        ({"tokens": {"input_tokens": 10, "output_tokens": 12}, "cached_tokens": 4}, Usage(input=6, cached_input=4, output=12)),
        ({"billed_units": {"input_tokens": 3}, "cached_tokens": 9}, Usage(cached_input=3)),
        ({"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 2, "output_tokens": 1}}, Usage(input=2, output=1)),
        ({"billed_units": {"input_tokens": -1}}, None),
        ({"billed_units": {"input_tokens": 1e12}}, None),
        ({"billed_units": {"input_tokens": 0}}, None),
        ({}, None),
        ("many", None),
    ],
)
def test_counts_fall_into_disjoint_buckets(told: Any, usage: Usage | None) -> None:
    """What cannot be true is none: whoever accounts then counts for itself."""
    assert read_usage(json.dumps(told).encode()) == usage
    raw = json.loads(answer_with())
    assert decode_answer(json.dumps({**raw, "usage": told}).encode()).usage == usage


# Vectors (https://docs.cohere.com/reference/embed)

EMBED = Call(operation="embedding", model="e", inputs=("hello", "goodbye"))


def test_vectors_there_and_back() -> None:
    """Little-endian floats in the order of the inputs, with what is billed."""
    assert json.loads(encode_embeddings(EMBED, "embed-v4.0")) == {
        "input_type": "search_document",
        "model": "embed-v4.0",
        "texts": ["hello", "goodbye"],
        "embedding_types": ["float"],
    }
    asked = msgspec.structs.replace(EMBED, dimensions=256, extra={"input_type": "search_query"})
    assert json.loads(encode_embeddings(asked, "e")) | {"texts": []} == {
        "input_type": "search_query",
        "model": "e",
        "texts": [],
        "embedding_types": ["float"],
        "output_dimension": 256,
    }
    vectors = [[0.016296387, -0.008354187], [0.04663086, 1.0]]
    body = {
        "id": "da6e531f",
        "embeddings": {"float": vectors},
        "texts": ["hello", "goodbye"],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}},
    }
    answer = decode_embeddings(json.dumps(body).encode(), EMBED)
    assert answer.vectors == tuple(struct.pack("<2f", *vector) for vector in vectors)
    assert (answer.id, answer.usage, answer.choices) == ("da6e531f", Usage(input=2), ())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"embeddings":{"float":[[1]]}}',
        b'{"embeddings":{"float":[[],[]]}}',
        b'{"embeddings":{"float":[[1e300],[1]]}}',
        b'{"embeddings":{"float":[["secret"],[1]]}}',
    ],
)
def test_what_are_no_vectors_is_a_typed_failure(body: bytes) -> None:
    """Too few, empty, beyond a float, or no numbers."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_embeddings(body, EMBED)
    assert caught.value.code == "upstream_invalid"
    assert "secret" not in caught.value.detail


def test_token_ids_are_refused() -> None:
    """Cohere's tokens are not the caller's."""
    with pytest.raises(UpstreamFailed) as caught:
        encode_embeddings(Call(operation="embedding", model="e", inputs=((1, 2),)), "e")
    assert (caught.value.sent, caught.value.param) == (False, "input")


# Errors (https://docs.cohere.com/reference/errors)


@pytest.mark.parametrize(
    ("status", "code", "callers"),
    [
        (400, "upstream_rejected", True),
        (401, "upstream_auth", False),
        (402, "upstream_rejected", False),
        (404, "upstream_rejected", False),
        (422, "upstream_rejected", True),
        (429, "upstream_overloaded", False),
        (498, "upstream_auth", False),
        (499, "upstream_rejected", False),
        (500, "upstream_rejected", False),
        (503, "upstream_overloaded", False),
        (504, "upstream_timeout", False),
    ],
)
def test_whose_fault_an_error_is(status: int, code: str, callers: bool) -> None:
    """What the provider says reaches the caller only when it is about the caller's own request."""
    for body in (b'{"message":"secret-host: too many tokens"}', b"<html>secret-host", b'{"message":3}'):
        failed = decode_error(status, {b"retry-after": b"7"}, body)
        assert (failed.code, failed.caller_fault) == (code, callers)
        assert callers or "secret-host" not in failed.message
    assert ("too many tokens" in decode_error(status, {}, b'{"message":"too many tokens"}').message) == callers
