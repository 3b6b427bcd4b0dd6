"""Answers of Converse: whole ones, streams under every cut, the one equal to the other, and every way to end badly."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import ToolCall
from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects.bedrock import StreamDecoder, decode_answer
from gatehouse.dialects.bedrock.frames import write_message
from gatehouse.dialects.bedrock.usage import read_usage
from tests.dialects.bedrock.written import GOLDEN, event, exception, golden_stream

NAMES = ["text", "tools", "reasoning"]
EXPECTED = {
    "text": Answer(
        (Choice(0, "Here's a list of 3 pop songs by artists from the United Kingdom."),),
        usage=Usage(input=125, output=60),
        dialect="bedrock",
    ),
    "tools": Answer(
        (
            Choice(
                0,
                "I will look both up.",
                tools=(ToolCall("tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "top_song", '{"sign":"WZPZ"}'), ToolCall("tooluse_2", "now", "{}")),
                finish="tool_calls",
            ),
        ),
        usage=Usage(input=375, output=70),
        dialect="bedrock",
    ),
    "reasoning": Answer(
        (
            Choice(
                0,
                "Four. As said.",
                "Two and two.",
                signature="EqoBCkgIARABGAIiQL8=",
                redacted=("cmVkYWN0ZWQ=",),
                stop_sequence="END",
            ),
        ),
        usage=Usage(input=9, cached_input=1500, cache_write=500, output=40),
        dialect="bedrock",
    ),
}
STOP = event("messageStop", {"stopReason": "end_turn"})
USAGE = event("metadata", {"usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}, "metrics": {"latencyMs": 1}})
ROLE = event("messageStart", {"role": "assistant"})


def said(text: str = "hi") -> bytes:
    return event("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0})


def read(*pieces: bytes) -> list[Event]:
    """Feed all, close, and return the events."""
    decoder = StreamDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.close()
    return events


def collected(events: list[Event]) -> Answer:
    collector = Collector()
    for each in events:
        collector.add(each)
    return msgspec.structs.replace(collector.answer(), dialect="bedrock")


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


def answer(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": [{"text": "hi"}]}
    return msgspec.json.encode({"output": {"message": message}, "stopReason": "end_turn", **fields})


@pytest.mark.parametrize("name", NAMES)
def test_documented_answers_are_read(name: str) -> None:
    """Text, tools, reasoning with its proof, cited text, the stop text that was met; no bytes of theirs are passed on."""
    assert decode_answer((GOLDEN / "answers" / f"{name}.json").read_bytes()) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
@given(places=st.lists(st.integers(0, 5_000), max_size=20))
@settings(max_examples=60, deadline=None)
def test_every_cut_of_a_stream_adds_up_to_the_whole_answer(name: str, places: list[int]) -> None:
    """Concatenated pieces are what the same answer says in one piece, arguments of tools included."""
    stream = golden_stream(name)
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    events = read(*[stream[start:stop] for start, stop in itertools.pairwise(marks)])
    assert events == read(stream)
    assert collected(events) == EXPECTED[name]


def test_only_the_first_piece_begins_and_the_role_alone_is_no_event() -> None:
    """A target that fails right after its role has not begun to answer."""
    decoder = StreamDecoder()
    assert decoder.feed(ROLE) == []
    begins = [delta.begins for each in decoder.feed(said() + said() + STOP) for delta in each.choices]  # type: ignore[union-attr]
    assert begins == [True, False, False]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_why_it_ended(reason: str, finish: str) -> None:
    """Each documented reason in core's words, whole and streamed."""
    assert decode_answer(answer(stopReason=reason)).choices[0].finish == finish
    assert collected(read(said(), event("messageStop", {"stopReason": reason}), USAGE)).choices[0].finish == finish


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_an_answer_the_service_calls_malformed_is_a_failure(reason: str) -> None:
    """It must not look finished."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(answer(stopReason=reason))
    assert caught.value.code == "upstream_invalid"
    assert fail(said(), event("messageStop", {"stopReason": reason}))[1].code == "upstream_invalid"


# Ends and failures


def test_the_metadata_ends_the_stream_and_what_follows_is_dropped() -> None:
    """Nobody waits for the connection's end, and a late break breaks nothing."""
    decoder = StreamDecoder()
    assert len(decoder.feed(said() + STOP + USAGE + said("late") + b"\x00" * 40)) == 3
    assert decoder.finished
    assert decoder.feed(said("later")) == []
    decoder.close()


def test_missing_metadata_is_forgiven_once_the_message_stopped() -> None:
    """Whoever accounts counts for itself."""
    assert len(read(said(), STOP)) == 2


@pytest.mark.parametrize("tail", [b"", STOP[:20], USAGE])
def test_a_stream_that_stops_in_the_middle_is_broken(tail: bytes) -> None:
    """End of bytes before the message stopped, whatever else came."""
    events, failure = fail(said(), tail)
    assert failure.code == "upstream_broken"
    assert events


@pytest.mark.parametrize("stream", [b"", ROLE])
def test_a_stream_without_content_is_no_answer(stream: bytes) -> None:
    """An empty 200 is a failure."""
    assert fail(stream)[1].code == "upstream_broken"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (exception("throttlingException", "secret-host is busy"), "upstream_overloaded"),
        (exception("serviceUnavailableException", "secret-host"), "upstream_overloaded"),
        (exception("internalServerException", "secret-host"), "upstream_rejected"),
        (exception("modelStreamErrorException", "secret-host"), "upstream_rejected"),
        (exception("newException", "secret-host"), "upstream_rejected"),
        (
            write_message({":message-type": "error", ":error-code": "InternalError", ":error-message": "secret-host"}, b""),
            "upstream_rejected",
        ),
        (event("contentBlockDelta", {"contentBlockIndex": "secret"}), "upstream_invalid"),
        (event("contentBlockDelta", {"delta": {"toolUse": {"input": "{"}}, "contentBlockIndex": 7}), "upstream_invalid"),
        (write_message({":event-type": "messageStop"}, b"secret"), "upstream_invalid"),
        (said()[:-1] + b"\x00", "upstream_invalid"),
        (b"HTTP/1.1 200 OK secret", "upstream_invalid"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_failures_inside_a_stream(bad: bytes, code: str) -> None:
    """Exceptions of the service, frames that are none, events that are none: told after what came before, without quoting."""
    events, failure = fail(said() + bad)
    assert len(events) == 1
    assert failure.code == code
    assert "secret" not in failure.message + failure.detail


def test_a_refusal_inside_a_stream_is_told_as_the_callers() -> None:
    """validationException carries a message the caller needs."""
    failure = fail(exception("validationException", "Input is too long for requested model."))[1]
    assert failure.caller_fault
    assert "Input is too long" in failure.message


@pytest.mark.parametrize(
    "body", [b"", b"<html>secret</html>", b"null", b"{}", b"[]", b'{"output":{},"stopReason":"x"}', b"[" * 100_000, answer(stopReason=None)]
)
def test_what_is_no_answer_fails_without_being_quoted(body: bytes) -> None:
    """Garbage, other shapes, and depth."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(body)
    assert caught.value.code == "upstream_invalid"
    assert "secret" not in caught.value.detail


def test_an_answer_of_nothing_but_a_tool_has_no_text() -> None:
    """As core says it: None, not an empty text."""
    use = {"toolUse": {"toolUseId": "a", "name": "f", "input": {"x": [1, 2]}}}
    (choice,) = decode_answer(answer(output={"message": {"content": [use]}}, stopReason="tool_use")).choices
    assert (choice.text, choice.tools) == (None, (ToolCall("a", "f", '{"x":[1,2]}'),))


# Usage


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}, Usage(input=3, output=4)),
        ({"inputTokens": 3, "outputTokens": 4}, Usage(input=3, output=4)),
        (
            {"inputTokens": 3, "outputTokens": 4, "totalTokens": 107, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 0},
            Usage(input=3, cached_input=100, output=4),
        ),
        (
            {"inputTokens": 3, "outputTokens": 4, "totalTokens": 207, "cacheReadInputTokens": 150, "cacheWriteInputTokens": 50},
            Usage(input=3, cached_input=150, cache_write=50, output=4),
        ),
        # a total of input and output alone: the cached tokens are inside the input where they fit, beside it where they do not
        (
            {"inputTokens": 120, "outputTokens": 4, "totalTokens": 124, "cacheReadInputTokens": 100},
            Usage(input=20, cached_input=100, output=4),
        ),
        ({"inputTokens": 3, "outputTokens": 4, "totalTokens": 7, "cacheReadInputTokens": 100}, Usage(input=3, cached_input=100, output=4)),
        # tokens only the total knows
        ({"inputTokens": 3, "outputTokens": 4, "totalTokens": 17}, Usage(input=3, output=4, reasoning=10)),
    ],
)
def test_usage_in_disjoint_buckets(counts: dict[str, int], usage: Usage) -> None:
    """Each token once, as AWS documents it, and as the total tells where it differs."""
    assert read_usage(msgspec.json.encode(counts)) == usage


@pytest.mark.parametrize(
    "counts",
    [
        {"inputTokens": -1},
        {"inputTokens": 10**12, "outputTokens": 1},
        {"inputTokens": 0, "outputTokens": 0},
        {"inputTokens": 3, "outputTokens": 4, "totalTokens": 5},
        {"inputTokens": "3"},
        {},
        [],
    ],
)
def test_absurd_usage_is_left_out(counts: Any) -> None:
    """Negative, enormous, nothing at all, a total below its parts: the answer stays, the count does not."""
    assert decode_answer(answer(usage=counts)).usage is None
    assert all(each.usage is None for each in read(said(), STOP, event("metadata", {"usage": counts})))


@given(st.tuples(*[st.integers(0, 10**6)] * 4).filter(any))
def test_documented_counts_sum_to_their_total(counts: tuple[int, int, int, int]) -> None:
    """Whatever the counts: what was written to the ledger is what AWS bills."""
    into, out, read_, wrote = counts
    usage = read_usage(
        msgspec.json.encode(
            {
                "inputTokens": into,
                "outputTokens": out,
                "totalTokens": sum(counts),
                "cacheReadInputTokens": read_,
                "cacheWriteInputTokens": wrote,
            }
        )
    )
    assert usage == Usage(input=into, cached_input=read_, cache_write=wrote, output=out)
