"""The response object and its stream: golden bytes, the official package's types, and that the pieces add up to the whole."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gatehouse.core.calls import Call, Message, ResponseFormat, Tool, ToolCall, ToolChoice, Turn
from gatehouse.core.collect import Collector
from gatehouse.core.errors import Blocked, InvalidRequest, LimitExceeded
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai.responses import ResponsesDialect

GOLDEN = Path(__file__).parent / "golden"
DIALECT = ResponsesDialect()
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TURN = Turn(id="resp_0123", created=1_700_000_000)
CALL = Call(model="assistant", messages=(Message("user", "hi"),), stream=True, include_usage=True, turn=TURN)
USAGE = Usage(input=7, cached_input=3, output=4, reasoning=2)
FULL = Call(
    model="assistant",
    messages=(Message("developer", "be brief"), Message("user", "hi")),
    tools=(Tool("lookup", "finds", {"type": "object"}, strict=True),),
    tool_choice=ToolChoice("required", "lookup"),
    parallel_tool_calls=False,
    response_format=ResponseFormat("json_schema", "answer", None, {"type": "object"}, strict=True),
    max_tokens=64,
    temperature=0.5,
    reasoning_effort="low",
    user="u-1",
    metadata={"team": "search"},
    stream=True,
    turn=Turn(
        id="resp_0123", created=1_700_000_000, previous="resp_0122", store=True, instructions=True, begins=1, sealed=True, safety=True
    ),
)
PIECES: list[Event] = [
    Chunk((ChoiceDelta(reasoning="Let me ", begins=True),), "c-1", "qwen", 9),
    Chunk((ChoiceDelta(reasoning="see.", signature="sig"),)),
    Chunk((ChoiceDelta(text='Looking "it'),)),
    Chunk((ChoiceDelta(text=' up"\n'),)),
    Chunk((ChoiceDelta(tools=(ToolDelta(0, "call_a", "lookup", '{"q":'),)),)),
    Chunk((ChoiceDelta(tools=(ToolDelta(1, "call_b", "lookup"),)),)),
    Chunk((ChoiceDelta(tools=(ToolDelta(0, arguments='"x"}'), ToolDelta(1, arguments="{}"))),)),
    Chunk((ChoiceDelta(finish="tool_calls"),)),
    Chunk(usage=USAGE),
]


def stream(events: list[Event], call: Call = CALL, cost: str | None = None) -> bytes:
    writer = DIALECT.open_stream(call, "req_0123")
    return b"".join(writer.event(event, cost if event.usage else None) for event in events) + writer.end()


def told(written: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each checked: its name, its number, and that the official package's types take it."""
    events = []
    for number, frame in enumerate(written.split(b"\n\n")[:-1]):
        name, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        if event["type"] != "error":
            EVENTS.validate_python(event)
        events.append(event)
    return events


def whole(events: list[Event], call: Call = CALL) -> dict[str, Any]:
    collector = Collector()
    for event in events:
        collector.add(event)
    return dict(json.loads(DIALECT.encode_answer(collector.answer(), call)))


@pytest.mark.parametrize("name", ["stream.sse", "whole.json"])
def test_a_response_leaves_as_golden_bytes(name: str) -> None:
    """Reasoning, text and two calls that are written alternately: the frames one by one, and the whole object."""
    collector = Collector()
    for event in PIECES:
        collector.add(event)
    written = {"stream.sse": stream(PIECES, FULL, "0.0001"), "whole.json": DIALECT.encode_answer(collector.answer(), FULL)}[name]
    assert written == (GOLDEN / name).read_bytes()


def test_the_object_repeats_what_was_asked() -> None:
    """Every field a caller may look up in its response, and the package's own type takes it."""
    body = whole(PIECES, FULL)
    Response.model_validate(body)
    asked = {
        "id": "resp_0123", "created_at": 1_700_000_000, "status": "completed", "model": "qwen", "instructions": "be brief",
        "previous_response_id": "resp_0122", "store": True, "max_output_tokens": 64, "metadata": {"team": "search"}, "temperature": 0.5,
        "parallel_tool_calls": False, "reasoning": {"effort": "low", "summary": None}, "safety_identifier": "u-1",
        "tool_choice": {"type": "function", "name": "lookup"}, "incomplete_details": None, "error": None,
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}},
    }  # fmt: skip
    assert {name: body[name] for name in asked} == asked
    assert body["usage"] == {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 6, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 16,
    }  # fmt: skip


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(finish: Any, reason: str) -> None:
    """Streamed and whole say so in the same words, and the item that was cut says so too."""
    events: list[Event] = [Chunk((ChoiceDelta(text="so f"),)), Chunk((ChoiceDelta(finish=finish),))]
    frames = told(stream(events))
    assert frames[-1]["type"] == "response.incomplete"
    for body in (frames[-1]["response"], whole(events)):
        assert body["status"] == body["output"][-1]["status"] == "incomplete"
        assert body["incomplete_details"] == {"reason": reason}
    assert next(frame for frame in frames if frame["type"] == "response.output_item.done")["item"]["status"] == "incomplete"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    """A client that takes the first item's text finds one."""
    events: list[Event] = [Chunk((ChoiceDelta(finish="stop", begins=True),))]
    for body in (told(stream(events))[-1]["response"], whole(events), told(stream([]))[-1]["response"]):
        assert [part["text"] for part in body["output"][0]["content"]] == [""]


def test_reasoning_is_where_the_caller_looks_for_it() -> None:
    """In full as reasoning text; as a summary for who asked for one; and with its proof for who asked for that."""
    thought: list[Event] = [Chunk((ChoiceDelta(reasoning="hm", signature="sig", redacted="xx"),)), Chunk((ChoiceDelta(text="yes"),))]
    plain = told(stream(thought))
    assert [frame["delta"] for frame in plain if frame["type"] == "response.reasoning_text.delta"] == ["hm"]
    assert plain[-1]["response"]["output"][0] == {
        "id": "rs_0123_0", "type": "reasoning", "status": "completed", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}],
    }  # fmt: skip
    asked = msgspec.structs.replace(CALL, turn=msgspec.structs.replace(TURN, summary=True, sealed=True))
    summed = told(stream(thought, asked))
    assert [frame["delta"] for frame in summed if frame["type"] == "response.reasoning_summary_text.delta"] == ["hm"]
    item = summed[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert item["encrypted_content"] == 'gh1.["sig",["xx"]]'


def test_what_is_done_is_told_before_what_follows() -> None:
    """The reasoning is done when the text begins, and the text when a call begins: nobody waits for the end to show them."""
    order = [frame["type"].removeprefix("response.") for frame in told(stream(PIECES))]
    assert order == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "output_item.added",
        "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_log_probabilities_go_with_their_text() -> None:
    """Each delta has those of its own tokens, the whole text all of them."""
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    events: list[Event] = [Chunk((ChoiceDelta(text="a", logprobs={"content": [token], "refusal": None}),))] * 2
    frames = told(stream(events))
    assert [frame["logprobs"] for frame in frames if frame["type"] == "response.output_text.delta"] == [[token], [token]]
    assert frames[-1]["response"]["output"][0]["content"][0]["logprobs"] == [token, token]
    assert whole(events)["output"] == frames[-1]["response"]["output"]


@pytest.mark.parametrize("events", [PIECES[:3], []])
def test_a_broken_stream_fails_in_every_readers_language(events: list[Event]) -> None:
    """The response failed, what it had said stands in it, and an error follows that the official package raises."""
    writer = DIALECT.open_stream(CALL, "req_0123")
    written = b"".join(writer.event(event, None) for event in events) + writer.error(Blocked("Stopped.", code="aws-key"))
    frames = told(written)
    assert [frame["type"] for frame in frames[-2:]] == ["response.failed", "error"]
    assert frames[-2]["response"]["status"] == "failed"
    assert frames[-2]["response"]["error"] == {"code": "invalid_prompt", "message": "Stopped."}
    assert (frames[-1]["code"], frames[-1]["error"]["request_id"]) == ("aws-key", "req_0123")
    assert not [frame for frame in frames if frame["type"] in ("response.completed", "response.incomplete")]


def test_a_response_that_its_caller_ended_is_cancelled() -> None:
    """It has the status of its own that the API knows for this."""
    writer = DIALECT.open_stream(CALL, "req_0123")
    frames = told(writer.event(PIECES[2], None) + writer.error(InvalidRequest("This response was cancelled.", code="response_cancelled")))
    assert frames[-2]["response"]["status"] == "cancelled"


def test_errors_have_openais_shape() -> None:
    """Before the first byte an error is what every client of OpenAI's knows."""
    status, body = DIALECT.encode_error(LimitExceeded("Too many.", code="rate_limit_exceeded"), "req_1")
    assert status == 429
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"


_text = st.text(st.characters(codec="utf-8"), max_size=8)
_tools = st.lists(st.tuples(st.integers(0, 2), _text), max_size=4)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Event], Answer]:
    """An answer in pieces as a target sends it (thought, said, refused, called), and what it is put together."""
    events: list[Event] = [Chunk((ChoiceDelta(begins=True),), "c-1", "qwen", 9)]
    events += [Chunk((ChoiceDelta(reasoning=piece),)) for piece in draw(st.lists(_text, max_size=3))]
    events += [Chunk((ChoiceDelta(text=piece),)) for piece in draw(st.lists(_text, max_size=3))]
    events += [Chunk((ChoiceDelta(refusal=piece),)) for piece in draw(st.lists(_text, max_size=2))]
    begun: set[int] = set()
    for index, piece in draw(_tools):
        at = min(index, len(begun))
        tool = ToolDelta(at, arguments=piece) if at in begun else ToolDelta(at, f"call_{at}", "f", piece)
        events.append(Chunk((ChoiceDelta(tools=(tool,)),)))
        begun.add(at)
    events.append(
        Chunk((ChoiceDelta(finish=draw(st.sampled_from(["stop", "length", "tool_calls"]))),), usage=draw(st.none() | st.just(USAGE)))
    )
    collector = Collector()
    for event in events:
        collector.add(event)
    return events, collector.answer()


@given(answers(), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_pieces_add_up_to_the_whole(answer: tuple[list[Event], Answer], summary: bool, sealed: bool) -> None:
    """Concatenated deltas are the texts and arguments of the whole, tool arguments included, whatever the pieces; and streamed, whole
    and replayed from one piece it is the same response."""
    events, collected = answer
    call = msgspec.structs.replace(CALL, turn=msgspec.structs.replace(TURN, summary=summary, sealed=sealed))
    frames = told(stream(events, call))
    final = frames[-1]["response"]
    assert final == json.loads(DIALECT.encode_answer(collected, call))
    assert told(stream([collected], call))[-1]["response"] == final
    for frame in frames:
        if frame["type"] == "response.output_item.done":
            assert frame["item"] == final["output"][frame["output_index"]]
    for item in final["output"]:
        deltas = "".join(frame["delta"] for frame in frames if frame.get("item_id") == item["id"] and "delta" in frame)
        parts = item.get("content", []) + item.get("summary", [])
        assert deltas == item.get("arguments", "".join(part.get("text", part.get("refusal", "")) for part in parts))


def test_calls_without_an_id_get_one() -> None:
    """Some servers give none; what a client answers to must have a name, the same in stream and whole."""
    events: list[Event] = [Chunk((ChoiceDelta(tools=(ToolDelta(0, None, "f", "{}"),), finish="tool_calls"),))]
    streamed = told(stream(events))[-1]["response"]["output"]
    assert streamed == json.loads(DIALECT.encode_answer(Answer((Choice(tools=(ToolCall("", "f", "{}"),)),)), CALL))["output"]
    assert streamed[0]["call_id"] == "call_0123_0"
