"""Streams of a target: byte-exact passage, every cut, every way to end.

The golden streams are those of https://platform.claude.com/docs/en/build-with-claude/streaming, in the wording of November 2025.
"""

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Chunk, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects.anthropic import StreamDecoder, decode_answer
from gatehouse.dialects.anthropic.answers import blocks

GOLDEN = Path(__file__).parent / "golden" / "streams"
NAMES = ["default", "tools", "thinking", "search"]


def frame(kind: str, **fields: Any) -> bytes:
    """One frame as the API writes it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage or {"input_tokens": 3}}
    return frame("message_start", message=message)


def block(index: int = 0, **fields: Any) -> bytes:
    return frame("content_block_start", index=index, content_block=fields or {"type": "text", "text": ""})


def delta(index: int = 0, **fields: Any) -> bytes:
    return frame("content_block_delta", index=index, delta=fields)


def said(text: str = "hi", index: int = 0) -> bytes:
    return delta(index, type="text_delta", text=text)


def stop(index: int = 0) -> bytes:
    return frame("content_block_stop", index=index)


def ended(reason: str = "end_turn", **usage: Any) -> bytes:
    return frame("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage or {"output_tokens": 2})


STOP = frame("message_stop")
UNSAID = start() + block() + said() + stop() + ended("") + STOP
TOOL: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


def read(*pieces: bytes) -> list[Chunk]:
    """Feed all, close, and return the events."""
    decoder = StreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.close()
    return [event for event in events if isinstance(event, Chunk)]


def fail(*pieces: bytes) -> tuple[list[Event], UpstreamFailed]:
    """Like a transport: read until finished or the end, then close. Returns what came and the failure."""
    decoder = StreamDecoder()
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


@pytest.mark.parametrize("name", NAMES)
def test_documented_streams_decode_to_golden_events(name: str) -> None:
    """A stream of the API's documentation, as core events."""
    events = read((GOLDEN / f"{name}.sse").read_bytes())
    assert [shape(event) for event in events] == json.loads((GOLDEN / f"{name}.core.json").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_but_the_last_is_in_one_chunk(name: str) -> None:
    """One chunk a frame, bytes and all: the raw bytes of a stream, end to end, are the stream without `message_stop`."""
    stream = (GOLDEN / f"{name}.sse").read_bytes()
    assert b"".join(event.raw for event in read(stream)) + STOP == stream.replace(b'{"type":"message_stop"}', b'{"type": "message_stop"}')


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(places=st.lists(st.integers(0, 5_000), max_size=20), comments=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cut_of_a_stream_gives_the_same_events(name: str, end: bytes, places: list[int], comments: bool) -> None:
    """Any split, any line end, comments and fields between: the same events."""
    plain = (GOLDEN / f"{name}.sse").read_bytes()
    stream = plain.replace(b"data: ", b": keep-alive\nid: 7\ndata:") if comments else plain
    stream = stream.replace(b"\n", end)
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    assert read(*[stream[begin:stop] for begin, stop in itertools.pairwise(marks)]) == read(plain)


def test_the_pieces_of_a_stream_are_the_whole_answer() -> None:
    """Text, reasoning, signature and the arguments of tools, put together, are what the whole answer says."""
    collector = Collector()
    for event in read((GOLDEN / "tools.sse").read_bytes()):
        collector.add(event)
    answer = collector.answer()
    assert blocks(answer.choices[0]) == [
        {"type": "text", "text": "Okay, let's check the weather for San Francisco, CA:"},
        {
            "type": "tool_use",
            "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6",
            "name": "get_weather",
            "input": msgspec.Raw(b'{"location": "San Francisco, CA", "unit": "fahrenheit"}'),
        },
    ]
    assert answer.choices[0].finish == "tool_calls"
    assert answer.usage == Usage(input=472, output=89)


def test_usage_is_told_at_the_beginning_and_completed_at_the_end() -> None:
    """Cumulative counts: the end's win, what it leaves out or nulls stands; the first word is marked as interim."""
    events = read(
        start(input_tokens=10, cache_read_input_tokens=20, cache_creation_input_tokens=30, output_tokens=1),
        block(), said(), stop(),
        ended(output_tokens=9, input_tokens=None, output_tokens_details={"thinking_tokens": 4}), STOP,
    )  # fmt: skip
    assert events[0].usage == Usage(input=10, cached_input=20, cache_write=30, output=1)
    assert events[0].interim
    assert events[-1].usage == Usage(input=10, cached_input=20, cache_write=30, output=5, reasoning=4)
    assert events[-1].usage.total == 10 + 20 + 30 + 9
    assert not events[-1].interim


@pytest.mark.parametrize("usage", [{"input_tokens": -1}, {"output_tokens": 10**12}, {"output_tokens": "many"}])
def test_absurd_usage_reaches_neither_ledger_nor_client(usage: dict[str, Any]) -> None:
    """Where it is told the frame's bytes do not pass either."""
    events = read(start(**usage), block(), said(), stop(), ended(**usage), STOP)
    assert [events[0].usage, events[0].raw] == [None, b""]
    assert [events[-1].usage, events[-1].raw] == [None, b""]
    assert events[-1].choices[0].finish == "stop"


def test_a_tool_without_input_has_an_empty_object() -> None:
    """Nothing, or only empty pieces, between its beginning and its end: everywhere else arguments are JSON."""
    for pieces in ([], [delta(type="input_json_delta", partial_json="")]):
        events = read(start(), block(**TOOL), *pieces, stop(), ended("tool_use"), STOP)
        assert "".join(tool.arguments for event in events for choice in event.choices for tool in choice.tools) == "{}"


def test_a_tool_whose_input_comes_with_its_beginning_keeps_it() -> None:
    """Some servers do not stream the input."""
    events = read(start(), block(**TOOL | {"input": {"a": 1}}), stop(), ended("tool_use"), STOP)
    assert [tool.arguments for event in events for choice in event.choices for tool in choice.tools] == ['{"a": 1}']


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
        ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), ("something_new", "stop"),
    ],
)  # fmt: skip
def test_every_stop_reason_has_a_finish(reason: str, finish: str) -> None:
    """Those to come count as stop."""
    assert read(start(), ended(reason), STOP)[-1].choices[0].finish == finish


# What is not known


def test_what_is_not_read_is_marked() -> None:
    """A tool that ran at the target, its findings and new kinds of delta pass as bytes and are opaque; the rest is not."""
    events = read((GOLDEN / "search.sse").read_bytes())
    kinds = [event.raw.split(b"\n")[0] + (b" opaque" if event.opaque else b"") for event in events]
    opaque = [kind for kind in kinds if kind.endswith(b"opaque")]
    assert opaque.count(b"event: content_block_start opaque") == 2
    assert opaque.count(b"event: content_block_delta opaque") == 7
    assert not any(choice.tools for event in events for choice in event.choices)
    cited = read(start(), block(), delta(type="citations_delta", citation={}), said(), stop(), ended(), STOP)
    assert [event.opaque for event in cited] == [False, False, True, False, False, False]


def test_an_event_of_a_kind_to_come_passes_and_is_marked() -> None:
    """The API reserves the right to add some."""
    events = read(start(), frame("budget_notice", left=3), block(), said(), stop(), ended(), STOP)
    assert events[1].raw == frame("budget_notice", left=3)
    assert events[1].opaque


def test_a_frame_without_its_name_gets_it() -> None:
    """The name repeats the type; a frame that lacks it or says another leaves with the right one, because clients go by it."""
    nameless = b"".join(part.partition(b"\n")[2] + b"\n\n" for part in (start() + block()).split(b"\n\n") if part)
    events = read(nameless, said().replace(b"event: content_block_delta", b"event: ping"), stop(), ended(), STOP)
    assert [event.raw for event in events[:3]] == [start(), block(), said()]
    assert events[2].choices[0].text == "hi"


# How a stream ends


def test_message_stop_finishes_and_what_follows_is_dropped() -> None:
    """Whatever it is."""
    decoder = StreamDecoder()
    assert len(decoder.feed(start() + block() + said() + stop() + ended() + STOP + said("late"))) == 5
    assert decoder.finished
    assert decoder.feed(said("later")) == []
    decoder.close()


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_stream_that_stops_in_the_middle_is_broken(cut: int) -> None:
    """Without `message_stop` it must not look finished, even when it said why it ended."""
    frames = [start(), block(), said(), stop(), ended(), STOP][:cut]
    assert fail(*frames)[1].code == "upstream_broken"
    assert fail(*frames, b"event: message_st")[1].code == "upstream_broken"


def test_a_missing_blank_line_after_the_last_frame_is_forgiven() -> None:
    """The connection's end is one."""
    assert len(read(start(), ended(), STOP.rstrip(b"\n"))) == 2


@pytest.mark.parametrize(
    "stream",
    [b"", b": only comments\n\n", STOP, start() + STOP, said(), start() + start(), start() + delta(type="input_json_delta"), UNSAID],
)
def test_a_stream_out_of_order_is_no_answer(stream: bytes) -> None:
    """No message, a second one, a piece before it, an end without a reason, input of no tool."""
    assert fail(stream)[1].code in {"upstream_broken", "upstream_invalid"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", "upstream_overloaded"), ("rate_limit_error", "upstream_overloaded"), ("api_error", "upstream_rejected"),
        ("authentication_error", "upstream_auth"), ("timeout_error", "upstream_timeout"), ("invalid_request_error", "upstream_rejected"),
        (None, "upstream_rejected"),
    ],
)  # fmt: skip
def test_an_error_in_the_middle_is_raised_after_what_came_before_it(kind: str | None, code: str) -> None:
    """It has no status, so its type tells what it means; its words stay with us."""
    events, failure = fail(start() + block() + said() + frame("error", error={"type": kind, "message": "host-17 melted"}))
    assert len(events) == 3
    assert failure.code == code
    assert ("host-17" in failure.message) == (kind == "invalid_request_error")


@pytest.mark.parametrize(
    "bad", [b"data: {oops}\n\n", b"event: content_block_delta\ndata: [1]\n\n", b'data: {"type":1}\n\n', b"data: x\xff\n\n"]
)
def test_what_is_no_event_ends_the_stream(bad: bytes) -> None:
    """Events before it are delivered first."""
    events, failure = fail(start() + bad)
    assert len(events) == 1
    assert failure.code == "upstream_invalid"


def test_a_ping_before_the_message_is_dropped() -> None:
    """Until the message begins another target can still be tried."""
    assert len(read(frame("ping"), start(), ended(), STOP)) == 2


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_nothing_but_a_typed_failure_comes_out(data: bytes) -> None:
    """Whatever a target sends."""
    decoder = StreamDecoder()
    with contextlib.suppress(UpstreamFailed):
        decoder.feed(start() + data)
        decoder.close()


def test_a_whole_answer_and_its_stream_say_the_same() -> None:
    """The documentation's stream, collected, is its whole answer."""
    collector = Collector()
    for event in read((GOLDEN / "thinking.sse").read_bytes()):
        collector.add(event)
    choice = collector.answer().choices[0]
    body = {"id": "msg_01...", "type": "message", "role": "assistant", "content": blocks(choice), "stop_reason": "end_turn"}
    assert decode_answer(json.dumps(body).encode()).choices == (choice,)
    assert choice.signature == "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds..."
