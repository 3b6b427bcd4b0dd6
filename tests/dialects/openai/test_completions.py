"""`/v1/completions` both ways: prompts of every kind, what is refused, answers and streams that pass as they came."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call
from gatehouse.core.collect import Collector
from gatehouse.core.errors import InvalidRequest, UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai import CompletionStreamDecoder, OpenAICompletionsDialect, decode_completion, encode_completion_request

DIALECT = OpenAICompletionsDialect()
LOGPROBS = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"b": -0.5}], "text_offset": [0, 1]}


def decode(prompt: Any = "once", **fields: Any) -> Call:
    return DIALECT.decode_request(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def refuse(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [
        ("once", ("once",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompts_of_every_kind(prompt: Any, inputs: Any) -> None:
    """A text, texts, token ids and lists of them: each prompt stands by itself, and the target gets what was sent."""
    call = decode(prompt)
    assert (call.operation, call.inputs, call.messages) == ("completion", inputs, ())
    sent = json.loads(encode_completion_request(call, "target"))["prompt"]
    assert sent == (prompt[0] if isinstance(prompt, list) and len(inputs) == 1 and isinstance(prompt[0], list) else prompt)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [2**31]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"n": 0}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": "a\nb"}, "model"),
        ({"api_base": "http://x"}, "api_base"),
    ],
)
def test_what_is_refused_names_its_field(fields: dict[str, Any], param: str) -> None:
    """Mixed kinds, empty lists, ids no vocabulary has, choices that are thrown away: a 400 with the field."""
    assert refuse(**fields).param == param


def test_defaults_of_the_api() -> None:
    """Sixteen tokens unless told; zero is a bound too; best_of is accepted where it asks for nothing; null is absence."""
    assert decode().max_tokens == 16
    assert decode(max_tokens=0, echo=True).max_tokens == 0
    assert decode(n=3, best_of=3).n == 3
    assert decode(best_of=1).n == 1
    assert decode(suffix="", stop=None, logprobs=None).logprobs is None
    call = decode(logprobs=0)
    assert (call.logprobs, call.top_logprobs) == (True, 0)
    assert decode(["a", "b"], n=2).choices == 4


def test_every_field_reaches_the_target() -> None:
    """What a caller may set is sent on, under the same name and value."""
    fields = {
        "suffix": " end", "max_tokens": 5, "n": 2, "echo": True, "logprobs": 3, "stop": ["x"], "temperature": 0.5, "top_p": 0.9,
        "frequency_penalty": 0.1, "presence_penalty": 0.2, "seed": 7, "logit_bias": {"5": -100}, "user": "u", "stream": True,
    }  # fmt: skip
    sent = json.loads(encode_completion_request(decode(**fields), "target"))
    assert sent == {"model": "target", "prompt": "once", **fields, "stream_options": {"include_usage": True}}


def test_unknown_fields_are_set_apart() -> None:
    """A top-level field we do not know lands in `extra` for Route to judge, and leaves with the request when it may."""
    call = decode(min_tokens=3)
    assert call.extra == {"min_tokens": 3}
    assert json.loads(encode_completion_request(call, "t"))["min_tokens"] == 3


def test_two_meanings_are_refused() -> None:
    """A key that comes twice is refused, as in every body."""
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(b'{"model":"m","prompt":"a","prompt":"b"}')
    assert caught.value.code == "duplicate_key"


def answer_body(**fields: Any) -> bytes:
    choice = {"text": " upon a time", "index": 0, "logprobs": None, "finish_reason": "length", **fields}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "fake", "choices": [choice]}
    return json.dumps({**body, "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}}).encode()


def test_an_answer_passes_as_it_came() -> None:
    """Its text, end and figures are read, and its bytes are what the caller gets."""
    body = answer_body(logprobs=LOGPROBS)
    answer = decode_completion(body)
    assert answer.choices == (Choice(0, " upon a time", finish="length", logprobs=LOGPROBS),)
    assert (answer.usage, answer.opaque) == (Usage(input=1, output=3), False)
    assert DIALECT.encode_answer(answer, decode()) == body


def test_what_is_not_read_is_opaque() -> None:
    """A member of a choice that nobody decoded is told, so that a guard can leave it out."""
    assert decode_completion(answer_body(notes="secret")).opaque
    assert not decode_completion(answer_body(stop_reason=None, prompt_logprobs=None)).opaque


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"no", "upstream_invalid"), (b"{}", "upstream_invalid"), (b'{"error":{"message":"busy","code":429}}', "upstream_overloaded")],
)
def test_what_is_no_answer(body: bytes, code: str) -> None:
    """Nonsense, nothing, and an error dressed as an answer are the target's failure."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_completion(body)
    assert caught.value.code == code


def test_an_answer_of_another_format_is_written() -> None:
    """Choices from any codec become text completions, usage included."""
    answer = Answer((Choice(0, "x"), Choice(1, None, finish="tool_calls")), "id", "m", 3, Usage(input=2, output=1))
    assert json.loads(DIALECT.encode_answer(answer, decode())) == {
        "id": "id", "object": "text_completion", "created": 3, "model": "m",
        "choices": [
            {"text": "x", "index": 0, "logprobs": None, "finish_reason": "stop"},
            {"text": "", "index": 1, "logprobs": None, "finish_reason": "stop"},
        ],
        "usage": json.loads(DIALECT.encode_answer(answer, decode()))["usage"],
    }  # fmt: skip


def frame(choices: list[dict[str, Any]], **fields: Any) -> bytes:
    body = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "fake", "choices": choices, **fields}
    return b"data: %s\n\n" % json.dumps(body).encode()


STREAM = [
    frame([{"text": "on", "index": 0, "logprobs": None, "finish_reason": None}]),
    frame([{"text": "ce", "index": 1, "logprobs": None, "finish_reason": None}]),
    frame([{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}]),
    frame([{"text": "", "index": 1, "logprobs": None, "finish_reason": "length"}]),
    frame([], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    b"data: [DONE]\n\n",
]


@given(st.lists(st.integers(1, 60), max_size=20))
@settings(max_examples=30, deadline=None)
def test_a_stream_cut_anywhere_is_the_same_stream(cuts: list[int]) -> None:
    """However the bytes are split, the deltas make the whole and each frame leaves as it came."""
    data, events, decoder = b"".join(STREAM), [], CompletionStreamDecoder(2)
    for size in cuts:
        events += decoder.feed(data[:size])
        data = data[size:]
    events += decoder.feed(data)
    decoder.close()
    collector = Collector()
    for event in events:
        collector.add(event)
    assert [(choice.text, choice.finish) for choice in collector.answer().choices] == [("on", "stop"), ("ce", "length")]
    assert collector.answer().usage == Usage(input=1, output=2)
    writer = DIALECT.open_stream(decode(stream=True), "req")
    assert b"".join(writer.event(event, None) for event in events) + writer.end() == b"".join([*STREAM[:4], STREAM[5]])


def test_a_stream_that_breaks_off() -> None:
    """Without every prompt's and choice's end it is broken, whether it says [DONE] or not."""
    for end in (b"", b"data: [DONE]\n\n"):
        decoder = CompletionStreamDecoder(2)
        decoder.feed(b"".join(STREAM[:3]) + end)
        with pytest.raises(UpstreamFailed) as caught:
            decoder.close()
        assert caught.value.code == "upstream_broken"


def test_usage_in_a_stream_is_for_who_asked() -> None:
    """Taken out for who did not ask; with its cost for who did, also when the target put it beside a choice."""
    beside = CompletionStreamDecoder().feed(
        frame([{"text": "x", "index": 0, "finish_reason": "stop"}], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    )[0]
    without = DIALECT.open_stream(decode(stream=True), "req").event(beside, "0.1")
    assert "usage" not in json.loads(without[6:])
    asked = decode(stream=True, stream_options={"include_usage": True})
    told = json.loads(DIALECT.open_stream(asked, "req").event(beside, "0.1")[6:])
    assert (told["usage"]["total_tokens"], told["gatehouse"]) == (3, {"cost_usd": "0.1"})


@pytest.mark.parametrize(
    "event",
    [
        Chunk((ChoiceDelta(0, "hi", begins=True, finish="stop"),), "id", "m", 1),
        Answer((Choice(0, "hi"),), "id", "m", 1, Usage(input=1, output=1)),
    ],
)
def test_events_of_another_format_are_written(event: Event) -> None:
    """A chunk, or a whole answer for a reader who streams, becomes frames of text."""
    text = DIALECT.open_stream(decode(stream=True), "req").event(event, None)
    frames = [json.loads(each[6:]) for each in text.strip().split(b"\n\n")]
    assert [each["choices"][0]["text"] for each in frames] == ["hi"]
    assert [each["choices"][0]["finish_reason"] for each in frames] == ["stop"]
    assert {each["object"] for each in frames} == {"text_completion"}


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_nothing_but_typed_refusals_come_out(garbage: bytes) -> None:
    """Whatever stands in a body, the answer is a call or an InvalidRequest; whatever a target says, an answer or its failure."""
    with contextlib.suppress(InvalidRequest):
        assert isinstance(DIALECT.decode_request(garbage), Call)
    with contextlib.suppress(UpstreamFailed):
        decode_completion(garbage)
    assert msgspec.json.decode(DIALECT.encode_error(InvalidRequest("x"), "req")[1])["error"]["request_id"] == "req"
