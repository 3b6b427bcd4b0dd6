"""What the soak and the kill call a right answer, right books and flat memory."""

import json
from decimal import Decimal
from typing import Any

import pytest

from bench import engine_kill, engine_soak, traffic
from bench.engine_load import PRICE, TINY, Sums, Told, books_differ, configuration, cost, dechunked, judge
from bench.machine import Memory

USAGE = {"prompt_tokens": 5, "completion_tokens": 3}
ERROR = {"error": {"message": "It stopped.", "type": "api_error", "code": "upstream_broken"}}


def whole(**changes: Any) -> bytes:
    return json.dumps({"choices": [{"finish_reason": "stop"}], "usage": USAGE} | changes).encode()


def stream(*frames: Any, done: bool = True) -> bytes:
    lines = [b"data: " + json.dumps(frame).encode() for frame in frames]
    return b"\n\n".join([*lines, *([b"data: [DONE]"] if done else []), b""])


PIECE = {"choices": [{"delta": {"content": "gate"}, "finish_reason": None}]}
LAST = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
COUNT = {"choices": [], "usage": USAGE}


@pytest.mark.parametrize(
    ("status", "body", "streams", "complete", "verdict"),
    [
        (200, whole(), False, True, "answered"),
        (200, whole(), False, False, "wrong"),
        (200, whole(usage=None), False, True, "wrong"),
        (200, whole(choices=[]), False, True, "wrong"),
        (200, whole(choices=[{"finish_reason": None}]), False, True, "wrong"),
        (502, json.dumps(ERROR).encode(), False, True, "failed"),
        (503, json.dumps(ERROR).encode(), True, True, "failed"),
        (502, b"Bad Gateway", False, True, "wrong"),
        (502, b'{"error": {"message": "no type"}}', False, True, "wrong"),
        (200, stream(PIECE, LAST, COUNT), True, True, "answered"),
        (200, stream(PIECE, LAST, COUNT), True, False, "wrong"),
        (200, stream(PIECE, LAST), True, True, "wrong"),
        (200, stream(PIECE, COUNT), True, True, "wrong"),
        (200, stream(PIECE, LAST, COUNT, done=False), True, True, "wrong"),
        (200, stream(PIECE, done=False), True, False, "wrong"),
        (200, stream(PIECE, ERROR, done=False), True, True, "failed"),
        (200, stream(PIECE, ERROR, done=False), True, False, "failed"),
        (200, stream(PIECE, ERROR), True, True, "wrong"),
        (200, b"", True, True, "wrong"),
    ],
)
def test_an_answer_is_whole_or_an_error_or_wrong(status: int, body: bytes, streams: bool, complete: bool, verdict: str) -> None:
    """Answered: to its end, with why it ended and what it used. Failed: an error that can be read, and no end like a finished stream's."""
    told = judge(status, body, stream=streams, whole=complete)
    assert told.verdict == verdict
    assert (told.input, told.output) == ((5, 3) if verdict == "answered" else (0, 0))
    assert told.code == ("upstream_broken" if verdict == "failed" else "")
    assert told.begun is (verdict == "failed" and status == 200)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"3\r\nabc\r\n5\r\nde", b"abcde"),
        (b"3\r\nabc\r\n", b"abc"),
        (b"", b""),
        (b"xy\r\n", b""),
    ],
)
def test_a_chunked_body_is_read_as_far_as_it_came(body: bytes, said: bytes) -> None:
    """Cut anywhere it gives what was said until then."""
    assert dechunked(body) == said


def sums(*told: Told) -> Sums:
    made = Sums()
    for each in told:
        made.add(each, 0.1)
    return made


SEEN = sums(Told("answered", 5, 3), Told("answered", 7, 1), Told("failed", code="upstream_broken", begun=True))


def rows(**changes: Any) -> list[dict[str, Any]]:
    done = {"model": TINY, "outcome": "completed", "requests": 2, "input_tokens": 12, "output_tokens": 4, "cost_usd": "0.000011"}
    failed = {"model": TINY, "outcome": "failed", "requests": 1, "input_tokens": 9, "output_tokens": 9, "cost_usd": "1"}
    return [done | changes, failed]


def test_the_books_are_what_callers_saw() -> None:
    """Calls, tokens and money of what was answered, to the last digit; every other call is there too, whatever it was charged."""
    assert cost(SEEN) == (12 * Decimal(PRICE["input"]) + 4 * Decimal(PRICE["output"])) / 1_000_000
    assert books_differ(rows(), TINY, SEEN, cost(SEEN)) == []
    assert books_differ([], "other", Sums(), Decimal(0)) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"requests": 3}, "answered calls: 3 in the books, 2 seen"),
        ({"input_tokens": 13}, "input tokens"),
        ({"output_tokens": 3}, "output tokens"),
        ({"cost_usd": "0.0000110001"}, "cost"),
        ({"outcome": "client"}, "answered calls: 0 in the books"),
    ],
)
def test_a_difference_in_the_books_is_named(changes: dict[str, Any], what: str) -> None:
    """One call, one token or the last digit of the money."""
    assert any(what in words for words in books_differ(rows(**changes), TINY, SEEN, cost(SEEN)))


def test_a_call_that_its_caller_left_is_in_the_books() -> None:
    """It is none of those that were answered."""
    assert books_differ(rows(), TINY, SEEN, cost(SEEN), left=1) == [f"{TINY}: calls of every outcome: 3 in the books, 4 seen"]


def test_only_models_that_are_there_are_configured() -> None:
    """Without an upstream there is no other model."""
    assert "providers" not in configuration(8, None)
    models = configuration(8, 1234)["models"]
    assert isinstance(models, list)
    assert [model["name"] for model in models] == [TINY, traffic.MODEL]


def samples(*megabytes: float) -> list[engine_soak.Sample]:
    return [engine_soak.Sample(100 * place, {"worker": Memory(held, held)}) for place, held in enumerate(megabytes, 1)]


def test_memory_that_stays_is_flat() -> None:
    """What comes while warming up, and a peak that passes, are not growth."""
    found = engine_soak.growth(samples(10, 20, 30, 30, 30, 55, 30, 31, 31, 31), 2.0)
    assert found["worker"].flat
    assert engine_soak.problems(sums(Told("answered", 1, 1)), found) == []


def test_memory_that_grows_is_not() -> None:
    """By a little with every call, past the bound."""
    found = engine_soak.growth(samples(*(30 + place / 2 for place in range(20))), 2.0)
    assert not found["worker"].flat
    (problem,) = engine_soak.problems(sums(Told("answered", 1, 1)), found)
    assert "the worker grew from" in problem


def test_too_few_samples_say_nothing() -> None:
    """That is a problem, not a pass; and so is a call that was not answered."""
    assert engine_soak.growth(samples(1, 1, 1), 2.0) == {}
    assert engine_soak.growth([], 2.0) == {}
    assert len(engine_soak.problems(sums(Told("hung")), {})) == 2


def test_no_two_calls_of_the_soak_are_the_same() -> None:
    """A cache of answers or prompts would hide what a call leaves behind."""
    bodies = [json.dumps(engine_soak.body(number)) for number in range(200)]
    assert len(set(bodies)) == 200
    assert {"stream" in json.loads(text) for text in bodies} == {True, False}
    assert any("response_format" in text for text in bodies)


KILLED = [engine_kill.Kill(0.2, 0.6, 12), engine_kill.Kill(0.4, 0.8, 9)]


def test_kills_that_show_what_they_should() -> None:
    """Calls failed with a word, some within their stream; nobody else noticed."""
    assert engine_kill.problems(KILLED, {TINY: SEEN, traffic.MODEL: sums(Told("answered", 1, 1))}) == []


@pytest.mark.parametrize(
    ("kills", "tiny", "other", "what"),
    [
        (KILLED, [Told("hung")], [], "hung"),
        (KILLED, [Told("wrong", what="half a stream")], [], "half a stream"),
        (KILLED, [], [Told("failed", code="upstream_unreachable")], "1 calls failed"),
        (KILLED, [], [Told("hung")], "hung"),
        ([engine_kill.Kill(0.2, 0.6, 0)], [], [], "met no call"),
    ],
)
def test_kills_that_do_not(kills: list[engine_kill.Kill], tiny: list[Told], other: list[Told], what: str) -> None:
    """A call that hangs or looks finished, one of another model that fails, a kill that met nobody."""
    cut = Told("failed", code="upstream_broken", begun=True)
    (problem,) = engine_kill.problems(kills, {TINY: sums(cut, *tiny), traffic.MODEL: sums(*other)})
    assert what in problem


def test_kills_that_met_no_open_stream_show_nothing() -> None:
    """Then nobody has seen what becomes of one."""
    (problem,) = engine_kill.problems(KILLED, {TINY: sums(Told("answered", 1, 1)), traffic.MODEL: Sums()})
    assert "no kill met an open stream" in problem
