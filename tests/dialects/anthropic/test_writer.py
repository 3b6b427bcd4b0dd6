"""Streams to callers: what passes as it came, what is written, and that what leaves is always whole.

Everything that leaves is read by a reader of its own, as strict as the API's description: one message, its blocks one after the
other with indices that count, pieces only inside their block, one reason, one end.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gatehouse.core.calls import Call, ToolCall
from gatehouse.core.collect import Collector
from gatehouse.core.errors import (
    Blocked,
    Forbidden,
    GatehouseError,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects.anthropic import AnthropicDialect, StreamDecoder, decode_answer
from gatehouse.dialects.anthropic.answers import blocks
from gatehouse.dialects.openai import StreamDecoder as OpenAIStreamDecoder
from tests.dialects.anthropic.strategies import choices

GOLDEN = Path(__file__).parent / "golden"
OPENAI = Path(__file__).parents[1] / "openai" / "golden" / "streams"
DIALECT = AnthropicDialect()
CALL = Call(model="assistant", stream=True, include_usage=True)
_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def written(events: list[Event], cost: str | None = None) -> bytes:
    """A whole stream, as the data plane writes it."""
    writer = DIALECT.open_stream(CALL, "req_1")
    return b"".join([writer.event(event, cost if event.usage else None) for event in events]) + writer.end()


def frames(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream; fails unless each is named as its type says."""
    found = []
    for block in stream.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name == f"event: {found[-1]['type']}".encode()
    return found


def grammar(stream: bytes) -> None:
    """Fails unless the stream is what the API's description says a stream is."""
    events = [event for event in frames(stream) if event["type"] != "ping"]
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    following, opened = 0, None
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert (event["index"], opened) == (following, None)
            opened, following = event["index"], following + 1
        else:
            assert event["index"] == opened
            if event["type"] == "content_block_stop":
                opened = None
            else:
                assert event["type"] == "content_block_delta"
    assert opened is None


def read_by_the_client(stream: bytes) -> AnthropicMessage:
    """The message that the official package puts together."""
    snapshot = None
    unread: Any = {}
    for event in frames(stream):
        if event["type"] != "ping":
            snapshot = accumulate_event(event=_EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=unread)
    assert snapshot is not None
    return snapshot


def decoded(stream: bytes) -> list[Event]:
    decoder = StreamDecoder()
    events = decoder.feed(stream)
    decoder.close()
    return events


def collected(stream: bytes) -> Answer:
    collector = Collector()
    for event in decoded(stream):
        collector.add(event)
    return collector.answer()


# What came in these words


@pytest.mark.parametrize("name", ["default", "tools", "thinking", "search"])
def test_a_stream_that_nobody_touched_leaves_as_it_came(name: str) -> None:
    """Every byte, pings and what we do not know included."""
    stream = (GOLDEN / "streams" / f"{name}.sse").read_bytes()
    assert written(decoded(stream)).replace(b'{"type":"message_stop"}', b'{"type": "message_stop"}') == stream.replace(
        b'{"type":"message_stop"}', b'{"type": "message_stop"}'
    )


def test_the_cost_joins_the_last_count() -> None:
    """Beside it, in the frame that came; the count at the beginning is not the last word."""
    stream = written(decoded((GOLDEN / "streams" / "default.sse").read_bytes()), "0.000123")
    ends = [event for event in frames(stream) if "gatehouse" in event]
    assert [(end["type"], end["gatehouse"], end["usage"]) for end in ends] == [
        ("message_delta", {"cost_usd": "0.000123"}, {"output_tokens": 15})
    ]
    assert read_by_the_client(stream).usage.output_tokens == 15


def test_a_cost_that_the_target_tells_is_not_told_twice() -> None:
    """Another gateway behind this one."""
    stream = (GOLDEN / "streams" / "default.sse").read_bytes().replace(b'"usage": {"output_tokens": 15}', b'"usage": {}, "gatehouse": 1')
    assert stream.count(b"gatehouse") == written(decoded(stream), "0.1").count(b"gatehouse") == 1


@pytest.mark.parametrize("name", ["default", "tools", "thinking", "search"])
@given(gone=st.sets(st.integers(0, 60)))
@settings(max_examples=60, deadline=None)
def test_whatever_a_stage_changes_the_stream_stays_whole(name: str, gone: set[int]) -> None:
    """A stage makes some events anew without their bytes, opaque ones first: the answer that arrives says the same."""
    events = decoded((GOLDEN / "streams" / f"{name}.sse").read_bytes())
    touched = [msgspec.structs.replace(event, raw=b"") if event.opaque or at in gone else event for at, event in enumerate(events)]
    stream = written(touched)
    grammar(stream)
    whole = Collector()
    for event in events:
        whole.add(event)
    if name != "thinking" or not gone:  # a stream of blocks whose boundaries are gone may join two of reasoning
        assert collected(stream).choices == whole.answer().choices
    assert collected(stream).choices[0].text == whole.answer().choices[0].text


# What is written


@pytest.mark.parametrize("name", ["default", "tools"])
def test_a_stream_of_another_dialect_leaves_as_golden_bytes(name: str) -> None:
    """The OpenAI API's documented streams."""
    stream = written(OpenAIStreamDecoder().feed((OPENAI / f"{name}.sse").read_bytes()), "0.000123")
    grammar(stream)
    assert stream == (GOLDEN / "streams" / f"openai_{name}.written.sse").read_bytes()


@given(choices(), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_pieces_put_together_are_the_whole(choice: Choice, data: st.DataObject) -> None:
    """However a target of another dialect cuts an answer: text, reasoning and arguments arrive whole, in a whole stream."""
    pieces: list[ChoiceDelta] = []
    for field in ("reasoning", "text"):
        text = getattr(choice, field) or ""
        cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3))), len(text)]
        parts = [text[start:stop] for start, stop in itertools.pairwise(cuts)]
        pieces += [ChoiceDelta(text=part) if field == "text" else ChoiceDelta(reasoning=part) for part in parts]
        if field == "reasoning":
            pieces.append(ChoiceDelta(signature=choice.signature or ""))
            pieces += [ChoiceDelta(redacted=secret) for secret in choice.redacted]
    for index, tool in enumerate(choice.tools):
        cut = data.draw(st.integers(0, len(tool.arguments)))
        pieces.append(ChoiceDelta(tools=(ToolDelta(index, tool.id, tool.name, tool.arguments[:cut]),)))
        pieces.append(ChoiceDelta(tools=(ToolDelta(index, arguments=tool.arguments[cut:]),)))
    pieces.append(ChoiceDelta(finish=choice.finish, stop_sequence=choice.stop_sequence))
    events: list[Event] = [Chunk((piece,), "c", "m", 1) for piece in pieces]
    events.append(Chunk((), "c", "m", 1, Usage(3, output=4)))
    stream = written(events)
    grammar(stream)
    answer = collected(stream)
    text = choice.text if choice.text or choice.tools else ""
    assert answer.choices == (msgspec.structs.replace(choice, text=text),)
    assert answer.usage == Usage(3, output=4)


@given(choices())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_whole_answer_replays_as_a_stream(choice: Choice) -> None:
    """A cached or unstreamed answer, sent to a streaming client and put together by the official package, is the same answer."""
    answer = Answer((choice,), "c", "m", 1, Usage(1, 2, 3, 4))
    stream = written([answer], "0.1")
    grammar(stream)
    whole = json.loads(DIALECT.encode_answer(answer, CALL))
    assert read_by_the_client(stream).model_dump(exclude_none=True, exclude={"gatehouse"}) == AnthropicMessage.model_validate(
        whole
    ).model_dump(exclude_none=True)


def test_pieces_of_two_tools_in_turns_go_to_their_own_block() -> None:
    """No known target does it; clients put pieces together by index."""
    turns = [(0, '{"a"'), (1, '{"b"'), (0, ":1}"), (1, ":2}")]
    events: list[Event] = [Chunk((ChoiceDelta(tools=(ToolDelta(at, f"t{at}", "f", text),)),), "c") for at, text in turns]
    message = read_by_the_client(written(events))
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"a": 1}, {"b": 2}]


def test_a_stream_without_usage_or_content_is_whole() -> None:
    """Zeros where nobody counted, and an id of ours where the target has none."""
    for events in ([], [Chunk((ChoiceDelta(begins=True),))]):
        message = read_by_the_client(written(list(events)))
        assert (message.id, message.model, message.content, message.stop_reason) == ("msg_1", "assistant", [], "end_turn")


@pytest.mark.parametrize(
    ("finish", "sequence", "tools", "reason"),
    [
        ("stop", None, False, "end_turn"), ("stop", "END", False, "stop_sequence"), ("stop", None, True, "tool_use"),
        ("tool_calls", None, True, "tool_use"), ("length", None, True, "max_tokens"), ("content_filter", None, False, "refusal"),
    ],
)  # fmt: skip
def test_every_finish_has_a_reason(finish: Any, sequence: str | None, tools: bool, reason: str) -> None:
    """Whole and streamed. OpenAI says stop when one tool was forced: here a call of a tool is the reason."""
    called = (ToolCall("t", "f", "{}"),) if tools else ()
    answer = Answer((Choice(text="x", tools=called, finish=finish, stop_sequence=sequence),), "c", "m")
    assert json.loads(DIALECT.encode_answer(answer, CALL))["stop_reason"] == reason
    assert read_by_the_client(written([answer])).stop_reason == reason


def test_a_refusal_is_text() -> None:
    """The API has no other place for it."""
    assert blocks(Choice(refusal="no")) == [{"type": "text", "text": "no"}]
    message = read_by_the_client(written([Chunk((ChoiceDelta(refusal="no"),))]))
    assert [block.text for block in message.content if block.type == "text"] == ["no"]


# Whole answers


@pytest.mark.parametrize("name", ["default", "tools", "thinking"])
def test_a_whole_answer_passes_as_its_own_bytes(name: str) -> None:
    """And, made anew, is what the official package reads as the same message."""
    body = (GOLDEN / "answers" / f"{name}.json").read_bytes()
    answer = decode_answer(body)
    assert DIALECT.encode_answer(answer, CALL) == body
    anew = DIALECT.encode_answer(msgspec.structs.replace(answer, raw=b""), CALL)
    known = {"id", "content", "role", "type", "model", "stop_reason", "stop_sequence"}
    assert AnthropicMessage.model_validate_json(anew).model_dump(include=known) == AnthropicMessage.model_validate_json(body).model_dump(
        include=known
    )
    assert msgspec.structs.replace(decode_answer(anew), raw=b"") == msgspec.structs.replace(answer, raw=b"") or name == "tools"


# Errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("x"), 400, "invalid_request_error"),
        (TooLarge("x"), 413, "request_too_large"),
        (Unauthenticated("x"), 401, "authentication_error"),
        (Forbidden("x"), 403, "permission_error"),
        (NotFound("x"), 404, "not_found_error"),
        (Blocked("x"), 400, "invalid_request_error"),
        (LimitExceeded("x", code="insufficient_quota"), 429, "rate_limit_error"),
        (Timeout("x"), 408, "timeout_error"),
        (Unavailable("x", retry_after=1.0), 529, "overloaded_error"),
        (Unavailable("x"), 503, "api_error"),
        (Internal("x"), 500, "api_error"),
        (UpstreamFailed("x", code="upstream_broken"), 502, "api_error"),
        (UpstreamFailed("x", code="upstream_auth"), 502, "api_error"),
        (UpstreamFailed("x", code="upstream_unreachable"), 503, "api_error"),
        (UpstreamFailed("x", code="upstream_timeout"), 504, "timeout_error"),
        (UpstreamFailed("x", code="upstream_overloaded"), 529, "overloaded_error"),
        (UpstreamFailed("x", code="upstream_rejected", caller_fault=True), 400, "invalid_request_error"),
        (UpstreamFailed("x", code="upstream_rejected", caller_fault=True, too_large=True), 413, "request_too_large"),
    ],
)
def test_errors_in_the_apis_shape(error: GatehouseError, status: int, kind: str) -> None:
    """Status and body; in a stream one frame with the same."""
    said, body = DIALECT.encode_error(error, "req_9")
    assert (said, json.loads(body)) == (status, {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "req_9"})
    assert frames(DIALECT.open_stream(CALL, "req_9").error(error)) == [json.loads(body)]
