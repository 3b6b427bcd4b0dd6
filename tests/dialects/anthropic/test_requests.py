"""Requests for messages from callers: documented bodies, round trips, ranges, and that nothing but a typed refusal ever comes out.

The golden bodies are those of https://platform.claude.com/docs/en/api/messages and of the pages on tool use, vision, PDF support,
prompt caching, extended thinking and structured outputs beside it.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call, Message, TextPart
from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects.anthropic import AnthropicDialect, encode_request
from tests.dialects.anthropic.strategies import calls

GOLDEN = Path(__file__).parent / "golden" / "requests"
DIALECT = AnthropicDialect()
MINIMAL: dict[str, Any] = {"model": "assistant", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": "lookup", "input_schema": {"type": "object"}}


def body(**fields: Any) -> bytes:
    """A small good body with `fields` set."""
    return json.dumps({**MINIMAL, **fields}).encode()


def decode(**fields: Any) -> Call:
    return DIALECT.decode_request(body(**fields))


def refuse(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


def say(*blocks: Any, role: str = "user") -> Any:
    return {"messages": [{"role": role, "content": list(blocks)}]}


@pytest.mark.parametrize("name", ["default", "tools", "tool_history", "media", "caching", "thinking", "structured"])
def test_documented_requests_leave_as_golden_bytes(name: str) -> None:
    """A body of the API's documentation is decoded and written for a target as the bytes kept beside it."""
    call = DIALECT.decode_request((GOLDEN / f"{name}.in.json").read_bytes())
    assert encode_request(call, "target-model") == (GOLDEN / f"{name}.out.json").read_bytes()


@given(calls())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_encoded_decodes_to_the_same_call(call: Call) -> None:
    """decode(encode(call)) == call, so guard, cache key and target agree on what was asked."""
    assert DIALECT.decode_request(encode_request(call, call.model)) == call


@given(calls(), st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_repeated_key_gets_past_any_shape(call: Call, data: st.DataObject) -> None:
    """A member of any object of a good body, written once more, is always refused."""
    written = encode_request(call, "m")
    places = [at for at, byte in enumerate(written) if byte == ord("{") and written[at + 1 : at + 2] == b'"']
    at = data.draw(st.sampled_from(places))
    name = written[at + 1 : written.index(b'"', at + 2) + 1]
    twice = written[: at + 1] + name + b":null," + written[at + 1 :]
    with contextlib.suppress(ValueError):
        json.loads(twice)
        with pytest.raises(InvalidRequest):
            DIALECT.decode_request(twice)


def test_what_the_user_says_between_results_stays_in_its_place() -> None:
    """Each result is a message of the tool's, what stands between them one of the user's."""
    result = {"type": "tool_result", "tool_use_id": "t1"}
    call = decode(**say(result | {"content": "a"}, {"type": "text", "text": "b"}, result | {"is_error": True}))
    assert call.messages == (
        Message("tool", "a", tool_call_id="t1"), Message("user", "b"), Message("tool", "", tool_call_id="t1", is_error=True),
    )  # fmt: skip


def test_a_single_block_of_text_is_text() -> None:
    """The API calls one the short form of the other; marked, it stays a block."""
    assert decode(**say({"type": "text", "text": "hi"})) == decode()
    assert decode(system=[{"type": "text", "text": "s"}]) == decode(system="s")
    marked = decode(**say({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}))
    assert marked.messages[0].content == (TextPart("hi", "1h"),)


def test_a_mark_on_the_whole_request_is_one_on_its_end() -> None:
    """As the API applies it: to the last block."""
    sent = json.loads(encode_request(decode(cache_control={"type": "ephemeral"}), "m"))
    assert sent["messages"][-1]["content"] == [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]


def test_a_stream_always_tells_its_usage() -> None:
    """There is no option to ask for it."""
    assert decode(stream=True).include_usage
    assert not decode().include_usage


def test_an_answer_comes_back_as_it_was_given() -> None:
    """The members that the official client keeps in a history, nulls included."""
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}, "toolset_name": None}
    call = decode(**say({"type": "text", "text": "so", "citations": None}, used, role="assistant"))
    assert call.messages[0].tool_calls[0].arguments == '{"a":1}'


def test_arguments_are_the_callers_own_data() -> None:
    """A tool may take a field whose name is forbidden elsewhere; depth is bounded all the same."""
    used: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "f", "input": {"api_key": "x", "base_url": "y"}}
    assert decode(**say(used, role="assistant")).messages[0].tool_calls
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    error = refuse(**say(used | {"input": {"deep": deep}}, role="assistant"))
    assert "levels deep" in error.message
    assert str(error.param).startswith("messages[0].content[0].input.deep")


def test_unknown_top_level_fields_are_kept_apart() -> None:
    """Route decides about them."""
    assert decode(service_tier="auto", mcp_servers=[], container=None).extra == {"service_tier": "auto", "mcp_servers": []}


@pytest.mark.parametrize("name", ["api_base", "base_url", "extra_body", "chat_template"])
def test_forbidden_names_are_refused_at_any_depth(name: str) -> None:
    """Except where names are the caller's own data."""
    assert refuse(**{name: "x"}).code == "forbidden_field"
    assert refuse(vendor={"a": [{name: 1}]}).code == "forbidden_field"
    assert refuse(tools=[TOOL | {"input_schema": {"type": "object", name: 1}}]).code == "forbidden_field"
    assert decode(tools=[TOOL | {"input_schema": {"type": "object", "properties": {name: {}}}}]).tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.2}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"model": "a\nb"}, "model"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"metadata": {"team": "x"}}, "metadata.team"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools[0].type"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "https://x"}}}}, "output_config.format.schema"),
        (say({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}), "messages[0].content[0].source.url"),
        (say({"type": "image", "source": {"type": "url", "url": "data:image/png,x"}}), "messages[0].content[0].source.url"),
        (say({"type": "document", "source": {"type": "url", "url": "s3://x/a.pdf"}}), "messages[0].content[0].source.url"),
        (say({"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": ""}}),
         "messages[0].content[0].source.media_type"),
        (say({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "url", "url": "ftp://x"}}]}),
         "messages[0].content[0].content[0].source.url"),
        (say({"type": "text", "text": "x", "citations": [{}]}), "messages[0].content[0].citations"),
        (say({"type": "tool_use", "id": "t", "name": "f", "input": {}}), "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    """The field, as the caller wrote it."""
    assert refuse(**fields).param == param


def test_a_tool_that_runs_at_the_provider_is_refused_with_a_word_on_why() -> None:
    """It would act where nobody here sees it."""
    error = refuse(tools=[TOOL, {"type": "code_execution_20250825", "name": "code_execution"}])
    assert (error.code, error.param) == ("server_tool", "tools[1].type")
    assert "tools of your own" in error.message


def test_a_count_needs_no_bound() -> None:
    """The same prompt without what only an answer needs."""
    asked = {"model": "m", "system": "s", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL]}
    call = DIALECT.decode_count(json.dumps(asked).encode())
    assert call.messages == (Message("system", "s"), Message("user", "hi"))
    assert call.max_tokens is None


@given(st.binary(max_size=200), st.data())
@settings(max_examples=200, deadline=None)
def test_nothing_but_a_typed_refusal_comes_out(noise: bytes, data: st.DataObject) -> None:
    """Noise, and good bodies cut and filled with it."""
    good = body(system="s", tools=[TOOL], **say({"type": "text", "text": "x"}))
    at = data.draw(st.integers(0, len(good)))
    for candidate in (noise, good[:at], good[:at] + noise + good[at:]):
        with contextlib.suppress(InvalidRequest):
            DIALECT.decode_request(candidate)
