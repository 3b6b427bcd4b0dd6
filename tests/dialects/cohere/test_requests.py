"""Requests as Cohere is sent them: golden bytes, and everything it has no words for."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    ResponseFormat,
    TextPart,
    Thinking,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects.cohere import encode_request
from gatehouse.dialects.openai import OpenAIDialect
from tests.dialects.openai.strategies import calls

GOLDEN = Path(__file__).parent / "golden" / "requests"
MODEL = "command-a-03-2025"
HI = Message("user", "hi")


def sent(*messages: Message, **fields: Any) -> dict[str, Any]:
    """What leaves, decoded."""
    body: dict[str, Any] = json.loads(encode_request(Call(model="assistant", messages=messages or (HI,), **fields), MODEL))
    return body


@pytest.mark.parametrize("name", ["chat", "tools", "content"])
def test_requests_leave_as_golden_bytes(name: str) -> None:
    """From OpenAI's words to Cohere's."""
    call = OpenAIDialect().decode_request((GOLDEN / f"{name}.in.json").read_bytes())
    assert encode_request(call, MODEL) == (GOLDEN / f"{name}.out.json").read_bytes().strip()


@given(calls())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_call_leaves_as_json_or_is_refused_by_field(call: Call) -> None:
    """Never a fault of ours; one message each, in order."""
    try:
        body = json.loads(encode_request(call, MODEL))
    except UpstreamFailed as failed:
        assert (failed.sent, failed.caller_fault) == (False, True)
        return
    assert len(body["messages"]) == len(call.messages)
    for message, written in zip(call.messages, body["messages"], strict=True):
        if message.role == "user" and isinstance(message.content, str):
            assert written["content"] == message.content


def test_nothing_of_who_asks_leaves() -> None:
    """Neither the end user nor the caller's tags."""
    extra = {"safety_identifier": "secret-user", "store": False}
    body = sent(user="secret-user", metadata={"team": "secret-user"}, extra=extra)
    assert "secret-user" not in json.dumps(body)
    assert "store" not in body


def test_a_tool_that_must_be_called_is_the_only_one() -> None:
    """Cohere cannot be told a name."""
    body = sent(tools=(Tool("f"), Tool("g", "d", {"type": "object"}, True)), tool_choice=ToolChoice("required", "g"))
    assert body["tools"] == [{"type": "function", "function": {"name": "g", "description": "d", "parameters": {"type": "object"}}}]
    assert (body["tool_choice"], body["strict_tools"]) == ("REQUIRED", True)


@pytest.mark.parametrize(
    ("choice", "said"), [(None, None), (ToolChoice("auto"), None), (ToolChoice("none"), "NONE"), (ToolChoice("required"), "REQUIRED")]
)
def test_how_tools_may_be_called(choice: ToolChoice | None, said: str | None) -> None:
    """Auto is the default and has no word. A tool without parameters gets an empty schema, which is required."""
    body = sent(tools=(Tool("f"),), tool_choice=choice)
    assert body.get("tool_choice") == said
    assert body["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "strict_tools" not in body


def test_an_assistants_reasoning_is_sent_back_unless_another_signed_it() -> None:
    """Cohere signs nothing, so what is signed is another provider's."""
    thoughts = (ThinkingPart("own"), ThinkingPart("theirs", "sig"), ThinkingPart(redacted="x"), TextPart("Hello."))
    assert sent(HI, Message("assistant", thoughts))["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "own"},
        {"type": "text", "text": "Hello."},
    ]


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"thinking": Thinking("disabled")}, {"type": "disabled"}),
        ({"thinking": Thinking("enabled", 512)}, {"type": "enabled", "token_budget": 512}),
        ({"thinking": Thinking("adaptive")}, {"type": "enabled"}),
        ({"reasoning_effort": "none"}, {"type": "disabled"}),
        ({}, None),
    ],
)
def test_how_much_to_think(fields: dict[str, Any], thinking: dict[str, Any] | None) -> None:
    """https://docs.cohere.com/docs/reasoning"""
    assert sent(**fields).get("thinking") == thinking


def test_fields_that_the_operator_lets_pass_stand_beside() -> None:
    """They never replace what is written from the call."""
    body = sent(extra={"safety_mode": "STRICT", "model": "another", "stream": True})
    assert (body["safety_mode"], body["model"], body["stream"]) == ("STRICT", MODEL, False)


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ((), {"n": 2}, "n"),
        ((), {"logit_bias": {"1": 1.0}}, "logit_bias"),
        ((), {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ((), {"tools": (Tool("f"),), "parallel_tool_calls": False}, "parallel_tool_calls"),
        ((), {"tools": (Tool("f"),), "response_format": ResponseFormat("json_object")}, "response_format"),
        ((), {"tools": (Tool("f", strict=True), Tool("g"))}, "tools"),
        ((), {"reasoning_effort": "high"}, "reasoning_effort"),
        ((), {"operation": "embedding"}, "model"),
        ((Message("user", (TextPart("x"), AudioPart("QUJD", "wav"))),), {}, "messages[0].content[1]"),
        ((Message("user", (FilePart("data:application/pdf;base64,QUJD"),)),), {}, "messages[0].content[0]"),
        ((HI, Message("tool", (ImagePart("data:image/png;base64,QUJD"),), tool_call_id="1")), {}, "messages[1].content[0]"),
        ((Message("assistant", None, tool_calls=(ToolCall("1", "f", "x", "custom"),)),), {}, "messages[0].tool_calls[0]"),
    ],
)
def test_what_cohere_has_no_words_for_is_named(messages: tuple[Message, ...], fields: dict[str, Any], param: str) -> None:
    """Before a byte is sent; the caller is told which field it was."""
    with pytest.raises(UpstreamFailed) as caught:
        sent(*messages, **fields)
    failed = caught.value
    assert (failed.sent, failed.caller_fault, failed.code, failed.param) == (False, True, "upstream_rejected", param)
