"""Requests for chat completions: golden bytes, round trips, ranges, and that nothing but a typed refusal ever comes out."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call, Message, ToolChoice
from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects.openai import OpenAIDialect, encode_request
from gatehouse.dialects.openai.profiles import OPENAI
from tests.dialects.openai.strategies import calls, json_values, text

GOLDEN = Path(__file__).parent / "golden" / "requests"
DIALECT = OpenAIDialect()
MINIMAL: dict[str, Any] = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object"}}}


def body(**fields: Any) -> bytes:
    """A small good body with `fields` set."""
    return json.dumps({**MINIMAL, **fields}).encode()


def decode(**fields: Any) -> Call:
    return DIALECT.decode_request(body(**fields))


def refuse(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


def say(**message: Any) -> InvalidRequest:
    return refuse(messages=[message])


@pytest.mark.parametrize("name", ["default", "image", "tools", "tool_history", "everything"])
def test_documented_requests_leave_as_golden_bytes(name: str) -> None:
    """A body of the API's documentation is decoded and written for a target as the bytes kept beside it."""
    call = DIALECT.decode_request((GOLDEN / f"{name}.in.json").read_bytes())
    assert encode_request(call, "target-model") == (GOLDEN / f"{name}.out.json").read_bytes()


@given(calls())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_encoded_decodes_to_the_same_call(call: Call) -> None:
    """decode(encode(call)) == call, so guard, cache key and target agree on what was asked."""
    assert DIALECT.decode_request(encode_request(call, call.model)) == call


@given(calls())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_outgoing_body_has_no_ambiguity(call: Call) -> None:
    """Python's own parser reads what we write, with no key twice and our fields above the extra ones."""
    written = json.loads(encode_request(call, "target"), object_pairs_hook=lambda pairs: pairs)
    names = [name for name, _ in written]
    assert len(names) == len(set(names))
    assert dict(written)["model"] == "target"


def objects(value: Any) -> list[dict[str, Any]]:
    """Every object inside `value` that has members."""
    inner = [
        found for item in (value.values() if isinstance(value, dict) else value) if isinstance(item, dict | list) for found in objects(item)
    ]
    return [value, *inner] if isinstance(value, dict) and value else inner


def repeats(text: str) -> bool:
    """Whether an object of `text` has a key twice, by Python's own parser."""
    found = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(len(pairs) != len(dict(pairs)))
        return dict(pairs)

    json.loads(text, object_pairs_hook=look)
    return any(found)


def spelled(value: Any, repeated: tuple[int, str]) -> str:
    """`value` as JSON, with one member of one object (by identity) written twice."""
    if isinstance(value, dict):
        names = [*value, repeated[1]] if id(value) == repeated[0] else list(value)
        return "{" + ",".join(f"{json.dumps(name)}:{spelled(value[name], repeated)}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(spelled(item, repeated) for item in value) + "]"
    return json.dumps(value)


@given(calls(), st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_no_repeated_key_gets_past_any_shape(call: Call, data: st.DataObject) -> None:
    """One key of a good body is repeated while another member is left out or nulled: it is always refused."""
    body = json.loads(encode_request(call, "m"))
    twice = data.draw(st.sampled_from(objects(body)))
    name = data.draw(st.sampled_from(sorted(twice)))
    tagged = [found for found in objects(body) if "type" in found or "role" in found]
    harmed = data.draw(st.sampled_from([*tagged, body]))
    member = data.draw(st.sampled_from(sorted({"type", "role"} & set(harmed)) or sorted(harmed)))
    if harmed is not twice or member != name:
        data.draw(st.sampled_from([harmed.pop, lambda key: harmed.update({key: None})]))(member)
    written = spelled(body, (id(twice), name))
    assume(repeats(written))
    with pytest.raises(InvalidRequest):
        DIALECT.decode_request(written.encode())


@pytest.mark.parametrize(
    "fields",
    [
        '"tools":[{"function":{"name":"f"}}]',
        '"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"function":{"name":"f"}}',
        '"response_format":{}',
        '"messages":[{"role":"system","content":[{"text":"x"}]}]',
        '"messages":[{"role":"assistant","content":[{"text":"x"}]}]',
        '"messages":[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":""}}]}]',
        '"messages":[{"content":"x"}]',
    ],
)
def test_a_type_that_is_left_out_is_missed(fields: str) -> None:
    """Nothing is guessed: a guessed member would also be a member too many in the search for repeated keys."""
    start = '{"model":"m"' if "messages" in fields else '{"model":"m","messages":[{"role":"user","content":"x"}]'
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(f"{start},{fields}}}".encode())
    assert caught.value.code == "missing_field"


def test_an_extra_field_cannot_overwrite_ours() -> None:
    """`extra` is merged below what the call says, whoever filled it."""
    call = Call(model="m", messages=(Message("user", "hi"),), extra={"model": "other", "stream": True, "verbosity": "low"})
    assert json.loads(encode_request(call, "target")) == {
        "model": "target", "stream": True, "verbosity": "low", "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip


def test_a_stream_is_always_asked_for_its_usage() -> None:
    """Whatever the client asked for: accounting needs it."""
    sent = json.loads(encode_request(decode(stream=True), "m"))
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_output_bound_goes_under_the_name_the_target_knows(field: str) -> None:
    """max_tokens and max_completion_tokens are one thing in core."""
    call = decode(**{field: 7})
    assert call.max_tokens == 7
    assert json.loads(encode_request(call, "m", OPENAI))["max_completion_tokens"] == 7
    assert json.loads(encode_request(call, "m"))["max_tokens"] == 7


def test_both_output_bounds_must_agree() -> None:
    """The same twice is fine, two different ones are not."""
    assert decode(max_tokens=7, max_completion_tokens=7).max_tokens == 7
    assert refuse(max_tokens=7, max_completion_tokens=8).param == "max_completion_tokens"


def test_streams_are_not_padded() -> None:
    """To say so is fine, to ask for it is not."""
    assert decode(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).include_usage
    assert refuse(stream=True, stream_options={"include_obfuscation": True}).param == "stream_options.include_obfuscation"
    assert refuse(stream_options={"include_obfuscation": False}).param == "stream_options"


def test_explicit_nulls_are_absent_fields() -> None:
    """Every optional field, known or not, may be null."""
    optional = [
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "n", "max_tokens", "max_completion_tokens", "stop", "temperature",
        "top_p", "frequency_penalty", "presence_penalty", "seed", "logprobs", "top_logprobs", "logit_bias", "reasoning_effort", "user",
        "metadata", "stream", "stream_options", "service_tier", "store", "functions",
    ]  # fmt: skip
    assert decode(**dict.fromkeys(optional)) == decode()
    for name in optional:
        assert decode(**{name: None}) == decode()


def test_a_single_stop_text_is_a_list_of_one() -> None:
    """`stop` may be text or a list."""
    assert decode(stop="END").stop == ("END",)
    assert decode(stop=["a", "b"]).stop == ("a", "b")
    assert decode(stop=[]).stop == ()


def test_unknown_top_level_fields_are_kept_apart() -> None:
    """They land in `extra`, where Route refuses what the model does not list."""
    extra = {"service_tier": "auto", "verbosity": "low", "web_search_options": {"user_location": {"city": "Rome"}}}
    assert decode(**extra).extra == extra


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10_000_001}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": [7]}, "stop[0]"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {"a" * 65: ""}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata[...]"),
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"model": "m\n"}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options.include_usag"),
        ({"user": "u" * 513}, "user"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "no good"}}}, "response_format.json_schema.name"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"tools": [TOOL] * 2}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "lookup", "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [TOOL]}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}, "tools": [TOOL]}, "tool_choice.type"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Nothing that a target would choke on is sent to it; the refusal says which field."""
    error = refuse(**fields)
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "function", "name": "f", "content": "1"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "video", "video": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}, "messages[0].content[0].cache_control"),
        ({"role": "user", "content": [{"type": "file", "file": {"filename": "a"}}]}, "messages[0].content[0].file"),
        ({"role": "user", "content": "hi", "name": "<|im_start|>"}, "messages[0].name"),
        ({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "messages[0].content[0].type"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "messages[0].function_call"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"id": "1", "type": "function"}]}, "messages[0].tool_calls[0].function"),
        ({"role": "tool", "content": "1"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "1", "tool_call_id": ""}, "messages[0].tool_call_id"),
    ],
    ids=str,
)
def test_messages_must_be_whole(message: dict[str, Any], param: str) -> None:
    """Each role has its shape, and a fault inside names its path."""
    assert say(**message).param == param


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.com/a", "//example.com/a", "javascript:alert(1)", "", "https://a b", "https://" + "a" * 9000],
)
def test_images_come_by_data_or_web_address_only(url: str) -> None:
    """No other scheme is ever passed to a target that would open it."""
    error = say(role="user", content=[{"type": "image_url", "image_url": {"url": url}}])
    assert error.param == "messages[0].content[0].image_url.url"


def test_a_named_tool_is_required() -> None:
    """A choice by name means this tool must be called."""
    assert decode(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "lookup"}}).tool_choice == ToolChoice(
        "required", "lookup"
    )


def test_the_answer_of_an_sdk_may_come_back_as_history() -> None:
    """What `message.model_dump()` of the official client gives, nulls and empty lists included."""
    history: dict[str, Any] = {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    assert decode(messages=[history]).messages == (Message("assistant", "4"),)


@given(json_values)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_gives_a_call_or_a_refusal(value: Any) -> None:
    """Whatever well-formed JSON the body is."""
    try:
        DIALECT.decode_request(msgspec.json.encode(value))
    except InvalidRequest as error:
        assert len(DIALECT.encode_error(error, "req")[1]) < 1024


@given(
    st.dictionaries(
        st.sampled_from(sorted({*MINIMAL, "tools", "stop", "n", "metadata", "logit_bias", "tool_choice", "extra"})), json_values, min_size=1
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_field_may_be_anything(fields: dict[str, Any]) -> None:
    """A good body with some fields replaced by anything gives a call or a refusal of less than a kilobyte."""
    try:
        DIALECT.decode_request(msgspec.json.encode({**MINIMAL, **fields}))
    except InvalidRequest as error:
        assert len(DIALECT.encode_error(error, "req")[1]) < 1024


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 20))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_body_gives_a_call_or_a_refusal(damage: bytes, at: int, length: int) -> None:
    """Bytes written over a good body never raise anything but a typed refusal."""
    whole = body(stop=['a\\"b', "\u00e9"], tools=[TOOL], extra={"a": [1, {"b": None}]})
    broken = whole[:at] + damage + whole[at + length :]
    try:
        DIALECT.decode_request(broken)
    except InvalidRequest as error:
        assert len(DIALECT.encode_error(error, "req")[1]) < 1024


@given(text)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_text_arrives_unchanged(content: str) -> None:
    """Every character that UTF-8 and JSON can carry, but NUL."""
    assert decode(messages=[{"role": "user", "content": content}]).messages[0].content == content
