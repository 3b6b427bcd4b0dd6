"""Between who carries a call and who reads it: events in order, few of them waiting, and every end told."""

import asyncio

import pytest

from gatehouse.adapters.system import SystemClock, TaskSpawner
from gatehouse.compose.reply import AHEAD, Carrying, Reply
from gatehouse.core.calls import Call
from gatehouse.core.events import ChoiceDelta, Chunk, Events
from gatehouse.core.outcome import Outcome
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.errors import Internal, Unavailable
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner


class Talk:
    """A stage that answers with numbered events, counts what was taken from it, and knows when it was settled."""

    name = "talk"

    def __init__(self, count: int, fault: Exception | None = None) -> None:
        self.count = count
        self.fault = fault
        self.taken = 0
        self.settled: list[Outcome | None] = []

    async def admit(self, x: Exchange) -> Events | None:
        return self._events()

    async def _events(self) -> Events:
        for number in range(self.count):
            self.taken += 1
            yield Chunk((ChoiceDelta(text=f"{number} "),))
        if self.fault is not None:
            raise self.fault

    def settle(self, x: Exchange) -> None:
        self.settled.append(x.outcome)


def reply_of(stage: Talk, spawn: TaskSpawner) -> Reply:
    x = Exchange("req_1", Head("POST", "/", {}), None, OpenAIDialect())
    x.call = Call(model="m", stream=True)
    return Reply(Carrying(x, Runner((stage,), SystemClock()), spawn))


async def test_every_event_comes_once_in_order_and_the_end_is_after_settling() -> None:
    """A thousand of them; the loop ends when the books are closed."""
    stage, spawn = Talk(1000), TaskSpawner()
    text = "".join([event.text async for event in reply_of(stage, spawn)])
    assert text == "".join(f"{number} " for number in range(1000))
    assert stage.settled == [Outcome.COMPLETED]
    assert len(spawn) == 0


async def test_a_slow_reader_slows_the_model_down() -> None:
    """No more than AHEAD events wait for their reader, however long it takes."""
    stage, spawn = Talk(1000), TaskSpawner()
    read = 0
    async for _ in reply_of(stage, spawn):
        read += 1
        for _ in range(5):
            await asyncio.sleep(0)
        assert stage.taken - read <= AHEAD


async def test_a_reply_that_nobody_reads_starts_nothing() -> None:
    """Closing it is a no-op too."""
    stage, spawn = Talk(3), TaskSpawner()
    await reply_of(stage, spawn).aclose()
    assert (stage.taken, len(spawn)) == (0, 0)


async def test_what_came_before_a_fault_is_read_before_it_is_raised() -> None:
    """A fault of ours says no more than that it is one."""
    stage, spawn = Talk(3, ValueError("inner workings")), TaskSpawner()
    heard: list[str] = []

    async def read() -> None:
        async for event in reply_of(stage, spawn):
            heard.append(event.text)  # noqa: PERF401 - a comprehension would lose them when it raises

    with pytest.raises(Internal) as fault:
        await read()
    assert (heard, "workings" in str(fault.value)) == (["0 ", "1 ", "2 "], False)
    assert stage.settled == [Outcome.FAILED]


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
async def test_a_close_at_any_moment_ends_the_reader_and_settles_once(turns: int) -> None:
    """Before the call began, as it begins, in its middle: the reader is told, nothing is left running."""
    stage, spawn = Talk(10_000_000), TaskSpawner()
    reply = reply_of(stage, spawn)

    async def read() -> None:
        async for _ in reply:
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    for _ in range(1 + turns):
        await asyncio.sleep(0)
    await reply.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await asyncio.wait_for(reader, 10)
    assert len(spawn) == 0
    assert stage.settled in ([], [Outcome.CLIENT])


async def test_two_cancellations_leave_a_settled_call() -> None:
    """A second one while the first is being worked off overtakes nothing."""
    stage, spawn = Talk(10_000_000), TaskSpawner()
    reply = reply_of(stage, spawn)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in reply:
            begun.set()
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await reply.aclose()
    assert stage.settled == [Outcome.CLIENT]
    assert len(spawn) == 0
