"""What a target is sent: a `Call`, from whatever dialect it came, as the body of a request for messages."""

import json
from typing import Any

import pytest

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Thinking,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects.anthropic import encode_request

HI = Message("user", "hi")


def sent(*messages: Message, **fields: Any) -> dict[str, Any]:
    """The body for a call, decoded."""
    call = Call(model="assistant", messages=messages or (HI,), **fields)
    body = json.loads(encode_request(call, "claude"))
    assert isinstance(body, dict)
    return body


def turns(*messages: Message) -> Any:
    return sent(*messages)["messages"]


def test_the_smallest_call() -> None:
    """The bound of the output is always there: the API insists on it."""
    assert sent(max_tokens=5) == {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    assert sent()["max_tokens"] == 4096


def test_a_platform_that_names_the_model_in_the_path_gets_a_version_instead() -> None:
    """As Vertex and Bedrock want it."""
    body = json.loads(encode_request(Call(model="a", messages=(HI,)), "claude", anthropic_version="vertex-2023-10-16"))
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert "model" not in body


def test_every_plain_field() -> None:
    """Under its name here; hints that the API does not know are left out, and a temperature above 1 is 1."""
    body = sent(
        stream=True, stop=("END",), temperature=1.7, top_p=0.5, top_k=4, seed=3, presence_penalty=0.5,
        extra={"service_tier": "auto", "store": False, "safety_identifier": "ann", "verbosity": "low", "prompt_cache_key": "a"},
    )  # fmt: skip
    assert {name: value for name, value in body.items() if name not in ("model", "messages", "max_tokens")} == {
        "stream": True, "stop_sequences": ["END"], "temperature": 1, "top_p": 0.5, "top_k": 4, "service_tier": "auto",
    }  # fmt: skip


def test_the_user_is_told_where_the_call_names_one() -> None:
    """Whether it may was decided before: by default a call that leaves names nobody."""
    assert sent(user="u-1")["metadata"] == {"user_id": "u-1"}
    assert "metadata" not in sent(metadata={"team": "x"})


def test_an_extra_field_cannot_overwrite_ours() -> None:
    """Whoever filled it."""
    assert sent(extra={"model": "other", "max_tokens": 9, "messages": []}, max_tokens=1)["messages"] != []


def test_instructions_stand_apart() -> None:
    """As text when there is one message of text, else as blocks; those in the middle join them."""
    assert sent(Message("system", "be brief"), HI)["system"] == "be brief"
    body = sent(Message("developer", "a"), HI, Message("assistant", "yes"), Message("system", (TextPart("b", "1h"),)), HI)
    assert body["system"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]


def test_instructions_in_the_middle_stay_where_the_model_takes_them() -> None:
    """Newer models do."""
    call = Call(model="a", messages=(Message("system", "a"), HI, Message("developer", "b")))
    body = json.loads(encode_request(call, "m", system_turns=True))
    assert body["system"] == "a"
    assert body["messages"][-1] == {"role": "system", "content": "b"}


def test_what_tools_answered_is_one_turn_of_the_user() -> None:
    """Results of parallel calls and what the user says after them, in order, the failed one marked."""
    assert turns(
        HI,
        Message("assistant", "let me see", tool_calls=(ToolCall("t1", "f", '{"a": 1.0}'), ToolCall("t2", "g", ""))),
        Message("tool", "sunny", tool_call_id="t1"),
        Message("tool", (TextPart("no"), ImagePart("data:image/png;base64,QUJD")), tool_call_id="t2", is_error=True, cache="5m"),
        Message("user", "and?"),
        Message("assistant", "well"),
        Message("user", "so"),
        Message("user", "what"),
    ) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "let me see"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1.0}},
            {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
            {"type": "tool_result", "tool_use_id": "t2", "content": [
                {"type": "text", "text": "no"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            ], "is_error": True, "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "and?"},
        ]},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "so"},
        {"role": "user", "content": "what"},
    ]  # fmt: skip


def test_arguments_that_are_no_object_are_told_as_such() -> None:
    """Broken off by a bound, a list, free text of a custom tool: never an empty object that somebody might act on."""
    calls = (ToolCall("1", "f", '{"path": "/tm'), ToolCall("2", "f", "[1]"), ToolCall("3", "f", "free", "custom"))
    (turn,) = turns(Message("assistant", tool_calls=calls))
    assert [block["input"] for block in turn["content"]] == [
        {"unparsed_arguments": '{"path": "/tm'}, {"unparsed_arguments": "[1]"}, {"input": "free"},
    ]  # fmt: skip


def test_reasoning_goes_back_as_it_came() -> None:
    """With its signature, or encrypted; what nobody signed the API would refuse, so it stays behind."""
    parts = (ThinkingPart("hm", "sig"), ThinkingPart(redacted="xyz"), ThinkingPart("unsigned"), TextPart("so"), RefusalPart("no"))
    (turn,) = turns(Message("assistant", parts, refusal="never"))
    assert turn["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "so"},
        {"type": "text", "text": "no"},
        {"type": "text", "text": "never"},
    ]
    assert turns(HI, Message("assistant", (ThinkingPart("unsigned"),))) == [{"role": "user", "content": "hi"}]


def test_images_and_files() -> None:
    """Content by value as base64 with its type, text as text, the rest by its address or id; names become titles."""
    (turn,) = turns(
        Message("user", (
            ImagePart("https://example.com/a.png", "high", "5m"),
            ImagePart("data:image/gif,GIF%00"),
            FilePart("data:application/pdf;base64,JVBE", filename="a.pdf"),
            FilePart("JVBE"),
            FilePart("data:text/plain;charset=utf-8;base64,aGkgw6Q=", cache="1h"),
            FilePart("data:image/webp;base64,UklG"),
            FilePart(file_id="file_1"),
            FilePart("https://example.com/a.pdf", filename="a"),
        ))
    )  # fmt: skip
    assert turn["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}, "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGAA=="}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}, "title": "a.pdf"},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi ä"},
         "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "UklG"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, "title": "a"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 2), ("logprobs", True), ("logit_bias", {"1": 1.0}), ("response_format", ResponseFormat("json_object"))],
)
def test_what_the_api_has_no_words_for_is_refused(field: str, value: Any) -> None:
    """By the name of the field; nothing that was asked for is left out in silence."""
    with pytest.raises(UpstreamFailed) as caught:
        sent(**{field: value})
    assert (caught.value.param, caught.value.caller_fault, caught.value.sent) == (field, True, False)


@pytest.mark.parametrize("part", [AudioPart("QUJD", "wav"), FilePart("data:text/plain;base64,/w==")])
def test_what_no_target_of_this_kind_takes_is_the_callers_fault(part: Any) -> None:
    """Told before anything is sent."""
    with pytest.raises(UpstreamFailed) as caught:
        sent(Message("user", (part,)))
    assert caught.value.caller_fault
    assert not caught.value.sent


def test_tools() -> None:
    """With a schema that always says object, strictness when asked for, and the mark for the cache."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tools = (Tool("f", "does f", schema, True, "5m"), Tool("g"), Tool("h", parameters={"properties": {}}))
    assert sent(tools=tools)["tools"] == [
        {"name": "f", "description": "does f", "input_schema": schema, "strict": True, "cache_control": {"type": "ephemeral"}},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
        {"name": "h", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required", "f"), True, {"type": "tool", "name": "f"}),
    ],
)
def test_tool_choice(choice: ToolChoice | None, parallel: bool | None, expected: Any) -> None:
    """Each mode, and whether several tools may be called at once."""
    assert sent(tools=(Tool("f"),), tool_choice=choice, parallel_tool_calls=parallel).get("tool_choice") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": Thinking("enabled", 2048)}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        (
            {"thinking": Thinking("adaptive"), "reasoning_effort": "max"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        (
            {"response_format": ResponseFormat("json_schema", "x", schema={"type": "object"})},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
        ({"response_format": ResponseFormat("text")}, {}),
    ],
)
def test_reasoning_and_the_form_of_the_answer(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """As https://platform.claude.com/docs/en/build-with-claude/effort and /structured-outputs have it."""
    body = sent(**fields)
    assert {name: value for name, value in body.items() if name not in ("model", "messages", "max_tokens")} == expected
