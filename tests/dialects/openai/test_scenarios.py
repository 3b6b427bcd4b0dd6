"""Promises of the security research (section 6) and lessons of table 3.3, as far as a codec can keep them.

Sockets, limits of bodies and breakers have their own tests; here: the same bytes, in and out of this dialect.
"""

import json
from typing import Any

import pytest

from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import InvalidRequest, UpstreamFailed
from gatehouse.dialects._forbidden import FORBIDDEN
from gatehouse.dialects.openai import OpenAIDialect, StreamDecoder, decode_answer, decode_error

DIALECT = OpenAIDialect()
CALL = Call(model="m", stream=True)
HEAD = b'{"model":"m","messages":[{"role":"user","content":"x"}]'
STOP = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


def told(body: bytes) -> dict[str, Any]:
    """The error a caller gets for `body`: always a 400 of less than a kilobyte."""
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(body)
    status, answer = DIALECT.encode_error(caught.value, "req_1")
    assert status == 400
    assert len(answer) < 1024
    error: dict[str, Any] = json.loads(answer)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["request_id"] == "req_1"
    return error


def with_tool(schema: str) -> bytes:
    return HEAD + b',"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]}' % schema.encode()


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b"", "byte 0"),
        (b"{", "byte 1"),
        (b"\xef\xbb\xbf" + HEAD + b"}", "byte 0"),
        ((HEAD + b"}").decode().encode("utf-16"), "byte 0"),
        ((HEAD + b"}").decode().encode("utf-16-be"), "byte 0"),
        (HEAD + b"} x", "byte 58"),
        (HEAD + b"}{}", "byte 57"),
        (HEAD + b",}", "byte 56"),
        (HEAD + b",'n':1}", "byte 56"),
        (HEAD + b',"n":01}', "byte 61"),
        (HEAD + b',"user":"\x00"}', "byte 64"),
        (HEAD + b',"user":"\\u0000"}', "byte 64"),
        (HEAD + b',"user":"\\ud800 and more"}', "byte 70"),
        (HEAD + b',"user":"\\ud800"}', "byte 72"),
        (HEAD + b',"user":"\\udc00 and more"}', "byte 70"),
        (HEAD + b',"user":"\xed\xa0\x80"}', "byte 64"),
        (HEAD + b',"user":"\xc0\xaf"}', "byte 64"),
        (HEAD + b',"\xff":1}', "byte 57"),
    ],
    ids=str,
)
def test_scenario_01_broken_bodies(body: bytes, position: str) -> None:
    """Invalid JSON, byte-order marks, UTF-16, trailing bytes, NUL, lone surrogates, overlong UTF-8: 400 with the position."""
    assert position in told(body)["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap",' + HEAD[1:] + b"}",
        HEAD + b',"mod\\u0065l":"dear"}',
        HEAD + b',"user":"\\u003a","model":"dear"}',
        HEAD + b',"service_tier":"a","service_tier":"b"}',
        HEAD + b',"x":{"a":1,"a":1}}',
        b'{"model":"m","messages":[{"role":"user","content":"good","content":"bad"}]}',
        b'{"model":"m","messages":[{"role":"user","role":"user","content":"a"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"a: b","content":"a"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"a","content":"a: b"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"a: b"}],"messages":[{"role":"user","content":"a"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"max_tokens":5,"max_tokens":6}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"stream":null,"stream":true}',
        b'{"model":"m","messages":[{"role":"user","content":"a\\u003a"}],"stream":true,"stream":false}',
        with_tool('{"type":"object","type":"array"}'),
        with_tool('{"properties":{"a":{},"\\u0061":{}}}'),
        HEAD + b',"metadata":{"a":"1","a":"2"}}',
    ],
    ids=str,
)
def test_scenario_02_duplicate_json_keys(body: bytes) -> None:
    """At any depth and in any spelling: guard and target must not be able to read two different calls."""
    assert told(body)["code"] == "duplicate_key"


@pytest.mark.parametrize("field", ["temperature", "seed", "extra_one", "max_tokens", "logit_bias"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 40])
def test_scenario_03_numbers_that_are_none(field: str, number: str) -> None:
    """Not-a-numbers, infinities and integers beyond 64 bits, in known fields, in opaque ones and in schemas."""
    value = f'{{"1":{number}}}' if field == "logit_bias" else number
    told(HEAD + f',"{field}":{value}}}'.encode())
    told(with_tool(f'{{"maximum":{number}}}'))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        HEAD + b',"x":' + b"[" * 100_000,
        HEAD + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        HEAD + b',"x":' + b"[" * 100 + b"]" * 100 + b"}",
        HEAD + b',"tools":' + b"[" * 100_000,
        with_tool('{"items":' * 100_000),
        with_tool('{"items":' * 100 + "{}" + "}" * 100),
        b'{"model":"m","messages":[{"role":"user","content":' + b"[" * 100_000,
    ],
    ids=lambda body: str(body[-70:]),
)
def test_scenario_04_depth_bombs(body: bytes) -> None:
    """10^5 levels of nesting are refused, where the shape is known and where it is opaque."""
    told(body)


def test_scenario_12_every_other_character_is_carried() -> None:
    """Tag characters, bidirectional marks and paired surrogates are text for the guard to judge; never a fault."""
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d\\ude00\\udb40\\udc41\\u202e\xe2\x80\x8b"}]}'
    assert DIALECT.decode_request(body).messages == (Message("user", "\U0001f600\U000e0041\u202e\u200b"),)


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_scenario_13_forbidden_fields_at_any_depth(name: str) -> None:
    """Rows 16, 17 and 33: redirecting fields are refused by name at the top, inside listed objects, messages, tools, metadata."""
    field = name.encode()
    places = {
        name: HEAD + b',"%s":null}' % field,
        f"web_search_options.a[0].{name}": HEAD + b',"web_search_options":{"a":[{"%s":"http://evil"}]}}' % field,
        f"messages[0].{name}": b'{"model":"m","messages":[{"role":"user","content":"x","%s":1}]}' % field,
        f"tools[0].{name}": HEAD + b',"tools":[{"type":"function","function":{"name":"f"},"%s":1}]}' % field,
        f"tools[0].function.{name}": HEAD + b',"tools":[{"type":"function","function":{"name":"f","%s":1}}]}' % field,
        f"tools[0].function.parameters.items.{name}": with_tool(f'{{"items":{{"{name}":1}}}}'),
        f"metadata.{name}": HEAD + b',"metadata":{"%s":"1"}}' % field,
        f"stream_options.{name}": HEAD + b',"stream":true,"stream_options":{"%s":true}}' % field,
        f"response_format.json_schema.{name}": HEAD
        + b',"response_format":{"type":"json_schema","json_schema":{"name":"a","%s":1}}}' % field,
    }
    for param, body in places.items():
        error = told(body)
        assert error["param"] == param
        assert name in error["message"]


@pytest.mark.parametrize("path", ["unknown", "messages[0].unknown"])
def test_scenario_13_unknown_fields(path: str) -> None:
    """At the top they are set apart for Route to judge; inside anything they are refused by name."""
    if path == "unknown":
        assert DIALECT.decode_request(HEAD + b',"unknown":1}').extra == {"unknown": 1}
    else:
        assert told(b'{"model":"m","messages":[{"role":"user","content":"x","unknown":1}]}')["param"] == path


@pytest.mark.parametrize(
    "field",
    [
        '"max_tokens":-1',
        '"max_tokens":0',
        '"max_tokens":99999999999',
        '"max_completion_tokens":-5',
        '"n":-1',
        '"n":1000000',
        '"temperature":-1',
        '"temperature":100',
        '"temperature":"1"',
        '"top_p":7',
        '"stop":[' + '"a",' * 16 + '"b"]',
        '"stop":{"a":1}',
        '"stop":[""]',
        '"logit_bias":{"1":1000}',
        '"logit_bias":{"x":1}',
        '"logit_bias":[1]',
        '"presence_penalty":3',
    ],
)
def test_scenario_14_parameters_out_of_range(field: str) -> None:
    """Refused at the edge, naming the field; never sent upstream."""
    assert str(told(HEAD + f",{field}}}".encode())["param"]).split("[")[0] in field


@pytest.mark.parametrize(
    "schema",
    [
        '{"$ref":"#"}',
        '{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
        '{"properties":{"next":{"$ref":"#"}}}',
        '{"description":"%s"}' % ("x" * 10_000_000),
        '{"enum":[%s0]}' % ("[]," * 100_000),
        '{"properties":{"a":{"pattern":"^(a+)+$"}}}',
        '{"allOf":[%s{}]}' % ('{"pattern":"[[[[[[(a|a)*"},' * 5_000),
        '{"allOf":[%s{"$ref":"#/allOf"}]}' % ('{"$ref":"#/$defs/x"},' * 8_000),
        '{"' + "k" * 100_000 + '":[' + "{}," * 30_000 + '{"api_base":1}]}',
    ],
    ids=lambda schema: schema[:40],
)
def test_scenario_15_tool_schemas(schema: str) -> None:
    """Circles, megabytes, regex bombs, and what would take minutes if any walk here were not linear: refused."""
    assert str(told(with_tool(schema))["param"]).startswith("tools[0].function.parameters")


@pytest.mark.parametrize("cut", range(1, 60, 7))
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_scenario_25_streams_cut_anywhere(cut: int, end: bytes) -> None:
    """CRLF, CR, comments, several data lines, a character cut in two: the same text (the property test has every cut)."""
    lines = [
        b": ping",
        b"event: chunk",
        b'data: {"choices":[{"index":0,"delta":{"content":',
        b'data: "\xc3\xa9\xf0\x9f\x98\x80"},',
        b'data: "finish_reason":"stop"}]}',
        b"",
        b"data: [DONE]",
        b"",
        b"",
    ]
    stream = end.join(lines)
    decoder = StreamDecoder()
    events = [event for at in range(0, len(stream), cut) for event in decoder.feed(stream[at : at + cut])]
    decoder.close()
    assert [delta.text for event in events for delta in event.choices] == ["é😀"]


@pytest.mark.parametrize(
    "tail", [b"", b"data: [DONE]\n\n", b"data: [DONE]\n\ndata: [DONE]\n\n", b"data: [DONE]\n\n" + STOP, b"data: [DONE]\n\n<html>"]
)
def test_scenario_26_ends_of_streams(tail: bytes) -> None:
    """Missing, doubled, followed by data: one terminal event for the client, the rest dropped."""
    decoder = StreamDecoder()
    events = decoder.feed(STOP + tail)
    decoder.close()
    sent = b"".join(DIALECT.open_stream(CALL, "req_1").event(event, None) for event in events) + DIALECT.open_stream(CALL, "req_1").end()
    assert sent == STOP + b"data: [DONE]\n\n"


def test_scenario_23_a_broken_stream_never_ends_like_a_finished_one() -> None:
    """After the first token: an error frame with the request id, and no [DONE]."""
    decoder = StreamDecoder()
    decoder.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    with pytest.raises(UpstreamFailed) as caught:
        decoder.close()
    frame = DIALECT.open_stream(Call(model="m"), "req_1").error(caught.value)
    assert json.loads(frame[6:])["error"]["code"] == "upstream_broken"
    assert b"[DONE]" not in frame


@pytest.mark.parametrize("chunk", [b"data: {secret\n\n", b"data: secret\n\n", b'data: {"choices":[{"delta":"secret"}]}\n\n'])
def test_scenario_27_invalid_chunks(chunk: bytes) -> None:
    """A typed failure that quotes nothing of what the target sent."""
    decoder = StreamDecoder()
    with pytest.raises(UpstreamFailed) as caught:
        decoder.feed(chunk)
    status, body = DIALECT.encode_error(caught.value, "req_1")
    assert status == 502
    assert b"secret" not in body
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("body", [b"", b"<!doctype html><title>secret</title>", b"{}", b"null", b'"secret"', b"\x1f\x8b\x08"])
def test_scenario_28_answers_that_are_none(body: bytes) -> None:
    """200 with HTML or nothing is a failure of the target, streamed or not."""
    with pytest.raises(UpstreamFailed) as whole:
        decode_answer(body)
    decoder = StreamDecoder()
    with pytest.raises(UpstreamFailed) as streamed:  # noqa: PT012 - which of the two fails depends on the body
        decoder.feed(body)
        decoder.close()
    for caught in (whole, streamed):
        status, answer = DIALECT.encode_error(caught.value, "req_1")
        assert status == 502
        assert b"secret" not in answer


@pytest.mark.parametrize(
    "usage", ['{"prompt_tokens":-1,"completion_tokens":1}', '{"prompt_tokens":1000000000000,"completion_tokens":1}', "null", '"x"', "{}"]
)
def test_scenario_29_absurd_usage(usage: str) -> None:
    """No count is better than a false one: whoever accounts counts for itself."""
    answer = decode_answer(b'{"choices":[{"message":{"content":"a"}}],"usage":%s}' % usage.encode())
    assert answer.usage is None
    decoder = StreamDecoder()
    events = decoder.feed(STOP + b'data: {"choices":[],"usage":%s}\n\n' % usage.encode())
    decoder.close()
    assert all(event.usage is None for event in events)


def test_scenario_30_and_31_refusals_of_targets() -> None:
    """Retry-After is honoured with a cap; a refused credential is told without any detail of it."""
    assert decode_error(429, {b"retry-after": b"1000000000"}, b"").retry_after == 300
    failure = decode_error(401, {}, b'{"error":{"message":"Incorrect API key provided: sk-live-1234567890"}}')
    status, body = DIALECT.encode_error(failure, "req_1")
    assert status == 502
    assert b"key" not in body
    assert b"sk-" not in body
    assert "sk-" not in failure.detail
