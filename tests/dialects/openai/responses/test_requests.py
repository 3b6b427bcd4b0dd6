"""Requests of the Responses API: what they become, what is refused and with which words, and that nothing else ever comes out."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    ResponseFormat,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
    Turn,
)
from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects.openai.responses import ResponsesDialect
from gatehouse.dialects.openai.responses.items import sealed, write_items
from tests.dialects.openai.strategies import json_values

DIALECT = ResponsesDialect()
FILE_URL = {"type": "input_image", "image_url": "file:///x"}
SCHEMA = {"type": "json_schema", "name": "x"}
TOOL = {"type": "function", "name": "lookup", "parameters": {"type": "object"}}


def decode(**fields: Any) -> Call:
    return DIALECT.decode_request(json.dumps({"model": "assistant", "input": "hi", **fields}).encode())


def refuse(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


def messages(*items: Any) -> tuple[Message, ...]:
    return decode(input=list(items)).messages


def test_a_text_is_one_message_of_the_user() -> None:
    """The shortest request there is."""
    assert decode() == Call(model="assistant", messages=(Message("user", "hi"),), turn=Turn())


def test_every_field_has_its_place() -> None:
    """All that a call can carry arrives in it; what only the caller's side needs is in its turn."""
    call = decode(
        instructions="be brief",
        tools=[{**TOOL, "description": "d", "strict": True}],
        tool_choice={"type": "function", "name": "lookup"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}, "verbosity": "low"},
        max_output_tokens=64,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=3,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        safety_identifier="u-1",
        metadata={"team": "search"},
        store=True,
        previous_response_id="resp_abc",
        background=False,
        stream=True,
        stream_options={"include_obfuscation": False},
        service_tier="auto",
    )
    assert call == Call(
        model="assistant",
        messages=(Message("developer", "be brief"), Message("user", "hi")),
        tools=(Tool("lookup", "d", {"type": "object"}, strict=True),),
        tool_choice=ToolChoice("required", "lookup"),
        parallel_tool_calls=False,
        response_format=ResponseFormat("json_schema", "answer", None, {"type": "object"}, strict=True),
        max_tokens=64,
        temperature=0.5,
        top_p=0.9,
        logprobs=True,
        top_logprobs=3,
        reasoning_effort="low",
        user="u-1",
        metadata={"team": "search"},
        stream=True,
        include_usage=True,
        extra={"service_tier": "auto", "verbosity": "low"},
        turn=Turn(previous="resp_abc", store=True, instructions=True, begins=1, summary=True, sealed=True, safety=True),
    )


def test_that_nothing_is_to_be_stored_is_told_to_the_target_too() -> None:
    """A target asked in its own words may keep what it is asked. That a response is to be kept is for us, and goes no further."""
    refused = decode(store=False)
    assert (refused.turn.store if refused.turn else None, refused.extra) == (False, {"store": False})
    assert decode(store=True).extra == decode().extra == {}


def test_an_explicit_null_is_an_absent_field() -> None:
    """Clients that write every field say no more than those that leave them out."""
    names = (
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "metadata",
        "store",
        "previous_response_id",
        "stream",
        "conversation",
    )
    assert decode(**dict.fromkeys(names)) == decode()


def test_a_row_of_what_the_model_did_is_one_message() -> None:
    """Reasoning, text and parallel calls of one turn are folded; what a tool answered and what the user says next stand by themselves."""
    assert messages(
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Looking.", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "lookup", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "lookup", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
        {"role": "assistant", "content": "Both."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == (
        Message("user", "weather?"),
        Message(
            "assistant",
            (ThinkingPart("hm"), TextPart("Looking.")),
            tool_calls=(ToolCall("c1", "lookup", "{}"), ToolCall("c2", "lookup", "[]")),
        ),
        Message("tool", "rain", tool_call_id="c1"),
        Message("tool", "sun", tool_call_id="c2"),
        Message("assistant", "Both."),
        Message("assistant", (RefusalPart("no"),)),
    )  # fmt: skip


def test_a_second_turn_of_the_model_is_a_second_message() -> None:
    """What the model thought or said after it had called or spoken belongs to another message; no user needs to stand between."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]}
    assert messages(thought, call, thought, {"role": "assistant", "content": "x"}, call) == (
        Message("assistant", (ThinkingPart("a\n\nb"),), tool_calls=(ToolCall("c1", "f", "{}"),)),
        Message("assistant", (ThinkingPart("a\n\nb"), TextPart("x")), tool_calls=(ToolCall("c1", "f", "{}"),)),
    )


def test_parts_of_the_user_arrive() -> None:
    """Text, images, audio and files; one text alone is a text."""
    assert messages(
        {"role": "user", "content": [{"type": "input_text", "text": "just this"}]},
        {"role": "developer", "content": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            {"type": "input_file", "file_data": "data:,A", "filename": "a.txt"},
        ]},
    ) == (
        Message("user", "just this"),
        Message(
            "developer",
            (TextPart("see"), ImagePart("data:image/png;base64,AA", "low"), AudioPart("AA", "wav"), FilePart("data:,A", None, "a.txt")),
        ),
    )  # fmt: skip


def test_reasoning_that_only_its_target_reads_makes_the_round_trip() -> None:
    """A signature and what the target encrypted come back out of `encrypted_content` as they went in; another's is refused."""
    item = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
        "encrypted_content": sealed("sig", ["x", "y"]),
    }
    assert messages(item)[0].content == (ThinkingPart("hm", "sig"), ThinkingPart(redacted="x"), ThinkingPart(redacted="y"))
    for foreign in ("gAAAAAB", "gh1.", "gh1.[]"):
        error = refuse(input=[{**item, "encrypted_content": foreign}])
        assert error.param == "input[0].encrypted_content"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"truncation": "auto"}, "truncation"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "mcp", "server_label": "x", "server_url": "https://example.com"}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "input[0].type"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]}]}, "input[0].content[0].file_url"),
    ],
)
def test_what_does_not_happen_here_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Nothing of the real API is dropped silently: the refusal names the field and says what to do."""
    error = refuse(**fields)
    assert error.param == param
    assert len(error.message) > len(param) + 20


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_field"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": "x", "audio": 1}]}, "input[0].audio", "unknown_field"),
        ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input[0].content[0].type", "invalid_value"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "input[0].content[0].type", "invalid_value"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "missing_field"),
        ({"input": [{"role": "user", "content": [FILE_URL]}]}, "input[0].content[0].image_url", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_field"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "invalid_value"),
        ({"tools": [{**TOOL, "parameters": {"$ref": "https://x"}}]}, "tools[0].parameters", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name", "invalid_value"),
        ({"text": {"format": {**SCHEMA, "schema": {"chat_template": 1}}}}, "text.format.schema.chat_template", "forbidden_field"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"user": "a", "safety_identifier": "b"}, "user", "invalid_value"),
        ({"previous_response_id": "../x"}, "previous_response_id", "invalid_value"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", "invalid_value"),
        ({"api_base": "https://x"}, "api_base", "forbidden_field"),
        ({"x": {"extra_body": 1}}, "x.extra_body", "forbidden_field"),
        ({"metadata": {"api_key": "x"}}, "metadata.api_key", "forbidden_field"),
    ],
)  # fmt: skip
def test_faults_say_where_they_are(fields: dict[str, Any], param: str, code: str) -> None:
    """The path is the caller's own, whatever shape the items had to be brought into."""
    error = refuse(**fields)
    assert (error.param, error.code) == (param, code)


def test_a_key_given_twice_is_refused_at_any_depth() -> None:
    """Two readers of one body must not read two bodies."""
    for body in (
        b'{"model":"a","model":"b","input":"x"}',
        b'{"model":"a","input":[{"role":"user","role":"developer","content":"x"}]}',
        b'{"model":"a","input":[{"role":"user","content":[{"type":"input_text","text":"x","text":"y"}]}]}',
        b'{"model":"a","input":"x","tools":[{"type":"function","name":"f","parameters":{"a":1,"a":2}}]}',
    ):
        with pytest.raises(InvalidRequest) as caught:
            DIALECT.decode_request(body)
        assert caught.value.code == "duplicate_key"


_ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "x"]) | json_values,
        "role": st.sampled_from(["user", "assistant"]) | json_values,
        "content": json_values,
        "call_id": json_values,
        "output": json_values,
        "summary": json_values,
        "name": json_values,
        "arguments": json_values,
    },
)


@given(
    st.lists(_ITEMS, max_size=3) | json_values,
    st.dictionaries(st.sampled_from(["tools", "text", "tool_choice", "reasoning", "x"]), json_values),
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_sent_only_a_typed_refusal_comes_out(items: Any, fields: dict[str, Any]) -> None:
    """No body makes this dialect fail in another way."""
    body = json.dumps({"model": "m", "input": items, **fields}).encode()
    try:
        call = DIALECT.decode_request(body)
    except InvalidRequest:
        return
    assert call.turn is not None


_said = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
_calls = st.lists(st.builds(ToolCall, st.just("c1"), st.just("f"), _said), max_size=2).map(tuple)
_SAID = st.one_of(
    st.builds(Message, st.sampled_from(["user", "developer", "system"]), _said.filter(bool)),
    st.builds(Message, st.just("user"), st.tuples(st.builds(TextPart, _said), st.just(ImagePart("data:,A", "auto")))),
    st.builds(Message, st.just("tool"), _said, tool_call_id=st.just("c1")),
    st.builds(Message, st.just("assistant"), _said, tool_calls=_calls),
    st.builds(Message, st.just("assistant"), st.tuples(st.builds(ThinkingPart, _said.filter(bool)), st.builds(TextPart, _said))),
)  # fmt: skip


@given(st.lists(_SAID, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_was_kept_is_told_as_the_items_it_came_as(said: list[Message]) -> None:
    """Messages written as items and read again are the same messages."""
    items = [{name: value for name, value in item.items() if name != "id"} for item in write_items(said, "x")]
    assert messages(*items) == tuple(said)
