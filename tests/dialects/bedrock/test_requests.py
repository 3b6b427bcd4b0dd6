"""What Converse is asked: golden bytes, what each family takes, what is refused, and any call at all."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from gatehouse.core.calls import (
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
from gatehouse.dialects.bedrock import Guardrail, encode_request, request_path
from gatehouse.dialects.bedrock.requests import family_of
from gatehouse.dialects.openai import OpenAIDialect
from tests.dialects.bedrock.written import GOLDEN
from tests.dialects.openai.strategies import calls

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
NOVA2 = "us.amazon.nova-2-lite-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"
HI = (Message("user", "hi"),)


def asked(model: str = CLAUDE, **fields: Any) -> Any:
    return json.loads(encode_request(Call(model="assistant", **{"messages": HI, **fields}), model))


def refused(model: str = CLAUDE, **fields: Any) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        asked(model, **fields)
    return caught.value


@pytest.mark.parametrize("name", ["chat", "tools", "content"])
def test_golden_requests(name: str) -> None:
    """A request in OpenAI's words, as Converse is asked it, byte for byte."""
    call = OpenAIDialect().decode_request((GOLDEN / "requests" / f"{name}.in.json").read_bytes())
    assert encode_request(call, CLAUDE) + b"\n" == (GOLDEN / "requests" / f"{name}.out.json").read_bytes()


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (CLAUDE, "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"),
        (
            "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/a1b2c3",
            "/model/arn%3Aaws%3Abedrock%3Aeu-central-1%3A123456789012%3Aapplication-inference-profile%2Fa1b2c3/converse",
        ),
        ("../../x?y#z", "/model/..%2F..%2Fx%3Fy%23z/converse"),
    ],
)
def test_the_model_is_one_segment_of_the_path(model: str, path: str) -> None:
    """Colons and slashes of ids and ARNs are escaped, so no id can reach another path."""
    assert request_path(Call(model="assistant"), model) == path
    assert request_path(Call(model="assistant", stream=True), model) == path + "-stream"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (CLAUDE, "anthropic"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "anthropic"),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-v2", "anthropic"),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0", "nova"),
        (NOVA2, "nova-2"),
        ("mistral.mistral-large-2402-v1:0", "mistral"),
        ("openai.gpt-oss-120b-1:0", "openai"),
        (LLAMA, "other"),
        ("arn:aws:bedrock:us-east-1:123456789012:provisioned-model/anthropic", "other"),
    ],
)
def test_families_are_read_from_ids(model: str, family: str) -> None:
    """Plain ids, profiles of a region, ARNs that hold an id."""
    assert family_of(model) == family


def test_reasoning_and_cache_marks() -> None:
    """History of a thinking model goes back as it came, and marks become cache points behind what they mark."""
    body = asked(
        messages=(
            Message("system", (TextPart("Long rules.", "1h"),)),
            Message("user", "q", cache="5m"),
            Message(
                "assistant",
                (ThinkingPart("hm", "sig"), ThinkingPart(redacted="AAAA"), TextPart("a")),
                tool_calls=(ToolCall("t", "f", "{}"),),
                cache="5m",
            ),
            Message("tool", "boom", tool_call_id="t", is_error=True),
            Message("user", (TextPart(""), TextPart("next", "5m"))),
        ),
        tools=(Tool("f", cache="1h"),),
        tool_choice=ToolChoice("auto"),
        thinking=Thinking("enabled", 2048),
    )
    assert body == {
        "system": [{"text": "Long rules."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": [{"text": "q"}, {"cachePoint": {"type": "default"}}]},
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                    {"reasoningContent": {"redactedContent": "AAAA"}},
                    {"text": "a"},
                    {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}},
                    {"cachePoint": {"type": "default"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "t", "content": [{"text": "boom"}], "status": "error"}},
                    {"text": "next"},
                    {"cachePoint": {"type": "default"}},
                ],
            },
        ],
        "toolConfig": {
            "tools": [
                {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
                {"cachePoint": {"type": "default", "ttl": "1h"}},
            ],
            "toolChoice": {"auto": {}},
        },
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    }


def test_cache_marks_are_left_out_for_families_that_know_none() -> None:
    """A mark is a hint: without it the answer is the same."""
    body = asked(
        "mistral.mistral-large-2402-v1:0", messages=(Message("user", (TextPart("q", "5m"),), cache="5m"),), tools=(Tool("f", cache="5m"),)
    )
    assert "cachePoint" not in json.dumps(body)


@pytest.mark.parametrize(
    ("model", "fields", "more"),
    [
        (CLAUDE, {"top_k": 40}, {"top_k": 40}),
        (NOVA, {"top_k": 40}, {"inferenceConfig": {"topK": 40}}),
        ("cohere.command-r-v1:0", {"top_k": 40, "presence_penalty": 0.5}, {"k": 40, "presence_penalty": 0.5}),
        (CLAUDE, {"thinking": Thinking("adaptive")}, {"thinking": {"type": "adaptive"}}),
        (CLAUDE, {"thinking": Thinking("disabled")}, {"thinking": {"type": "disabled"}}),
        (NOVA2, {"reasoning_effort": "low"}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
        (NOVA2, {"thinking": Thinking("enabled", 99)}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}}),
        (NOVA2, {"reasoning_effort": "none"}, {"reasoningConfig": {"type": "disabled"}}),
        ("openai.gpt-oss-20b-1:0", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (LLAMA, {"thinking": Thinking("disabled"), "reasoning_effort": "none", "frequency_penalty": 0.0}, None),
        (LLAMA, {"extra": {"guided": True}}, {"guided": True}),
        (CLAUDE, {"parallel_tool_calls": True}, None),
    ],
)
def test_what_only_a_family_understands(model: str, fields: dict[str, Any], more: Any) -> None:
    """In the place that AWS documents for it."""
    assert asked(model, **fields).get("additionalModelRequestFields") == more


def test_effort_and_schemas_have_a_place_of_their_own() -> None:
    """outputConfig, with the schema as text."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = asked(reasoning_effort="minimal", response_format=ResponseFormat("json_schema", "n", None, schema))
    named = {"schema": json.dumps(schema, separators=(",", ":")), "name": "n"}
    assert body["outputConfig"] == {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": named}}, "effort": "low"}
    assert "outputConfig" not in asked(response_format=ResponseFormat("text"))


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (CLAUDE, {"n": 2}, "n"),
        (CLAUDE, {"seed": 1}, "seed"),
        (CLAUDE, {"logprobs": True}, "logprobs"),
        (CLAUDE, {"logit_bias": {"1": 2.0}}, "logit_bias"),
        (CLAUDE, {"frequency_penalty": 0.1}, "frequency_penalty"),
        (CLAUDE, {"parallel_tool_calls": False, "tools": (Tool("f"),)}, "parallel_tool_calls"),
        (CLAUDE, {"response_format": ResponseFormat("json_object")}, "response_format"),
        (CLAUDE, {"operation": "embedding", "inputs": ("a",)}, "model"),
        (CLAUDE, {"reasoning_effort": "enormous"}, "reasoning_effort"),
        (LLAMA, {"top_k": 1}, "top_k"),
        (LLAMA, {"thinking": Thinking("enabled", 1024)}, "thinking"),
        (LLAMA, {"reasoning_effort": "low"}, "reasoning_effort"),
        (CLAUDE, {"tool_choice": ToolChoice("none"), "messages": (*HI, Message("tool", "x", tool_call_id="t"))}, "tool_choice"),
        (CLAUDE, {"messages": (Message("user", (ImagePart("https://a.test/x.png"),)),)}, "messages[0].content[0].image_url.url"),
        (CLAUDE, {"messages": (Message("user", (ImagePart("data:image/svg+xml;base64,AA"),)),)}, "messages[0].content[0]"),
        (CLAUDE, {"messages": (Message("user", (FilePart(file_id="file-1"),)),)}, "messages[0].content[0]"),
        (CLAUDE, {"messages": (Message("user", (FilePart("data:application/zip;base64,AA"),)),)}, "messages[0].content[0]"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(model: str, fields: dict[str, Any], param: str) -> None:
    """Nothing is left out in silence, and nothing is fetched."""
    error = refused(model, **fields)
    assert error.param == param
    assert error.message.startswith(f"{param}: ")
    assert (error.code, error.caller_fault, error.sent) == ("upstream_rejected", True, False)


def test_a_guardrail_of_the_provider_goes_with_every_chat() -> None:
    """The operator's choice: nothing in a call names or changes it."""
    call = Call(model="assistant", messages=HI, extra={"guardrailConfig": {"guardrailIdentifier": "mine", "guardrailVersion": "9"}})
    body = json.loads(encode_request(call, CLAUDE, Guardrail("abc123", "1")))
    assert body["guardrailConfig"] == {"guardrailIdentifier": "abc123", "guardrailVersion": "1"}
    assert "guardrailConfig" not in asked()


def test_no_tools_are_sent_when_none_may_be_called() -> None:
    """Converse has no word for tool_choice none; a model without tools calls none."""
    assert "toolConfig" not in asked(tools=(Tool("f"),), tool_choice=ToolChoice("none"))


@pytest.mark.parametrize("arguments", ['{"a":1}]}', "{", "[1]", '"x"', "\ud800", '{"a":1},"injected":{"b":2}'])
def test_arguments_cannot_reach_out_of_their_place(arguments: str) -> None:
    """What is no JSON object is carried as text inside one."""
    message = Message("assistant", None, tool_calls=(ToolCall("t", "f", arguments),))
    try:
        body = asked(messages=(*HI, message))
    except UnicodeEncodeError:
        assert arguments == "\ud800"
        return
    assert body["messages"][1]["content"][0]["toolUse"] == {"toolUseId": "t", "name": "f", "input": {"input": arguments}}


@given(calls())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_call_is_either_asked_or_refused(call: Call) -> None:
    """Whatever the edge lets in: proper JSON whose turns alternate, or an error that names a field."""
    try:
        body = msgspec.json.decode(encode_request(call, CLAUDE))
    except UpstreamFailed as error:
        assert error.param
        assert not error.sent
        return
    roles = [message["role"] for message in body["messages"]]
    assert all(first != second for first, second in itertools.pairwise(roles))
    assert set(body) <= {
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "outputConfig",
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "requestMetadata",
    }
