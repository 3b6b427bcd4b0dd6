"""Requests as Gemini is sent them: golden bytes, and everything it has no words for."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Thinking,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects import anthropic, bedrock
from gatehouse.dialects.gemini import encode_request
from gatehouse.dialects.openai import OpenAIDialect
from tests.dialects.openai.strategies import calls

GOLDEN = Path(__file__).parent / "golden" / "requests"
MODEL = "gemini-3-flash"
HI = Message("user", "hi")
UNSIGNED = "skip_thought_signature_validator"


def sent(*messages: Message, model: str = MODEL, **fields: Any) -> dict[str, Any]:
    """What leaves, decoded."""
    body: dict[str, Any] = json.loads(encode_request(Call(model="assistant", messages=messages or (HI,), **fields), model))
    return body


def refused(*messages: Message, model: str = MODEL, **fields: Any) -> UpstreamFailed:
    """The refusal of what cannot be said: nothing was sent, and the caller is told which field it was."""
    with pytest.raises(UpstreamFailed) as caught:
        sent(*messages, model=model, **fields)
    failed = caught.value
    assert (failed.sent, failed.caller_fault, failed.code) == (False, True, "upstream_rejected")
    assert failed.param is not None
    assert failed.message.startswith(failed.param)
    return failed


@pytest.mark.parametrize("name", ["chat", "tools", "content"])
def test_requests_leave_as_golden_bytes(name: str) -> None:
    """From OpenAI's words to Google's."""
    call = OpenAIDialect().decode_request((GOLDEN / f"{name}.in.json").read_bytes())
    assert encode_request(call, MODEL) == (GOLDEN / f"{name}.out.json").read_bytes().strip()


@given(calls())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_call_leaves_as_json_or_is_refused_by_field(call: Call) -> None:
    """Never a fault of ours; every text of a user that was sent is in what left."""
    try:
        body = json.loads(encode_request(call, MODEL))
    except UpstreamFailed as failed:
        assert (failed.sent, failed.caller_fault) == (False, True)
        return
    texts = json.dumps(body, ensure_ascii=False)
    for message in call.messages:
        if message.role == "user" and isinstance(message.content, str):
            assert json.dumps(message.content, ensure_ascii=False) in texts


def test_nothing_of_who_asks_leaves() -> None:
    """Neither the end user nor the caller's tags."""
    extra = {"safety_identifier": "secret-user", "store": False}
    body = sent(user="secret-user", metadata={"team": "secret-user"}, extra=extra)
    assert "secret-user" not in json.dumps(body)
    assert "store" not in body


# Turns


def test_system_messages_are_one_instruction_wherever_they_stand() -> None:
    """There is no such role between turns."""
    body = sent(Message("system", "a"), HI, Message("developer", (TextPart("b"), TextPart("c"))), Message("assistant", "x"), HI)
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]


def test_system_messages_alone_are_asked_as_the_user() -> None:
    """A request without a turn is refused by the API."""
    body = sent(Message("system", "Say hi."))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}


def test_results_of_parallel_calls_are_one_turn() -> None:
    """With the names of their calls; what failed is told as an error, and an image goes beside the text."""
    history = (
        HI,
        Message("assistant", None, tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}"))),
        Message("tool", "boom", tool_call_id="2", is_error=True),
        Message("tool", (TextPart("see"), ImagePart("data:image/png;base64,QUJD")), tool_call_id="1"),
    )
    assert sent(*history)["contents"][2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "2", "name": "g", "response": {"error": "boom"}}},
            {
                "functionResponse": {
                    "id": "1",
                    "name": "f",
                    "response": {"output": "see"},
                    "parts": [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}],
                }
            },
        ],
    }


def test_arguments_leave_as_the_model_wrote_them() -> None:
    """Numbers and order included."""
    arguments = '{"b": 1.0, "a": 123456789012345678901234567890}'
    call = Call(model="m", messages=(HI, Message("assistant", None, tool_calls=(ToolCall("1", "f", arguments),))))
    assert f'"args":{arguments}'.encode() in encode_request(call, MODEL)


@pytest.mark.parametrize(
    ("model", "signed", "signature"),
    [
        ("gemini-3-flash", "gemini:EjQK", "EjQK"),
        ("gemini-2.5-pro", "gemini:EjQK", "EjQK"),
        ("gemini-3-flash", "ErUB-another-provider", UNSIGNED),
        ("gemini-3-flash", None, UNSIGNED),
        ("gemini-flash-latest", None, UNSIGNED),
        ("gemini-2.5-pro", None, None),
        ("gemini-2.5-pro", "ErUB-another-provider", None),
        ("gemma-3", None, None),
    ],
)
def test_a_call_in_the_history_carries_geminis_own_signature(model: str, signed: str | None, signature: str | None) -> None:
    """On the first call only. Another provider's proof is not sent; models that insist on one get the documented word."""
    content: tuple[Part, ...] | None = None if signed is None else (ThinkingPart("hm", signed),)
    turn = sent(HI, Message("assistant", content, tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}"))), model=model)[
        "contents"
    ][1]
    assert [part.get("thoughtSignature") for part in turn["parts"]] == [signature, None]
    assert "hm" not in json.dumps(turn)


def test_a_signature_without_a_call_goes_with_the_text() -> None:
    """As the API gave it."""
    turn = sent(HI, Message("assistant", (ThinkingPart("hm", "gemini:EjQK"), TextPart("Hello."))), HI)["contents"][1]
    assert turn["parts"] == [{"text": "Hello.", "thoughtSignature": "EjQK"}]


def test_geminis_signature_is_sent_to_nobody_else() -> None:
    """A conversation that goes on with Claude would be refused for it."""
    call = Call(model="m", messages=(HI, Message("assistant", (ThinkingPart("", "gemini:EjQK"), TextPart("Hello."))), HI))
    for encode in (anthropic.encode_request, bedrock.encode_request):
        assert b"EjQK" not in encode(call, "claude")
        assert b"Hello." in encode(call, "claude")


def test_a_turn_of_nothing_but_reasoning_is_left_out() -> None:
    """The API refuses a turn without parts."""
    assert len(sent(HI, Message("assistant", (ThinkingPart("hm"),)), HI)["contents"]) == 2


# Settings


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"thinking": Thinking("disabled")}, {"thinkingBudget": 0}),
        ({"thinking": Thinking("enabled", 2048)}, {"includeThoughts": True, "thinkingBudget": 2048}),
        ({"thinking": Thinking("adaptive"), "reasoning_effort": "low"}, {"includeThoughts": True, "thinkingBudget": -1}),
        ({"reasoning_effort": "high"}, {"thinkingLevel": "HIGH"}),
        ({"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ({"reasoning_effort": "medium", "model": "gemini-2.5-flash"}, {"thinkingBudget": 8192}),
    ],
)
def test_how_much_to_think(fields: dict[str, Any], config: dict[str, Any]) -> None:
    """Levels for Gemini 3, budgets for 2.5, as Google maps an effort; Anthropic's words go first."""
    assert sent(**{"model": MODEL, **fields})["generationConfig"] == {"thinkingConfig": config}


@pytest.mark.parametrize(
    ("choice", "strict", "config"),
    [
        (None, False, None),
        (None, True, {"mode": "VALIDATED"}),
        (ToolChoice("auto"), False, {"mode": "AUTO"}),
        (ToolChoice("auto"), True, {"mode": "VALIDATED"}),
        (ToolChoice("none"), True, {"mode": "NONE"}),
        (ToolChoice("required"), False, {"mode": "ANY"}),
        (ToolChoice("required", "f"), False, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_how_tools_may_be_called(choice: ToolChoice | None, strict: bool, config: dict[str, Any] | None) -> None:
    """A strict tool is held to its schema."""
    body = sent(tools=(Tool("f", strict=strict or None),), tool_choice=choice)
    assert body.get("toolConfig") == (None if config is None else {"functionCallingConfig": config})
    assert body["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


def test_fields_that_the_operator_lets_pass_stand_beside() -> None:
    """They never replace what is written from the call, in either spelling."""
    body = sent(extra={"safetySettings": [{"category": "c", "threshold": "OFF"}]}, max_tokens=5)
    assert body["safetySettings"] == [{"category": "c", "threshold": "OFF"}]
    for name in ("contents", "generation_config", "generationConfig", "system_instruction", "tools", "toolConfig"):
        assert refused(extra={name: {}}).param == name


def test_a_wish_of_a_schema_passes_whole() -> None:
    """Without strict, what would be ignored is still told to the model; two spellings become those it knows."""
    properties: dict[str, Any] = {"a": {"type": "string", "pattern": "^a"}, "b": {"const": 1}, "c": {"$ref": "#/$defs/C"}}
    schema = {"type": "object", "properties": properties, "not": {}}
    wanted = sent(response_format=ResponseFormat("json_schema", "n", schema=schema))["generationConfig"]
    assert wanted["responseMimeType"] == "application/json"
    assert wanted["responseJsonSchema"] == {**schema, "properties": {**properties, "b": {"enum": [1]}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a"},
        {"type": "object", "properties": {"a": {"minLength": 1}}},
        {"anyOf": [{"allOf": []}]},
        {"items": {"not": {}}},
        {"enum": [True]},
        {"const": None},
        {"$defs": {"A": {"if": {}}}},
        {"additionalProperties": {"multipleOf": 2}},
    ],
)
def test_a_promise_that_would_not_be_kept_is_refused(schema: dict[str, Any]) -> None:
    """The API reads any schema and ignores what it does not know: with strict that is for the caller to know."""
    assert "strict" in refused(response_format=ResponseFormat("json_schema", "n", schema=schema, strict=True)).message
    assert refused(tools=(Tool("f", None, schema, True),)).param == "tools[0].function.parameters"
    assert sent(tools=(Tool("f", None, schema),))


def test_names_of_properties_are_no_keywords() -> None:
    """A property may be called pattern."""
    schema = {"type": "object", "properties": {"pattern": {"type": "string"}, "not": {"type": "string"}}, "default": {"pattern": 1}}
    assert sent(response_format=ResponseFormat("json_schema", "n", schema=schema, strict=True))


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ((), {"logit_bias": {"1": 1.0}}, "logit_bias"),
        ((), {"tools": (Tool("f"),), "parallel_tool_calls": False}, "parallel_tool_calls"),
        ((), {"reasoning_effort": "xhigh"}, "reasoning_effort"),
        ((), {"operation": "completion"}, "model"),
        ((Message("user", (ImagePart("https://example.com/a.png"),)),), {}, "messages[0].content[0].image_url.url"),
        ((Message("user", (ImagePart("data:image/png,plain"),)),), {}, "messages[0].content[0].image_url.url"),
        ((Message("user", (TextPart("x"), FilePart("JVBERi0="))),), {}, "messages[0].content[1].file.file_data"),
        ((Message("user", (FilePart(None, "file-1"),)),), {}, "messages[0].content[0].file.file_id"),
        ((HI, Message("tool", "x", tool_call_id="nobody")), {}, "messages[1].tool_call_id"),
        ((Message("assistant", None, tool_calls=(ToolCall("1", "f", "[1]"),)),), {}, "messages[0].tool_calls[0].function.arguments"),
        ((Message("assistant", None, tool_calls=(ToolCall("1", "f", "{"),)),), {}, "messages[0].tool_calls[0].function.arguments"),
        ((Message("assistant", None, tool_calls=(ToolCall("1", "f", "x", "custom"),)),), {}, "messages[0].tool_calls[0]"),
    ],
)
def test_what_gemini_has_no_words_for_is_named(messages: tuple[Message, ...], fields: dict[str, Any], param: str) -> None:
    """Before a byte is sent."""
    assert refused(*messages, **fields).param == param


@pytest.mark.parametrize("url", ["data:image/png;base64,QUJD", "DATA:Image/PNG;charset=utf-8;Base64,QUJD"])
def test_content_by_data_url(url: str) -> None:
    """Type and base64 by themselves, whatever the spelling."""
    assert sent(Message("user", (ImagePart(url),)))["contents"][0]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]


def test_a_large_image_is_not_looked_through() -> None:
    """Its base64 passes as it came."""
    data = base64.b64encode(bytes(range(256)) * 4096).decode()
    body = sent(Message("user", (ImagePart("data:image/png;base64," + data), AudioPart("QUJD", "mp3"))))
    assert body["contents"][0]["parts"][0]["inlineData"]["data"] == data
    assert body["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "audio/mp3", "data": "QUJD"}}


def test_the_same_call_leaves_as_the_same_bytes() -> None:
    """Encoding changes nothing in the call."""
    call = OpenAIDialect().decode_request((GOLDEN / "tools.in.json").read_bytes())
    before = msgspec.json.encode(call)
    assert encode_request(call, MODEL) == encode_request(call, MODEL)
    assert msgspec.json.encode(call) == before
