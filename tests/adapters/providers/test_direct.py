"""A model over HTTP that is asked by who does not wait: one word for each question, whatever becomes of its connection."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gatehouse.adapters.providers.anthropic import anthropic_codec
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.adapters.system import LoopTurn
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.core.ports import Asked
from gatehouse.core.secrets import Secret
from gatehouse.testing import anthropic
from gatehouse.testing.direct_contract import DirectContract, DirectRig, Hearing
from gatehouse.testing.upstream import FakeUpstream, Play, Seen, Wire, completion, hang_up, http, silence
from tests.adapters.providers.conftest import Authority
from tests.adapters.providers.trials import Trial, eventually, openai_model

CALL = Call(model="assistant", messages=(Message("user", "Hello"),), max_tokens=8)
TARGET = Target("lab/m", "lab", "m")


async def slowly(seen: Seen, wire: Wire) -> None:
    """The answer in two pieces, some turns of the loop apart."""
    whole = completion()
    wire.write(whole[:40])
    await wire.flush()
    for _ in range(5):
        await asyncio.sleep(0)
    wire.write(whole[40:])


class TestOpenAIModel(DirectContract):
    """Answers in one piece and in several."""

    @pytest.fixture(params=[completion(), slowly], ids=["one piece", "pieces"])
    async def rig(self, request: pytest.FixtureRequest) -> AsyncIterator[DirectRig]:
        async with FakeUpstream(request.param) as upstream:
            model = openai_model(upstream.url)
            model.turn = turn = LoopTurn()
            pool = model.pool
            yield DirectRig(model, TARGET, turn, lambda: pool.open - pool.idle)
            await model.close()


class TestAnthropicModel(DirectContract):
    """Anthropic's Messages API."""

    @pytest.fixture
    async def rig(self) -> AsyncIterator[DirectRig]:
        async with FakeUpstream(anthropic.message()) as upstream:
            model = HttpModel(ModelOptions(name="claude", base_url=upstream.url, api_keys=(Secret("sk-ant"),)), anthropic_codec())
            model.turn = turn = LoopTurn()
            pool = model.pool
            yield DirectRig(model, Target("claude/m", "claude", "m"), turn, lambda: pool.open - pool.idle)
            await model.close()


class TestOverTls(DirectContract):
    """What leaves at the end of a turn leaves encrypted like all else."""

    @pytest.fixture
    async def rig(self, authority: Authority) -> AsyncIterator[DirectRig]:
        upstream = FakeUpstream(completion())
        await upstream.start(tls=authority.server("127.0.0.1"))
        async with upstream:
            model = openai_model(upstream.url, ca_bundle=authority.bundle)
            model.turn = turn = LoopTurn()
            pool = model.pool
            yield DirectRig(model, TARGET, turn, lambda: pool.open - pool.idle)
            await model.close()


@dataclass(slots=True)
class Lab:
    """A provider, its model, and the turns of the loop."""

    upstream: FakeUpstream
    model: HttpModel
    turn: LoopTurn

    async def warm(self, calls: int = 1) -> None:
        """Have connections at hand."""
        await asyncio.gather(*(self.model.answer(CALL, TARGET, Trial()) for _ in range(calls)))

    def ask(self, trial: Trial | None = None, call: Call = CALL) -> tuple[Hearing, Asked | None]:
        """Put a question."""
        hearing = Hearing()
        return hearing, self.model.ask(call, TARGET, trial or Trial(), hearing)

    @property
    def at_work(self) -> int:
        """Connections that are lent."""
        return self.model.pool.open - self.model.pool.idle


Labs = Callable[..., Lab]


@pytest.fixture
async def lab(upstream: FakeUpstream) -> AsyncIterator[Labs]:
    """Makes the model of `upstream`, which is closed with the test."""
    made: list[HttpModel] = []

    def make(**options: Any) -> Lab:
        model = openai_model(upstream.url, **options)
        model.turn = turn = LoopTurn()
        made.append(model)
        return Lab(upstream, model, turn)

    yield make
    for model in made:
        await model.close()


# --- when it has to be awaited -----------------------------------------------------------------------------------------


async def test_no_free_connection(lab: Labs, upstream: FakeUpstream) -> None:
    """None, with nothing done: nothing is sent, opened, or said to anybody."""
    it = lab()
    trial = Trial()
    hearing, asked = it.ask(trial)
    it.turn.end()
    assert asked is None
    assert (hearing.told, trial.sent, it.model.pool.open, upstream.requests) == ([], False, 0, 0)


async def test_every_connection_is_lent(lab: Labs, upstream: FakeUpstream) -> None:
    """One question takes the one connection; for the next there is none, and the first is not disturbed."""
    it = lab(max_connections=1)
    await it.warm()
    first, asked = it.ask()
    assert asked is not None
    assert it.ask()[1] is None
    assert isinstance((await first.heard())[0], Answer)
    assert it.ask()[1] is not None


@pytest.mark.parametrize("why", ["no turns", "several keys"])
async def test_a_model_that_has_to_be_awaited(lab: Labs, why: str) -> None:
    """Without turns of the loop, or with keys to choose among, nothing is asked in this way."""
    it = lab(api_keys=(Secret("sk-1"), Secret("sk-2"))) if why == "several keys" else lab()
    await it.warm()
    if why == "no turns":
        it.model.turn = None
    assert it.ask()[1] is None
    assert it.at_work == 0


# --- what comes of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "code"),
    [
        (http(b'{"error":{"message":"busy"}}', status=503), "upstream_overloaded"),
        (http(b'{"error":{"message":"no"}}', status=400), "upstream_rejected"),
        (http(b"", status=204), "upstream_invalid"),
        (http(b""), "upstream_invalid"),
        (http(b"not json"), "upstream_invalid"),
        (http(b"{}"), "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi", "upstream_invalid"),
        (b"SSH-2.0-OpenSSH\r\n", "upstream_invalid"),
    ],
)
async def test_an_answer_that_is_none(lab: Labs, upstream: FakeUpstream, play: bytes, code: str) -> None:
    """Told as the failure that it is, once, and the connection is not left lent."""
    it = lab()
    await it.warm()
    upstream.will(play)
    trial = Trial()
    hearing, asked = it.ask(trial)
    assert asked is not None
    event, fault = await hearing.heard()
    assert event is None
    assert isinstance(fault, UpstreamFailed)
    assert (fault.code, trial.sent) == (code, True)
    await eventually(lambda: it.at_work == 0)
    assert len(hearing.told) == 1


@pytest.mark.parametrize("sent", [10, 60], ids=["in the head", "in the body"])
async def test_an_answer_that_breaks_off(lab: Labs, upstream: FakeUpstream, sent: int) -> None:
    """A connection that ends in the middle of an answer is a failure: it was read, and is not asked again."""

    async def break_off(seen: Seen, wire: Wire) -> None:
        wire.write(completion()[:-sent])
        await wire.flush()
        wire.end()

    it = lab()
    await it.warm()
    upstream.will(break_off)
    hearing, _ = it.ask()
    _, fault = await hearing.heard()
    assert isinstance(fault, UpstreamFailed)
    assert (fault.code, upstream.requests, it.model.pool.open) == ("upstream_broken", 2, 0)


async def test_a_provider_that_is_too_slow(lab: Labs, upstream: FakeUpstream) -> None:
    """Its deadline is a failure, and the connection is closed."""
    it = lab()
    await it.warm()
    upstream.will(silence)
    hearing, _ = it.ask(Trial(first_byte=0.01, total=0.05))
    _, fault = await hearing.heard()
    assert isinstance(fault, UpstreamFailed)
    assert (fault.code, it.model.pool.open) == ("upstream_timeout", 0)


async def test_answers_of_one_turn_are_told_apart(lab: Labs, upstream: FakeUpstream) -> None:
    """One that cannot be read, and one whose asker breaks its promise, keep nobody from hearing of theirs."""

    async def by_content(seen: Seen, wire: Wire) -> None:
        wire.write(http(b"not json") if "broken" in seen.body.decode() else completion())

    it = lab()
    await it.warm(4)
    upstream.will(by_content)
    heard = [it.ask(call=Call(model="m", messages=(Message("user", words),)))[0] for words in ("a", "broken", "b", "c")]
    faults = [(await hearing.heard())[1] for hearing in heard]
    assert [type(fault) for fault in faults] == [type(None), UpstreamFailed, type(None), type(None)]
    assert [len(hearing.told) for hearing in heard] == [1, 1, 1, 1]


async def test_closing_the_model_tells_who_waits(lab: Labs, upstream: FakeUpstream) -> None:
    """A question under way has failed; one that has not left yet has too, and leaves no more."""
    it = lab()
    await it.warm(2)
    upstream.will(silence)
    left, _ = it.ask()
    it.turn.end()
    trial = Trial()
    kept, _ = it.ask(trial)
    await it.model.close()
    for hearing, sent in ((left, True), (kept, False)):
        event, fault = await hearing.heard()
        assert event is None
        assert isinstance(fault, UpstreamFailed)
        assert fault.sent is sent
    assert not trial.sent


# --- stale connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
async def test_a_question_that_crossed_the_close_was_never_read(lab: Labs, upstream: FakeUpstream, authority: Authority, tls: bool) -> None:
    """The kept connection was closed before the request arrived: neither an answer nor a failure is told, and it may be asked again."""
    if tls:
        await upstream.stop()
        await upstream.start(tls=authority.server("127.0.0.1"))
    it = lab(ca_bundle=authority.bundle)
    for _ in range(5):
        await it.warm()
        upstream.drop(politely=tls)
        await asyncio.sleep(0)
        hearing, asked = it.ask()
        if asked is None:
            continue  # the close was noticed before
        assert await hearing.heard() == (None, None)
        assert len(hearing.told) == 1
        assert it.at_work == 0


async def break_down(seen: Seen, wire: Wire) -> None:
    """Takes the request and breaks the connection."""
    wire.reset()


@pytest.mark.parametrize("how", [hang_up, break_down])
async def test_a_question_that_was_read_is_not_asked_again(lab: Labs, upstream: FakeUpstream, how: Play) -> None:
    """A server that took the request and closed may have worked on it: that is a failure."""
    it = lab()
    await it.warm()
    upstream.will(how)
    hearing, _ = it.ask()
    event, fault = await hearing.heard()
    assert event is None
    assert isinstance(fault, UpstreamFailed)
    assert (fault.code, fault.sent, upstream.requests) == ("upstream_unreachable", True, 2)


async def test_a_close_before_it_left(lab: Labs, upstream: FakeUpstream) -> None:
    """A connection that ends between the question and the end of its turn: nothing left, so it was certainly never read."""
    it = lab()
    await it.warm()
    trial = Trial()
    hearing, asked = it.ask(trial)
    assert asked is not None
    connection = asked.line  # type: ignore[attr-defined]
    connection.eof_received()
    connection.connection_lost(None)
    it.turn.end()
    assert await hearing.heard() == (None, None)
    assert not trial.sent


async def test_an_answer_before_the_question_left_is_not_believed(lab: Labs, upstream: FakeUpstream) -> None:
    """What comes on a kept connection before anything was sent answers nobody: not this question, and not the next."""
    it = lab()
    await it.warm()
    trial = Trial()
    hearing, asked = it.ask(trial)
    assert asked is not None
    asked.line.data_received(completion())  # type: ignore[attr-defined]
    it.turn.end()
    event, _ = await hearing.heard()
    assert event is None
    assert (trial.sent, it.at_work) == (False, 0)
    await it.warm()
    following, asked = it.ask()
    assert asked is not None
    assert isinstance((await following.heard())[0], Answer)
    assert upstream.requests == 3


# --- pieces of one turn ------------------------------------------------------------------------------------------------


async def awaited(lab: Labs, upstream: FakeUpstream) -> "tuple[Lab, Hearing, Asked]":
    """A question that has left on a kept connection, and that nothing answers by itself."""
    it = lab()
    await it.warm()
    upstream.will(silence)
    hearing, asked = it.ask()
    assert asked is not None
    it.turn.end()
    return it, hearing, asked


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data`, cut."""
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [3_000_000, 200_000, 65_536])
async def test_a_large_answer_that_comes_in_one_turn(lab: Labs, upstream: FakeUpstream, size: int) -> None:
    """However much of an answer is read before the turn ends, it is an answer, and its connection is kept."""
    it, hearing, asked = await awaited(lab, upstream)
    for piece in pieces(completion(text="word " * 400_000), size):
        asked.line.data_received(piece)  # type: ignore[attr-defined]
    event, fault = await hearing.heard()
    assert fault is None
    assert isinstance(event, Answer)
    assert event.choices[0].text == "word " * 400_000
    assert (it.model.pool.open, it.model.pool.idle) == (1, 1)


async def test_a_large_answer_over_a_socket(lab: Labs, upstream: FakeUpstream) -> None:
    """The same, in whatever pieces the machine hands over."""
    it = lab()
    await it.warm()
    upstream.will(*(completion(text="word " * count) for count in (100_000, 400_000, 600_000)))
    for count in (100_000, 400_000, 600_000):
        hearing, asked = it.ask()
        assert asked is not None
        event, fault = await hearing.heard()
        assert fault is None
        assert isinstance(event, Answer)
        assert event.choices[0].text == "word " * count


@pytest.mark.parametrize("framing", [b"x-padding: " + b"x" * 100 + b"\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_much_framing_that_comes_in_one_turn(lab: Labs, upstream: FakeUpstream, framing: bytes) -> None:
    """Bounds of what is no content hold for what comes at once, too."""
    it, hearing, asked = await awaited(lab, upstream)
    start = b"HTTP/1.1 200 OK\r\n" if framing.startswith(b"x") else b""
    for piece in pieces(start + framing * 20_000, 65_536):
        asked.line.data_received(piece)  # type: ignore[attr-defined]
    _, fault = await hearing.heard()
    assert isinstance(fault, UpstreamFailed)
    assert (fault.code, it.model.pool.open) == ("upstream_invalid", 0)


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_two_answers_to_one_question(lab: Labs, upstream: FakeUpstream, size: int) -> None:
    """What follows an answer in its turn is nobody's: the connection is not used again, and the next question gets its own answer."""
    it, hearing, asked = await awaited(lab, upstream)
    for piece in pieces(completion(text="first") + completion(text="stray"), size):
        asked.line.data_received(piece)  # type: ignore[attr-defined]
    await hearing.heard()
    assert it.model.pool.open == 0
    upstream.will(completion(text="own"))
    events = await it.model.answer(CALL, TARGET, Trial())
    assert [event.choices[0].text async for event in events if isinstance(event, Answer)] == ["own"]


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_that_nobody_asked_for_answer_no_later_question_of_their_turn(lab: Labs, upstream: FakeUpstream, stream: bool) -> None:
    """A kept connection that speaks by itself is not lent any more, not even in the turn in which it spoke."""
    it = lab()
    await it.warm()
    hearing, asked = it.ask()
    assert asked is not None
    connection = asked.line  # type: ignore[attr-defined]
    await hearing.heard()
    assert it.model.pool.idle == 1
    connection.data_received(completion(text="stray"))
    upstream.will(completion(text="own"))
    events = await it.model.answer(Call(model="assistant", messages=(Message("user", "Hello"),), stream=stream), TARGET, Trial())
    assert [event.choices[0].text async for event in events if isinstance(event, Answer)] == ["own"]


async def test_abandoned_between_its_answer_and_the_reading_of_it(lab: Labs, upstream: FakeUpstream) -> None:
    """Whoever leaves when his answer has come, in the same turn, keeps nobody else from hearing theirs."""
    it = lab()
    await it.warm(3)
    upstream.will(silence)
    heard = [it.ask() for _ in range(3)]
    it.turn.end()
    for _, asked in heard:
        assert asked is not None
        connection = asked.line  # type: ignore[attr-defined]
        connection.data_received(completion())
        connection.eof_received()
    left = heard[1][1]
    assert left is not None
    left.abandon()
    for hearing, _ in (heard[0], heard[2]):
        assert isinstance((await hearing.heard())[0], Answer)
    assert heard[1][0].told == []


@pytest.mark.parametrize("fault", [None, ConnectionResetError(), BrokenPipeError()])
async def test_a_break_before_it_left(lab: Labs, upstream: FakeUpstream, fault: Exception | None) -> None:
    """However a connection ends between the question and the end of its turn: nothing has left, so it may be asked again."""
    it = lab()
    await it.warm()
    trial = Trial()
    hearing, asked = it.ask(trial)
    assert asked is not None
    asked.line.connection_lost(fault)  # type: ignore[attr-defined]
    it.turn.end()
    assert await hearing.heard() == (None, None)
    assert not trial.sent


async def test_an_answer_that_ends_with_its_connection(lab: Labs, upstream: FakeUpstream) -> None:
    """HTTP/1.0 manners: what came in the turn in which the connection ended is all there is, and it is heard."""

    async def by_closing(seen: Seen, wire: Wire) -> None:
        _, _, body = completion(text="all").partition(b"\r\n\r\n")
        wire.write(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + body)
        await wire.flush()
        wire.end()

    it = lab()
    await it.warm()
    upstream.will(by_closing)
    hearing, _ = it.ask()
    event, fault = await hearing.heard()
    assert fault is None
    assert isinstance(event, Answer)
    assert event.choices[0].text == "all"


# --- abandoned ---------------------------------------------------------------------------------------------------------


async def test_abandoned_before_it_left_not_a_byte_does(lab: Labs, upstream: FakeUpstream) -> None:
    """Its connection is closed, since a request was promised to it; the provider sees the close and no request."""
    it = lab()
    await it.warm()
    trial = Trial()
    hearing, asked = it.ask(trial)
    assert asked is not None
    asked.abandon()
    it.turn.end()
    await upstream.until(lambda up: up.connections == 0)
    assert (upstream.requests, trial.sent, hearing.told, it.model.pool.open) == (1, False, [], 0)


async def test_abandoned_after_it_left_closes_the_connection(lab: Labs, upstream: FakeUpstream) -> None:
    """The provider sees at once that nobody waits any more."""
    it = lab()
    await it.warm()
    upstream.will(silence)
    hearing, asked = it.ask()
    assert asked is not None
    await upstream.until(lambda up: up.requests == 2)
    asked.abandon()
    await upstream.until(lambda up: up.connections == 0)
    assert (hearing.told, it.model.pool.open) == ([], 0)


async def test_no_circle_is_left_for_the_collector(lab: Labs, upstream: FakeUpstream) -> None:
    """Answered, failed, abandoned: whatever came of it, nothing waits for the collector."""
    it = lab()
    upstream.will(completion(), completion(), http(b"not json"), completion(), silence)
    await it.warm()
    logging.disable()
    gc.collect()
    gc.disable()
    try:
        for failed in (False, True):
            hearing, asked = it.ask()
            assert (await hearing.heard())[1] is not None or not failed
            del hearing, asked
        await it.warm()
        _, asked = it.ask()
        assert asked is not None
        it.turn.end()
        asked.abandon()
        del _, asked
        await eventually(lambda: it.model.pool.open == 0)
        assert [each for each in gc.get_objects() if type(each).__name__ == "Reply" and type(each).__module__.startswith("gatehouse")] == []
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
