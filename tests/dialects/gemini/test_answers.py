"""Gemini's answers, whole and streamed, and its token counts. Where the golden files come from is in golden/README.md."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import ToolCall
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Choice, ChoiceDelta, Chunk, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects.gemini import StreamDecoder, decode_answer
from gatehouse.dialects.gemini.usage import read_usage
from tests.dialects.piecewise import cut, fail, read, whole

GOLDEN = Path(__file__).parent / "golden"
STREAMS = ["thinking", "tools", "every_piece_ends"]


def reply(*parts: dict[str, Any], finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "responseId": "r", **fields}


def body(*parts: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(reply(*parts, **fields)).encode()


def frame(*parts: dict[str, Any], **fields: Any) -> bytes:
    return b"data: " + body(*parts, **fields) + b"\r\n\r\n"


def stream_of(name: str) -> bytes:
    return (GOLDEN / "streams" / f"{name}.sse").read_bytes()


# Whole answers


def test_a_documented_answer() -> None:
    """Text, ids and counts; the signature of a text may be left out by the API's own word."""
    answer = decode_answer((GOLDEN / "answers" / "text.json").read_bytes())
    assert answer.choices == (Choice(0, "1+1 equals 2.", finish="stop"),)
    assert (answer.id, answer.model, answer.usage) == ("Il0taoSYJ5Cez7", "gemini-3.1-flash-lite", Usage(input=15, output=6))
    assert (answer.raw, answer.dialect) == (b"", "gemini")


def test_documented_calls_of_tools() -> None:
    """Arguments as they were written, an id for the call that has none, reasoning apart, its proof under our name for it."""
    answer = decode_answer((GOLDEN / "answers" / "tools.json").read_bytes())
    (choice,) = answer.choices
    assert [(tool.id, tool.name, json.loads(tool.arguments)) for tool in choice.tools] == [
        ("call_xRS0aZC5BNHVz7IPuaO42Qk_0", "get_current_temperature", {"location": "Paris"}),
        ("gp737npz", "get_current_temperature", {"location": "London"}),
    ]
    assert (choice.text, choice.reasoning, choice.signature, choice.finish) == (
        None,
        "Checking both.",
        "gemini:Es8CCswCAb4example00",
        "tool_calls",
    )
    assert answer.usage == Usage(input=252, output=18, reasoning=55)


def test_a_blocked_prompt_is_an_answer_that_a_filter_ended() -> None:
    """Not an error: another provider is not asked to do what this one would not."""
    answer = decode_answer((GOLDEN / "answers" / "blocked.json").read_bytes())
    assert answer.choices == (Choice(0, "", finish="content_filter"),)
    assert answer.usage == Usage(input=9)
    event = read(
        StreamDecoder(), b"data: " + msgspec.json.encode(json.loads((GOLDEN / "answers" / "blocked.json").read_bytes())) + b"\n\n"
    )[0]
    assert isinstance(event, Chunk)
    assert (event.choices, event.usage) == ((ChoiceDelta(0, finish="content_filter", begins=True),), Usage(input=9))


def test_arguments_are_the_very_text() -> None:
    """Spacing and numbers included; a call without any has none."""
    raw = body({"functionCall": {"name": "f", "args": {}}}, {"functionCall": {"name": "g"}}).replace(b'"args": {}', b'"args": {"a" : 1.0}')
    assert decode_answer(raw).choices[0].tools == (ToolCall("call_r_0", "f", '{"a" : 1.0}'), ToolCall("call_r_1", "g", "{}"))


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("OTHER", "stop"),
        ("A_NEW_WORD", "stop"),
    ],
)
def test_reasons_to_end(said: str, finish: str) -> None:
    """In core's words, alike whole and streamed."""
    assert decode_answer(body({"text": "x"}, finish=said)).choices[0].finish == finish
    (event,) = read(StreamDecoder(), frame({"text": "x"}, finish=said))
    assert isinstance(event, Chunk)
    assert event.choices[0].finish == finish


@pytest.mark.parametrize("said", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"])
def test_an_end_that_nobody_can_use_is_a_failure(said: str) -> None:
    """So that another target can be tried."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(body(finish=said))
    assert (caught.value.code, caught.value.caller_fault) == ("upstream_invalid", False)
    assert fail(StreamDecoder(), frame({"text": "x"}, finish=None), frame(finish=said))[1].code == "upstream_invalid"


@pytest.mark.parametrize(
    "part", [{"inlineData": {"mimeType": "image/png", "data": "QUJD"}}, {"executableCode": {}}, {"fileData": {"fileUri": "gs://x"}}]
)
def test_a_part_that_cannot_be_carried_is_a_failure(part: dict[str, Any]) -> None:
    """It was paid for and would be lost without a word."""
    with pytest.raises(UpstreamFailed, match="could not be understood"):
        decode_answer(body({"text": "x"}, part))
    assert decode_answer(body({"text": "x"}, {}, {"thoughtSignature": "s"})).text == "x"


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b"{", b'{"candidates":[]}', b'{"candidates":[{"content":{"parts":[{"text":3}]}}]}', b'{"candidates":"secret"}'],
)
def test_what_is_no_answer_is_a_typed_failure(raw: bytes) -> None:
    """Never a fault of ours, never quoted."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(raw)
    assert caught.value.code == "upstream_invalid"
    assert "secret" not in caught.value.message + caught.value.detail


def test_an_unfinished_answer_is_broken() -> None:
    """A candidate without a reason to end was cut off."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(body({"text": "x"}, finish=None))
    assert caught.value.code == "upstream_broken"


def test_log_probabilities_in_openais_shape() -> None:
    """What core carries opaquely is OpenAI's."""
    told = {
        "chosenCandidates": [{"token": "é", "tokenId": 7, "logProbability": -0.5}, {"token": "b", "logProbability": -1.0}],
        "topCandidates": [{"candidates": [{"token": "é", "logProbability": -0.5}, {"token": "x", "logProbability": -2}]}],
    }
    raw = json.loads(body({"text": "éb"}))
    raw["candidates"][0]["logprobsResult"] = told
    assert decode_answer(json.dumps(raw).encode()).choices[0].logprobs == {
        "content": [
            {
                "token": "é",
                "logprob": -0.5,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}, {"token": "x", "logprob": -2.0, "bytes": [120]}],
            },
            {"token": "b", "logprob": -1.0, "bytes": [98], "top_logprobs": []},
        ]
    }
    raw["candidates"][0]["logprobsResult"] = "none"
    assert decode_answer(json.dumps(raw).encode()).choices[0].logprobs is None


# Streams


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(places=st.lists(st.integers(0, 3_000), max_size=20), comments=st.booleans())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_cut_of_a_stream_gives_the_same_events(name: str, end: bytes, places: list[int], comments: bool) -> None:
    """Any split, any line end, comments between."""
    plain = stream_of(name).replace(b"\r\n", b"\n")
    stream = (plain.replace(b"data: ", b": ping\ndata:") if comments else plain).replace(b"\n", end)
    assert read(StreamDecoder(), *cut(stream, places)) == read(StreamDecoder(), plain)


@pytest.mark.parametrize("name", STREAMS)
def test_the_pieces_are_the_whole(name: str) -> None:
    """Concatenated deltas equal the answer of the same parts, arguments included."""
    frames = [json.loads(line[6:]) for line in stream_of(name).splitlines() if line]
    parts = [part for piece in frames for part in piece["candidates"][0]["content"]["parts"]]
    together = {**frames[-1], "candidates": [{"content": {"parts": parts}, "finishReason": "STOP", "index": 0}]}
    expected = decode_answer(json.dumps(together).encode())
    assert msgspec.structs.replace(whole(read(StreamDecoder(), stream_of(name))), dialect="gemini") == expected


def test_a_stream_of_thoughts() -> None:
    """Reasoning, text, one end, and the counts with it: before the end only the first are told, as counts so far."""
    events = read(StreamDecoder(), stream_of("thinking"))
    counts = [(event.usage, event.interim) for event in events if isinstance(event, Chunk)]
    assert counts == [
        (Usage(input=4, reasoning=20), True),
        (None, False),
        (None, False),
        (Usage(input=4, output=7, reasoning=24), False),
    ]
    answer = whole(events)
    assert (answer.text, answer.choices[0].reasoning) == ("1+1 equals 2.", "**Simple sum**\n\nAdding.")


def test_old_models_end_with_every_piece() -> None:
    """What follows a reason to end is read on, and the reason told once."""
    events = read(StreamDecoder(), stream_of("every_piece_ends"))
    assert [delta.finish for event in events if isinstance(event, Chunk) for delta in event.choices] == ["stop", None, None]
    assert whole(events).text.endswith("Whiskers. 冒险伙伴.")


def test_counts_that_come_after_the_end_are_taken() -> None:
    """As a piece without a candidate; one before the end is a count so far."""
    last = b'data: {"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4},"candidates":[]}\n\n'
    events = read(StreamDecoder(), last, frame({"text": "x"}), last)
    counts = [(event.usage, event.interim) for event in events if isinstance(event, Chunk)]
    assert counts == [(Usage(input=3, output=4), True), (None, False), (Usage(input=3, output=4), False)]


@pytest.mark.parametrize("tail", [b"", b"data: ", b"data: {", b": bye\n"])
def test_a_stream_that_stops_in_the_middle_is_broken(tail: bytes) -> None:
    """There is no last word: without a reason to end it must not look finished."""
    events, failed = fail(StreamDecoder(), frame({"text": "x"}, finish=None), tail)
    assert (len(events), failed.code) == (1, "upstream_broken")


@pytest.mark.parametrize("unsaid", ["", "FINISH_REASON_UNSPECIFIED"])
def test_an_unsaid_reason_is_no_end(unsaid: str) -> None:
    """The API's word for none: a stream that ends after it broke off."""
    assert fail(StreamDecoder(), frame({"text": "x"}, finish=unsaid))[1].code == "upstream_broken"
    assert len(read(StreamDecoder(), frame({"text": "x"}, finish=unsaid) + frame({"text": "y"}))) == 2


def test_a_stream_that_stops_inside_a_piece_is_broken() -> None:
    """Even after a reason to end: more was being said."""
    assert fail(StreamDecoder(), frame({"text": "x"}), b'data: {"candidates":[{"con')[1].code == "upstream_broken"


def test_every_choice_has_to_end() -> None:
    """With two asked for, one reason is not enough."""
    assert fail(StreamDecoder(2), frame({"text": "x"}))[1].code == "upstream_broken"
    second = reply({"text": "y"})
    second["candidates"][0]["index"] = 1
    events = read(StreamDecoder(2), frame({"text": "x"}), b"data: " + json.dumps(second).encode() + b"\n\n")
    assert [choice.text for choice in whole(events).choices] == ["x", "y"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b'data: {"error":{"code":503,"message":"secret","status":"UNAVAILABLE"}}\n\n', "upstream_overloaded"),
        (b'data: {"error":{"message":"secret","status":"RESOURCE_EXHAUSTED"}}\n\n', "upstream_overloaded"),
        (b'data: {"error":"secret"}\n\n', "upstream_rejected"),
        (b"data: secret\n\n", "upstream_invalid"),
        (b"data: [1]\n\n", "upstream_invalid"),
        (b'data: {"candidates":[{"content":{"parts":[3]}}]}\n\n', "upstream_invalid"),
        (b'data: {"candidates":[{"content":{"parts":[{"text":"\xff"}]}}]}\n\n', "upstream_invalid"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "upstream_invalid"),
        (b"data: " + b"x" * 5_000_000, "upstream_invalid"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_piece_fails_after_what_came_before(bad: bytes, code: str) -> None:
    """Errors inside a 200, garbage, an event that never ends: nothing of it is quoted."""
    events, failed = fail(StreamDecoder(), frame({"text": "x"}, finish=None), bad)
    assert (len(events), failed.code) == (1, code)
    assert "secret" not in failed.message + failed.detail


def test_after_a_failure_nothing_is_read() -> None:
    """The failure waits for the next feed, and for close."""
    decoder = StreamDecoder()
    assert len(decoder.feed(frame({"text": "x"}, finish=None) + b"data: {oops}\n\n")) == 1
    assert decoder.finished
    for again in (lambda: decoder.feed(frame({"text": "y"})), decoder.close):
        with pytest.raises(UpstreamFailed):
            again()


pieces = st.lists(
    st.one_of(
        st.builds(lambda text: {"text": text}, st.text(max_size=8)),
        st.builds(lambda text: {"text": text, "thought": True}, st.text(max_size=8)),
        st.builds(lambda name: {"functionCall": {"name": name, "args": {"x": name}}}, st.text(min_size=1, max_size=5)),
    ),
    max_size=6,
)


@given(pieces, st.lists(st.integers(0, 2_000), max_size=10))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_stream_of_any_parts_is_the_answer_of_them(parts: list[dict[str, Any]], places: list[int]) -> None:
    """However they are spread over pieces and bytes."""
    try:
        body(*parts).decode("utf-8")
    except UnicodeEncodeError:
        return
    stream = b"".join([frame(part, finish=None) for part in parts]) + frame(finish="STOP")
    assert msgspec.structs.replace(whole(read(StreamDecoder(), *cut(stream, places))), dialect="gemini") == decode_answer(body(*parts))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_a_fault_of_ours(data: bytes) -> None:
    """Whatever comes is events or a typed failure."""
    for stream in (data, b"data: " + data.replace(b"\n", b" ") + b"\n\n"):
        decoder = StreamDecoder()
        events: list[Event] = []
        try:
            events += decoder.feed(stream)
            decoder.close()
        except UpstreamFailed:
            continue
        assert events


# Counts


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}, Usage(input=10, output=5)),
        (
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 64,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 7,
                "totalTokenCount": 112,
            },
            Usage(input=36, cached_input=64, output=5, reasoning=7),
        ),
        (
            {"promptTokenCount": 10, "toolUsePromptTokenCount": 4, "candidatesTokenCount": 1, "totalTokenCount": 15},
            Usage(input=14, output=1),
        ),
        (
            {
                "promptTokenCount": 50,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 18}, {"modality": "AUDIO", "tokenCount": 32}],
                "candidatesTokenCount": 20,
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 20}],
                "totalTokenCount": 70,
            },
            Usage(input=18, audio_input=32, audio_output=20),
        ),
        (
            {
                "promptTokenCount": 50,
                "cachedContentTokenCount": 40,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 32}],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
                "totalTokenCount": 50,
            },
            Usage(input=8, cached_input=40, audio_input=2),
        ),
        ({"promptTokenCount": 10, "totalTokenCount": 30}, Usage(input=10, reasoning=20)),
    ],
)
def test_counts_fall_into_disjoint_buckets_that_sum_to_the_total(told: dict[str, Any], usage: Usage) -> None:
    """Fields as in https://ai.google.dev/api/generate-content#UsageMetadata."""
    assert read_usage(json.dumps(told).encode()) == usage
    assert usage.total == told["totalTokenCount"]


@given(st.builds(lambda *n: n, *[st.integers(0, 1000)] * 8))
def test_no_buckets_are_negative_or_lose_tokens(numbers: tuple[int, ...]) -> None:
    """Whatever honest or foolish counts come."""
    prompt, cached, out, thoughts, tools, audio, audio_out, audio_cached = numbers
    told = {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": out,
        "thoughtsTokenCount": thoughts,
        "toolUsePromptTokenCount": tools,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": audio}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": audio_out}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": audio_cached}],
    }
    usage = read_usage(json.dumps(told).encode())
    if usage is not None:
        assert min(msgspec.structs.astuple(usage)) >= 0
        assert usage.total == prompt + out + thoughts + tools


@pytest.mark.parametrize(
    "told",
    [
        {"promptTokenCount": -1},
        {"promptTokenCount": 10**12},
        {},
        [],
        "many",
        {"promptTokenCount": 5, "cachedContentTokenCount": 6},
        {"promptTokenCount": 5, "candidatesTokenCount": 6, "totalTokenCount": 7},
    ],
)
def test_absurd_counts_are_none(told: Any) -> None:
    """Whoever accounts then counts for itself; the answer around them stands."""
    assert read_usage(json.dumps(told).encode()) is None
    assert decode_answer(body({"text": "x"}, usageMetadata=told)).usage is None
    (event,) = read(StreamDecoder(), frame({"text": "x"}, usageMetadata=told))
    assert event.usage is None
