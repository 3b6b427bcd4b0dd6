"""Streams both ways: byte-exact passage, every cut, every way to end, and what leaves for a client."""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from gatehouse.core.calls import Call, ToolCall
from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai import OpenAIDialect, StreamDecoder
from tests.dialects.openai.strategies import identifiers, json_values, some_text, text

GOLDEN = Path(__file__).parent / "golden" / "streams"
DIALECT = OpenAIDialect()
ASKED = Call(model="assistant", stream=True, include_usage=True)
UNASKED = Call(model="assistant", stream=True)
DONE = b"data: [DONE]\n\n"


def frame(**fields: Any) -> bytes:
    """One well-formed frame."""
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}).encode() + b"\n\n"


def said(content: str = "hi", index: int = 0, finish: str | None = None) -> bytes:
    return frame(choices=[{"index": index, "delta": {"content": content}, "finish_reason": finish}])


STOP = frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = frame(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})


def read(*pieces: bytes, choices: int = 1) -> list[Event]:
    """Feed all, close, and return the events."""
    decoder = StreamDecoder(choices)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.close()
    return events


def fail(*pieces: bytes, choices: int = 1) -> tuple[list[Event], UpstreamFailed]:
    """Like a transport: read until finished or the end, then close. Returns what came and the failure."""
    decoder = StreamDecoder(choices)
    events: list[Event] = []
    with pytest.raises(UpstreamFailed) as caught:  # noqa: PT012 - it may fail at any piece or at the end
        for piece in pieces:
            if decoder.finished:
                break
            events += decoder.feed(piece)
        decoder.close()
    return events, caught.value


def shape(event: Event) -> Any:
    return json.loads(msgspec.json.encode(msgspec.structs.replace(event, raw=b"-"))) | {"raw": ""}


def written(events: list[Event], call: Call, cost: str | None = None) -> bytes:
    return b"".join(DIALECT.open_stream(call, "req_1").event(event, cost) for event in events) + DIALECT.open_stream(call, "req_1").end()


@pytest.mark.parametrize("name", ["default", "tools"])
def test_documented_streams_decode_to_golden_events(name: str) -> None:
    """A stream of the API's documentation, as core events."""
    events = read((GOLDEN / f"{name}.sse").read_bytes())
    assert [shape(event) for event in events] == json.loads((GOLDEN / f"{name}.core.json").read_bytes())


@pytest.mark.parametrize("name", ["default", "tools"])
def test_documented_streams_leave_as_golden_bytes(name: str) -> None:
    """Passed on with usage and cost, without usage, and written anew."""
    events = read((GOLDEN / f"{name}.sse").read_bytes())
    bare: list[Event] = [msgspec.structs.replace(event, raw=b"") for event in events]
    assert written(events, ASKED, "0.000123") == (GOLDEN / f"{name}.asked.sse").read_bytes()
    assert written(events, UNASKED, "0.000123") == (GOLDEN / f"{name}.unasked.sse").read_bytes()
    assert written(bare, ASKED, "0.000123") == (GOLDEN / f"{name}.written.sse").read_bytes()


@pytest.mark.parametrize("name", ["default", "tools"])
def test_the_official_client_reads_what_is_written(name: str) -> None:
    """Validated by the openai package's own types, frame by frame."""
    frames = (GOLDEN / f"{name}.written.sse").read_bytes().split(b"\n\n")[:-2]
    chunks = [ChatCompletionChunk.model_validate_json(frame[6:], strict=True) for frame in frames]
    assert chunks[0].choices[0].delta.role == "assistant"


@pytest.mark.parametrize("name", ["default", "tools"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(places=st.lists(st.integers(0, 3_000), max_size=20), comments=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cut_of_a_stream_gives_the_same_events(name: str, end: bytes, places: list[int], comments: bool) -> None:
    """Any split, any line end, comments and fields between: the same events, and the same bytes to the client."""
    plain = (GOLDEN / f"{name}.sse").read_bytes()
    stream = plain.replace(b"data: ", b": keep-alive\nid: 7\ndata:") if comments else plain
    stream = stream.replace(b"\n", end)
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    events = read(*[stream[start:stop] for start, stop in itertools.pairwise(marks)])
    assert events == read(plain)
    assert written(events, ASKED) == plain


def test_a_passing_chunk_is_the_very_bytes() -> None:
    """Odd spacing, unknown fields and key order included."""
    odd = b'data: {"choices" : [ {"delta":{"content":"x","vendor":1},"index":0} ],"obfuscation":"a9","id":"c"}\n\n'
    (event,) = StreamDecoder().feed(odd)
    assert DIALECT.open_stream(UNASKED, "req_1").event(event, None) == odd


def test_a_frame_of_several_lines_passes_as_one_frame() -> None:
    """Multi-line data is joined for reading and stays valid for the client."""
    event = StreamDecoder().feed(b'event: message\ndata: {"choices":[{"index":0,\ndata: "delta":{"content":"x"}}]}\n\n')[0]
    assert isinstance(event, Chunk)
    assert event.choices[0].text == "x"
    assert event.raw == b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"x"}}]}\n\n'


# How a stream ends


def test_done_finishes_and_what_follows_is_dropped() -> None:
    """[DONE] twice and data after it change nothing."""
    decoder = StreamDecoder()
    assert len(decoder.feed(said() + STOP + DONE + DONE + said("late"))) == 2
    assert decoder.finished
    assert decoder.feed(said("later")) == []
    decoder.close()


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]", b": bye\ndata: [DONE]"])
def test_a_missing_or_unfinished_done_is_forgiven_once_all_choices_ended(tail: bytes) -> None:
    """Some servers forget the line or its blank line."""
    assert len(read(said(), STOP, tail)) == 2


@pytest.mark.parametrize("tail", [b"", b"data: ", b"data: {", b"data: [DON"])
def test_a_stream_that_stops_in_the_middle_is_broken(tail: bytes) -> None:
    """End of bytes before the finish reason: it must not look finished."""
    events, failure = fail(said(), tail)
    assert len(events) == 1
    assert failure.code == "upstream_broken"


@pytest.mark.parametrize("before", [(said(),), (said(), said(index=1, finish="stop")), (said(finish=""), USAGE)])
@pytest.mark.parametrize("choices", [1, 2])
def test_done_is_no_end_of_a_choice_that_never_ended(before: tuple[bytes, ...], choices: int) -> None:
    """Servers and gateways write [DONE] behind an answer that broke off, too: the caller is not told that it is whole."""
    events, failure = fail(*before, DONE, choices=choices)
    assert len(events) == len(before)
    assert failure.code == "upstream_broken"
    assert fail(*before, b"data: [DONE]", choices=choices)[1].code == "upstream_broken"


def test_done_ends_choices_in_any_order_and_fewer_than_asked_for() -> None:
    """Reasons at the very end, in one frame or several, before or after the usage; and a server that knows of no second choice."""
    both = frame(choices=[{"index": 1, "delta": {}, "finish_reason": "length"}, {"index": 0, "delta": {}, "finish_reason": "stop"}])
    assert len(read(said(), said(index=1), both, USAGE, DONE, choices=2)) == 4
    assert len(read(said(), said(index=1), USAGE, both, DONE, choices=2)) == 4
    assert len(read(frame(choices=[]), said(), STOP, DONE, choices=2)) == 3


def test_an_empty_reason_is_none() -> None:
    """Some servers write it into every piece."""
    events = read(said(finish=""), said(finish=""), STOP)
    assert [event.choices[0].finish for event in events if isinstance(event, Chunk)] == [None, None, "stop"]


def test_every_choice_has_to_end() -> None:
    """With two choices asked for, one finish reason is not enough, nor is one that never began."""
    assert fail(said(), said(index=1), STOP, choices=2)[1].code == "upstream_broken"
    assert fail(said(), STOP, choices=2)[1].code == "upstream_broken"
    assert len(read(said(), STOP, said(index=1, finish="length"), choices=2)) == 3


@pytest.mark.parametrize("stream", [b"", DONE, USAGE + DONE, b": only comments\n\n" + DONE])
def test_a_stream_without_a_choice_is_no_answer(stream: bytes) -> None:
    """An empty 200 is a failure, even when it says [DONE]."""
    assert fail(stream)[1].code in {"upstream_broken", "upstream_invalid"}


def test_events_before_a_failure_are_delivered_first() -> None:
    """The failure waits for the next feed or close, and nobody waits for more bytes."""
    decoder = StreamDecoder()
    assert len(decoder.feed(said() + b"data: {oops}\n\n")) == 1
    assert decoder.finished
    with pytest.raises(UpstreamFailed):
        decoder.feed(b"")
    with pytest.raises(UpstreamFailed):
        decoder.close()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b'data: {"error":{"message":"secret-host exploded","type":"server_error","code":null}}\n\n', "upstream_rejected"),
        (b'data: {"error":{"message":"slow down","code":429}}\n\n', "upstream_overloaded"),
        (b'data: {"error":{"message":"x","code":"401"},"choices":[]}\n\n', "upstream_auth"),
        (b'event: error\ndata: {"message":"secret-host"}\n\n', "upstream_rejected"),
        (b"event: error\ndata: secret-host\n\n", "upstream_rejected"),
        (b"data: secret-host\n\n", "upstream_invalid"),
        (b"data: [1]\n\n", "upstream_invalid"),
        (b'data: {"choices":"secret-host"}\n\n', "upstream_invalid"),
        (b'data: {"choices":[{"delta":{"content":\xff}}]}\n\n', "upstream_invalid"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "upstream_invalid"),
        (b"data: " + b"x" * 5_000_000, "upstream_invalid"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_chunk_fails_without_quoting_it(bad: bytes, code: str) -> None:
    """Errors inside a 200 stream, garbage, and a frame that never ends."""
    events, failure = fail(said(), bad)
    assert len(events) == 1
    assert failure.code == code
    assert "secret" not in failure.message + failure.detail


def test_empty_data_is_nothing() -> None:
    """Some servers keep a connection alive with it."""
    assert len(read(b"data:\n\n", b"data: \n\n", said(finish="stop"))) == 1


def test_unknown_reasons_to_end_count_as_stop() -> None:
    """They pass to the client as they came."""
    (event,) = read(said(finish="eos"))
    assert isinstance(event, Chunk)
    assert event.choices[0].finish == "stop"
    assert b'"eos"' in event.raw


def test_tool_calls_without_an_index_take_their_place() -> None:
    """As servers do that send each call whole."""
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": None}},
        {"id": "c"},
    ]
    (event,) = read(frame(choices=[{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]))
    assert isinstance(event, Chunk)
    assert event.choices[0].tools == (ToolDelta(0, "a", "f", "{}"), ToolDelta(1, "b", "g"), ToolDelta(2, "c"))


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "a", "reasoning": "a"}, "a"),
        ({"reasoning_content": "a", "reasoning": "b"}, "ab"),
        ({"reasoning_content": None, "reasoning": ""}, ""),
    ],
)
def test_reasoning_is_read_under_both_its_names(fields: dict[str, Any], reasoning: str) -> None:
    """A guard sees all that passes, once."""
    (event,) = read(frame(choices=[{"index": 0, "delta": fields, "finish_reason": "stop"}]))
    assert isinstance(event, Chunk)
    assert event.choices[0].reasoning == reasoning


def test_only_the_first_piece_of_a_choice_begins_it() -> None:
    """Whether or not the server repeats the role."""
    role = frame(choices=[{"index": 0, "delta": {"role": "assistant", "content": "a"}}, {"index": 1, "delta": {"role": "assistant"}}])
    events = read(role, role, STOP, frame(choices=[{"index": 1, "finish_reason": "stop"}]))
    begins = [[delta.begins for delta in event.choices if isinstance(delta, ChoiceDelta)] for event in events]
    assert begins == [
        [True, True],
        [False, False],
        [False],
        [False],
    ]


# Usage


def test_usage_nobody_asked_for_is_removed() -> None:
    """The usage chunk is dropped; usage beside a choice is taken out and the rest stays."""
    both = frame(
        choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}],
        usage={"prompt_tokens": 3, "completion_tokens": 4},
        vendor=1,
    )
    events = read(both, USAGE)
    assert [event.usage for event in events] == [Usage(input=3, output=4)] * 2
    sent = DIALECT.open_stream(UNASKED, "req_1").event(events[0], "1")
    assert "usage" not in json.loads(sent[6:])
    assert json.loads(sent[6:])["vendor"] == 1
    assert DIALECT.open_stream(UNASKED, "req_1").event(events[1], "1") == b""


def test_usage_that_was_asked_for_carries_the_cost() -> None:
    """As a member of our own, beside what the target said; without a cost the bytes stay as they came."""
    event = read(said(finish="stop"), USAGE)[1]
    assert DIALECT.open_stream(ASKED, "req_1").event(event, None) == USAGE
    sent = json.loads(DIALECT.open_stream(ASKED, "req_1").event(event, "0.0000025")[6:])
    assert sent["gatehouse"] == {"cost_usd": "0.0000025"}
    assert sent["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": 10**12, "completion_tokens": 2}, "many", [], {}]
)
def test_absurd_usage_reaches_neither_ledger_nor_client(usage: Any) -> None:
    """A chunk that is nothing but that vanishes; beside a choice it is cut out."""
    assert len(read(said(finish="stop"), frame(choices=[], usage=usage))) == 1
    (event,) = read(frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=usage))
    assert event.usage is None
    assert b"usage" not in DIALECT.open_stream(ASKED, "req_1").event(event, None)


def test_a_chunk_that_cannot_be_written_again_is_written_anew() -> None:
    """A number beyond any double hides in an unknown field: our own words then, never a fault."""
    hostile = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}],"usage":%s,"vendor":1e999}\n\n'
    for usage, call in [(b'{"prompt_tokens":1}', UNASKED), (b'{"prompt_tokens":1}', ASKED), (b'{"prompt_tokens":-1}', ASKED)]:
        (event,) = read(hostile % usage)
        sent = json.loads(DIALECT.open_stream(call, "req_1").event(event, "1")[6:])
        assert sent["choices"][0]["delta"]["content"] == "x"
        assert "vendor" not in sent


# Writing events of other dialects and whole answers

deltas = st.builds(
    ChoiceDelta,
    st.integers(0, 1),
    text,
    text,
    text,
    st.lists(st.builds(ToolDelta, st.integers(0, 2), st.none() | identifiers, st.none() | some_text, text), max_size=2).map(tuple),
    st.none() | st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    st.none() | st.dictionaries(some_text, json_values, min_size=1, max_size=2),
)
usages = st.builds(Usage, *[st.integers(0, 10**6)] * 7).filter(lambda usage: usage.total > 0)


@given(st.lists(st.lists(deltas, min_size=1, max_size=2, unique_by=lambda d: d.index), min_size=1, max_size=4), st.none() | usages)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_events_survive_being_written_and_read(pieces: list[list[ChoiceDelta]], usage: Usage | None) -> None:
    """encode then decode gives the same deltas, with `begins` on the first of each choice."""
    begun: set[int] = set()
    events: list[Event] = []
    for piece in pieces:
        marked = []
        for delta in piece:
            marked.append(msgspec.structs.replace(delta, begins=delta.index not in begun))
            begun.add(delta.index)
        events.append(Chunk(tuple(marked), "c", "m", 1, fingerprint="f"))
    if usage is not None:
        events.append(Chunk((), "c", "m", 1, usage))
    again = StreamDecoder(0).feed(written(events, ASKED))
    assert [msgspec.structs.replace(event, raw=b"", dialect="") for event in again] == events


answers = st.builds(
    Answer,
    st.lists(
        st.builds(
            Choice,
            st.just(0),
            st.none() | some_text,
            st.none() | some_text,
            st.none() | some_text,
            st.lists(st.builds(ToolCall, identifiers, identifiers, text), max_size=2).map(tuple),
            st.sampled_from(["stop", "length", "tool_calls"]),
        ),
        min_size=1,
        max_size=3,
    ).map(lambda choices: tuple(msgspec.structs.replace(choice, index=at) for at, choice in enumerate(choices))),
    st.just("c"),
    st.just("m"),
    st.just(1),
    usages,
)


@given(answers)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(Answer((Choice(),), "c", "m", 1, Usage(1)))
def test_a_whole_answer_replays_as_a_stream(answer: Answer) -> None:
    """A cached or unstreamed answer, sent to a streaming client and collected there, is the same answer."""
    decoder = StreamDecoder(len(answer.choices))
    collector = Collector()
    for event in decoder.feed(DIALECT.open_stream(ASKED, "req_1").event(answer, "0.1") + DIALECT.open_stream(ASKED, "req_1").end()):
        collector.add(event)
    decoder.close()
    choices = tuple(
        msgspec.structs.replace(choice, text="") if choice.text is None and not (choice.tools or choice.refusal) else choice
        for choice in answer.choices
    )
    assert collector.answer() == msgspec.structs.replace(answer, choices=choices)


def test_usage_is_replayed_only_when_asked_for() -> None:
    """Like that of a live stream, with the cost."""
    answer = Answer((Choice(0, "hi"),), "c", "m", 1, Usage(input=1, output=2))
    assert b"usage" not in DIALECT.open_stream(UNASKED, "req_1").event(answer, "0.1")
    last = json.loads(DIALECT.open_stream(ASKED, "req_1").event(answer, "0.1").split(b"data: ")[-1])
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 3
    assert last["gatehouse"] == {"cost_usd": "0.1"}


def test_an_event_of_another_dialect_is_never_passed_as_bytes() -> None:
    """Its bytes are in other words."""
    event = Chunk((ChoiceDelta(text="x", begins=True),), raw=b"event: content_block_delta\n\n", dialect="anthropic")
    sent = json.loads(DIALECT.open_stream(UNASKED, "req_1").event(event, None)[6:])
    assert sent["model"] == "assistant"
    assert sent["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": None}]


def test_usage_that_comes_with_the_finish_leaves_in_a_frame_of_its_own() -> None:
    """As the API itself sends it; a count that is not the last word is told to nobody."""
    finish = Chunk((ChoiceDelta(finish="stop"),), "c", "m", 1, Usage(1, output=2), dialect="anthropic")
    first, second = [json.loads(part[6:]) for part in DIALECT.open_stream(ASKED, "req_1").event(finish, "0.1").split(b"\n\n")[:-1]]
    assert (first["choices"][0]["finish_reason"], "usage" in first) == ("stop", False)
    assert (second["choices"], second["usage"]["total_tokens"], second["gatehouse"]) == ([], 3, {"cost_usd": "0.1"})
    interim = msgspec.structs.replace(finish, choices=(), interim=True)
    assert DIALECT.open_stream(ASKED, "req_1").event(interim, "0.1") == b""
