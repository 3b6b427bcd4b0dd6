"""The host's line for slots and its ends, over a real Unix socket, with an engine whose every token a test lets go."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.engines.client import EngineModel
from gatehouse.adapters.system import SystemClock
from gatehouse.core.calls import Call, Message
from gatehouse.core.engine_messages import AnyEngineMessage, Ask, Done, EngineRefused, Hello, Pieces
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event
from gatehouse.core.frames import FrameCutter, framed
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.usage import Usage
from gatehouse.processes.engine_host import COUNTERS, MOST_COUNTS, PACE, EngineHost
from gatehouse.processes.pieces import together

TARGET = Target("llamacpp/t", "llamacpp:t", "t")


class Attempted:
    """What Dispatch tells a model."""

    def __init__(self, first_byte: float = 20.0) -> None:
        self.request_id = "req_1"
        self.tenant = "default"
        self.deadlines = Deadlines(first_byte=first_byte, idle=20.0)
        self.sent = False
        self.traceparent = ""
        self.vacancies = 0

    def vacated(self) -> None:
        self.vacancies += 1


class StepEngine:
    """An engine that says a word for each permit it is given. Unless `silent` it says empty pieces while it waits."""

    def __init__(self, slots: int = 2, *, words: int = 3, silent: bool = False) -> None:
        self.words = words
        self.silent = silent
        self.tells = False
        """Tells the prompt's tokens with the first piece."""
        self.name = "step"
        self.slots = slots
        self.context = 100
        self.permits = threading.Semaphore(0)
        self.running = 0
        self.most = 0
        self.stopped = 0
        self.said = 0
        self.counting = threading.Event()
        self.counting.set()
        self.asked = 0
        self._lock = threading.Lock()

    def count(self, call: Call) -> int:
        self.asked += 1
        assert self.counting.wait(20)
        text = str(call.messages[0].content)
        if text == "fail":
            raise EngineRefused("engine_failed", "no")
        if text == "crash":
            raise ZeroDivisionError
        return len(text)

    def run(self, call: Call, on_event: Callable[[Chunk | Answer], bool]) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            text = call.messages[0].content
            if text == "fail":
                raise EngineRefused("engine_failed", "no")
            if text == "crash":
                raise ZeroDivisionError
            if self.tells and on_event(Chunk((ChoiceDelta(begins=True),), id="a", usage=Usage(input=5), interim=True)):
                return
            for _ in range(self.words):
                while not self.permits.acquire(timeout=None if self.silent else 0.01):
                    if on_event(Chunk(id="a")):
                        self.stopped += 1
                        return
                if call.stream and on_event(Chunk((ChoiceDelta(text="w"),), id="a")):
                    self.stopped += 1
                    return
                with self._lock:
                    self.said += 1
            if text == "break off":
                return
            if call.stream:
                on_event(Chunk((ChoiceDelta(finish="stop"),), id="a", usage=Usage(input=5, output=3)))
            else:
                on_event(Answer((Choice(text="www"),), id="a", usage=Usage(input=5, output=3)))
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
def engine() -> StepEngine:
    return StepEngine()


@pytest.fixture
async def model(tmp_path: Path, engine: StepEngine) -> AsyncIterator[EngineModel]:
    host = EngineHost(engine, "", SystemClock())
    await host.start(tmp_path / "e.sock")
    made = EngineModel(tmp_path / "e.sock", count_seconds=20.0)
    yield made
    await made.close()
    await host.close()
    engine.permits.release(1000)
    engine.counting.set()


def call(text: str = "hi", *, stream: bool = True, n: int = 1) -> Call:
    return Call(model="t", messages=(Message("user", text),), stream=stream, n=n)


async def collected(model: EngineModel, asked: Call) -> list[Event]:
    return [event async for event in await model.answer(asked, TARGET, Attempted())]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_stream(model: EngineModel, engine: StepEngine) -> None:
    """Words as they come, one usage at the end."""
    engine.permits.release(3)
    events = await collected(model, call())
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "www"
    assert [chunk.usage for chunk in chunks if chunk.usage is not None] == [Usage(input=5, output=3)]


@pytest.mark.parametrize("n", [1, 2])
async def test_the_prompts_tokens_come_with_the_first_piece(model: EngineModel, engine: StepEngine, n: int) -> None:
    """However many choices have read it, as a count so far; the last word is the usage of all."""
    engine.tells = True
    engine.permits.release(3 * n)
    events = await collected(model, call(n=n))
    told = [(event.usage, event.interim) for event in events if event.usage is not None and isinstance(event, Chunk)]
    assert (told[0], told[-1]) == ((Usage(input=5), True), (Usage(input=5, output=3 * n), False))
    assert all(interim and usage.input == 5 for usage, interim in told[:-1])
    assert events[0].usage == Usage(input=5)
    begun = [choice.index for event in events if isinstance(event, Chunk) for choice in event.choices if choice.begins]
    assert sorted(begun) == list(range(n))


def said(text: str = "", index: int = 0, **fields: Any) -> Chunk:
    return Chunk((ChoiceDelta(index=index, text=text, **fields),), id="a")


@pytest.mark.parametrize(
    ("pieces", "made"),
    [
        ([said("a"), said("b"), said("c")], [said("abc")]),
        ([said(begins=True), said("a"), said("b"), said(finish="stop")], [said(begins=True), said("ab"), said(finish="stop")]),
        ([said("a"), said("b", 1), said("c", 1), said("d")], [said("a"), said("bc", 1), said("d")]),
        ([said(reasoning="a"), said(reasoning="b"), said("c"), said("d")], [said(reasoning="ab"), said("cd")]),
        ([said("a"), said("b", finish="stop"), said("c", 1)], [said("a"), said("b", finish="stop"), said("c", 1)]),
        ([said("a"), Chunk(usage=Usage(input=1)), said("b")], [said("a"), Chunk(usage=Usage(input=1)), said("b")]),
        ([said("a")], [said("a")]),
        ([], []),
    ],
)
def test_what_a_choice_said_meanwhile_is_one_piece(pieces: list[Chunk], made: list[Chunk]) -> None:
    """Texts, or thoughts, that follow each other in one choice; beginnings, ends and counts stay where they are."""
    assert together(pieces) == made


async def test_a_piece_of_several_tokens_tells_how_many_there_were(model: EngineModel, engine: StepEngine) -> None:
    """Wherever it is cut off: pieces of one token that came since are added to the last count."""
    engine.tells = True
    engine.words = 60
    engine.permits.release(60)
    tokens = text = 0
    for event in await collected(model, call()):
        assert isinstance(event, Chunk)
        text += len(event.text)
        tokens = event.usage.output if event.usage is not None else tokens + bool(event.text)
        if not event.choices or event.usage is not None:
            assert tokens == text or not event.interim
    assert text == 60


async def test_leaving_while_the_prompt_is_read_stops_the_engine(model: EngineModel, engine: StepEngine) -> None:
    """Before the first word: the engine hears it when it next asks, and nothing was told meanwhile."""
    waiting = asyncio.create_task(collected(model, call()))
    await until(lambda: engine.running == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: engine.stopped == 1 and engine.running == 0)


class StillClock(SystemClock):
    """A clock whose pauses between two messages end when a test says so."""

    def __init__(self) -> None:
        self.pauses: list[Callable[[], None]] = []

    def call_later(self, seconds: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        if seconds == PACE:
            self.pauses.append(callback)
            return super().call_later(3600, int)
        return super().call_later(seconds, callback, *args)


async def test_what_is_said_together_leaves_together(tmp_path: Path) -> None:
    """The first word leaves at once; what follows within a moment leaves in one message for each call and one write for all; the
    end of a call waits for nobody, and is never told before the last word."""
    clock = StillClock()
    engine = StepEngine(words=5, silent=True)
    host = EngineHost(engine, "", clock)
    await host.start(tmp_path / "e.sock")
    reader, writer = await asyncio.open_unix_connection(tmp_path / "e.sock")
    cutter = FrameCutter()
    decode = msgspec.msgpack.Decoder(AnyEngineMessage).decode

    async def heard() -> list[AnyEngineMessage]:
        async with asyncio.timeout(10):
            return [decode(payload) for payload in cutter.feed(await reader.read(65536))]

    await heard()  # the greeting
    for number in (1, 2):
        writer.write(framed(msgspec.msgpack.encode(Ask(number, call(), 20.0))))
    await until(lambda: engine.running == 2)
    engine.permits.release(1)
    (first,) = await heard()
    assert isinstance(first, Pieces)
    assert len(first.chunks) == 1
    other = 3 - first.number
    engine.permits.release(3)
    await until(lambda: engine.said == 4)
    (again,) = clock.pauses
    again()
    together = await heard()
    assert sum(len(message.chunks) for message in together if isinstance(message, Pieces)) == 3
    assert len({message.number for message in together if isinstance(message, Pieces)}) == len(together)
    engine.permits.release(6)
    rest: list[AnyEngineMessage] = []
    while sum(isinstance(message, Done) for message in rest) < 2:
        rest += await heard()
    for number in (first.number, other):
        mine = [message for message in rest if getattr(message, "number", 0) == number]
        assert isinstance(mine[-1], Done)
        words = [
            chunk
            for message in (first, *together, *mine)
            if isinstance(message, Pieces) and message.number == number
            for chunk in message.chunks
        ]
        assert "".join(chunk.text for chunk in words) == "wwwww"
        assert [chunk.usage is None for chunk in words] == [True] * 6 + [False]
    writer.close()
    await host.close()


async def test_the_slots_are_known_once_the_host_was_met(model: EngineModel, engine: StepEngine) -> None:
    """None before; and the model says when the engine is done, taken or not."""
    before = model.slots
    engine.permits.release(3)
    attempt = Attempted()
    events = await model.answer(call(), TARGET, attempt)
    assert (before, model.slots) == (None, 2)
    await until(lambda: attempt.vacancies == 1)
    await events.aclose()
    assert attempt.vacancies == 1


async def test_choices_are_runs_of_their_own(model: EngineModel, engine: StepEngine) -> None:
    """n takes n slots; the prompt is counted once, the answers each; whole or streamed."""
    engine.permits.release(12)
    (answer,) = await collected(model, call(stream=False, n=2))
    assert isinstance(answer, Answer)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage == Usage(input=5, output=6)
    events = await collected(model, call(n=2))
    finished = [choice.index for event in events if isinstance(event, Chunk) for choice in event.choices if choice.finish]
    assert sorted(finished) == [0, 1]


async def test_more_calls_than_slots_wait_in_line(model: EngineModel, engine: StepEngine) -> None:
    """Thirty-two calls on two slots: never more than two at a time, all of them answered."""
    tasks = [asyncio.create_task(collected(model, call(stream=False))) for _ in range(32)]
    await until(lambda: engine.running == 2)
    engine.permits.release(100)
    await asyncio.gather(*tasks)
    assert engine.most == 2


async def test_scenario_18_left_while_queued(model: EngineModel, engine: StepEngine) -> None:
    """Who is cancelled in the line leaves it at once and never runs."""
    first = [asyncio.create_task(collected(model, call())) for _ in range(2)]
    await until(lambda: engine.running == 2)
    waiting = asyncio.create_task(collected(model, call("queued")))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    engine.permits.release(6)
    await asyncio.gather(*first)
    await until(lambda: engine.running == 0)
    engine.permits.release(3)
    await collected(model, call())
    assert engine.stopped == 0


async def test_leaving_a_stream_stops_the_engine(model: EngineModel, engine: StepEngine) -> None:
    """Closed after the first word: no word more, and the slot is free."""
    engine.permits.release(1)
    events = await model.answer(call(), TARGET, Attempted())
    assert isinstance(await anext(events), Chunk)
    await events.aclose()
    await until(lambda: engine.stopped == 1 and engine.running == 0)


@pytest.mark.parametrize(("said", "code"), [(1, "upstream_broken"), (0, "upstream_unreachable")])
async def test_a_host_that_dies(tmp_path: Path, said: int, code: str) -> None:
    """A stream that had begun is broken, also while it waits for its next word; a call that nobody answered yet was never reached."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for message in (Hello("h", 100, 1), *[Pieces(1, (Chunk((ChoiceDelta(text="w"),)),))] * said):
            writer.write(framed(msgspec.msgpack.encode(message)))
            if isinstance(message, Hello):
                await reader.read(1)
        if said:
            await dying.wait()
        writer.close()

    dying = asyncio.Event()
    server = await asyncio.start_unix_server(serve, tmp_path / "e.sock")
    model = EngineModel(tmp_path / "e.sock")

    async def taken() -> None:
        async for event in await model.answer(call(), TARGET, Attempted()):
            assert isinstance(event, Chunk)
            dying.set()

    with pytest.raises(UpstreamFailed) as caught:
        await taken()
    assert caught.value.code == code
    await model.close()
    server.close()


async def test_failures(model: EngineModel, engine: StepEngine) -> None:
    """An engine that refuses, one that crashes, too many choices, a prompt too long: each its own error."""
    cases = {"fail": ("upstream_invalid", False), "crash": ("upstream_invalid", False), "x" * 200: ("context_length_exceeded", True)}
    for text, (code, fault) in cases.items():
        with pytest.raises(UpstreamFailed) as caught:
            await collected(model, call(text))
        assert (caught.value.code, caught.value.caller_fault) == (code, fault)
    with pytest.raises(UpstreamFailed, match="at most 2 choices"):
        await collected(model, call(n=3))


async def test_an_engine_that_stops_without_a_reason_broke_off(model: EngineModel, engine: StepEngine) -> None:
    """What it said leaves, and then that this is not all of it."""
    engine.permits.release(3)
    said = []
    with pytest.raises(UpstreamFailed) as caught:  # noqa: PT012 - what came before it counts
        async for event in await model.answer(call("break off"), TARGET, Attempted()):
            said += [choice.text for choice in event.choices if isinstance(choice, ChoiceDelta)]
    assert "".join(said) == "www"
    assert caught.value.code == "upstream_broken"


async def test_the_line_is_bounded(model: EngineModel, engine: StepEngine) -> None:
    """Beyond thirty-two waiting a slot: refused at once with a time to come back."""
    tasks = [asyncio.create_task(collected(model, call())) for _ in range(2 + 64)]
    await until(lambda: engine.running == 2)
    await asyncio.sleep(0.05)
    with pytest.raises(UpstreamFailed) as caught:
        await collected(model, call())
    assert caught.value.code == "upstream_overloaded"
    assert caught.value.retry_after is not None
    engine.permits.release(1000)
    await asyncio.gather(*tasks)


async def test_patience_ends(model: EngineModel, engine: StepEngine) -> None:
    """A call that finds no slot in its time is told so."""
    first = [asyncio.create_task(collected(model, call())) for _ in range(2)]
    await until(lambda: engine.running == 2)
    with pytest.raises(UpstreamFailed) as caught:
        await model.answer(call(), TARGET, Attempted(first_byte=0.1))
    assert caught.value.code in {"upstream_overloaded", "upstream_timeout"}
    engine.permits.release(6)
    await asyncio.gather(*first)


async def test_counting_needs_no_slot(model: EngineModel, engine: StepEngine) -> None:
    """Every slot taken and not a word let go, more calls in line: a prompt is counted all the same, and none of them noticed."""
    tasks = [asyncio.create_task(collected(model, call(stream=False))) for _ in range(5)]
    await until(lambda: engine.running == 2)
    assert await asyncio.gather(*(model.count_tokens(call("x" * size)) for size in range(20))) == list(range(20))
    assert (engine.running, engine.most) == (2, 2)
    engine.permits.release(15)
    await asyncio.gather(*tasks)


async def test_what_is_not_counted(model: EngineModel, engine: StepEngine) -> None:
    """A prompt far beyond the context, one that the engine cannot read, one that breaks the engine: None each time, never an error."""
    for text in ("x" * 3_200, "fail", "crash"):
        assert await model.count_tokens(call(text)) is None
    assert await model.count_tokens(call("abc")) == 3


async def test_a_count_that_takes_too_long(tmp_path: Path, model: EngineModel, engine: StepEngine) -> None:
    """None when its time is over, for who waits for that one; the engine goes on counting for others."""
    engine.counting.clear()
    impatient = EngineModel(tmp_path / "e.sock", count_seconds=0.05)
    assert await impatient.count_tokens(call("late")) is None
    await impatient.close()
    engine.counting.set()
    assert await model.count_tokens(call("ab")) == 2


async def test_counts_that_wait_are_bounded(model: EngineModel, engine: StepEngine) -> None:
    """Beyond so many the host says no at once; those that are cancelled before their turn are not counted any more."""
    assert await model.ping() == ""
    engine.counting.clear()
    counts = [asyncio.create_task(model.count_tokens(call("waits"))) for _ in range(MOST_COUNTS)]
    await until(lambda: engine.asked == COUNTERS)
    assert await model.count_tokens(call("one too many")) is None
    for count in counts[10:]:
        count.cancel()
    await asyncio.gather(*counts[10:], return_exceptions=True)
    # What is too long is answered at once, and after what was said before.
    assert await model.count_tokens(call("x" * 3_200)) is None
    engine.counting.set()
    assert await asyncio.gather(*counts[:10]) == [5] * 10
    assert await model.count_tokens(call("ab")) == 2
    assert engine.asked <= 10 + COUNTERS + 1


async def test_nobody_to_count(tmp_path: Path) -> None:
    """No host, or one without its model: None, as soon as that is known."""
    assert await EngineModel(tmp_path / "none.sock").count_tokens(call()) is None
    host = EngineHost(None, "m.gguf: truncated", SystemClock())
    await host.start(tmp_path / "e.sock")
    model = EngineModel(tmp_path / "e.sock", count_seconds=20.0)
    assert await model.count_tokens(call()) is None
    await model.close()
    await host.close()


async def test_no_host(tmp_path: Path) -> None:
    """Nobody listens: unreachable, certainly nothing was sent, so another target may be asked."""
    with pytest.raises(UpstreamFailed) as caught:
        await EngineModel(tmp_path / "none.sock").answer(call(), TARGET, Attempted())
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)


async def test_a_host_without_its_model(tmp_path: Path) -> None:
    """The host runs, its model does not: the caller is told that it is not theirs, the operator why."""
    host = EngineHost(None, "m.gguf: truncated", SystemClock())
    await host.start(tmp_path / "e.sock")
    model = EngineModel(tmp_path / "e.sock")
    with pytest.raises(UpstreamFailed) as caught:
        await model.answer(call(), TARGET, Attempted())
    assert "truncated" in caught.value.detail
    assert "truncated" not in caught.value.message
    assert await model.ping() == "m.gguf: truncated"
    await model.close()
    await host.close()
