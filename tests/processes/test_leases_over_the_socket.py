"""A worker's leases over a real socket pair: the same promises as in one process, and answers when nobody can decide."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gatehouse.adapters.system import SystemClock
from gatehouse.core.errors import Unavailable
from gatehouse.core.limits import Dimension, Draw, Granted, Meter, Unused
from gatehouse.processes.protocol import Acquire, Acquired, GiveBack, Link, Message, Recall, Recalled
from gatehouse.processes.steward_client import StewardClient

METER = Meter("key:a:slots", Dimension.SLOTS, 10)


class Pair:
    """The client, and the steward's end that a test answers by hand."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.told: list[Message] = []
        self.steward = Link(self.heard.put_nowait, lambda: None)
        self.client = StewardClient(SystemClock(), self.told.append, lambda: None)

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        for sock, end in ((ours, self.steward), (theirs, self.client.link)):
            sock.setblocking(False)
            await loop.create_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]

    async def asked(self) -> Acquire:
        message = await asyncio.wait_for(self.heard.get(), 5)
        assert isinstance(message, Acquire)
        return message


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await made.open()
    yield made
    made.steward.close()
    made.client.link.close()
    await asyncio.sleep(0)


async def test_a_question_and_its_answer(pair: Pair) -> None:
    """Draws arrive as they were asked, the grant as it was given."""
    asking = asyncio.create_task(pair.client.acquire((Draw(METER, 1, 4),)))
    question = await pair.asked()
    assert question.draws == (Draw(METER, 1, 4),)
    granted = Granted((4,), remaining=(6,), stamp=3)
    pair.steward.send(Acquired(question.number, granted))
    assert await asking == granted


async def test_nobody_can_decide(pair: Pair) -> None:
    """The steward's database is away: Unavailable at once, never a refusal in the caller's name."""
    asking = asyncio.create_task(pair.client.acquire((Draw(METER, 1, 1),)))
    question = await pair.asked()
    pair.steward.send(Acquired(question.number, Granted(), "Unavailable"))
    with pytest.raises(Unavailable):
        await asking


async def test_the_steward_dies_while_asked(pair: Pair) -> None:
    """Whoever waits is told at once."""
    asking = asyncio.create_task(pair.client.acquire((Draw(METER, 1, 1),)))
    await pair.asked()
    pair.steward.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asking, 5)


async def test_a_lease_that_comes_too_late_goes_back(pair: Pair) -> None:
    """The asker has left: what was granted is not stranded."""
    asking = asyncio.create_task(pair.client.acquire((Draw(METER, 1, 4),)))
    question = await pair.asked()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    pair.steward.send(Acquired(question.number, Granted((4,), remaining=(6,), stamp=9)))
    assert await asyncio.wait_for(pair.heard.get(), 5) == GiveBack((Unused(METER.id, 4, 9),))


async def test_what_was_lent_just_before_a_recall_is_recalled_too(pair: Pair) -> None:
    """Both come in one piece: who waited for the answer has it before the recall is told."""

    async def ask() -> None:
        pair.told.append(Acquired(0, await pair.client.acquire((Draw(METER, 1, 4),))))

    asking = asyncio.create_task(ask())
    question = await pair.asked()
    granted = Granted((4,), remaining=(6,), stamp=3)
    pair.steward.send(Acquired(question.number, granted))
    pair.steward.send(Recall(7, (METER.id,)))
    async with asyncio.timeout(5):
        while len(pair.told) < 2:
            await asyncio.sleep(0)
    await asking
    assert pair.told == [Acquired(0, granted), Recall(7, (METER.id,))]


async def test_a_recall_is_told_and_answered(pair: Pair) -> None:
    """What the steward says of its own accord reaches the worker, and the worker's answer the steward."""
    pair.steward.send(Recall(7, (METER.id,)))
    async with asyncio.timeout(5):
        while not pair.told:
            await asyncio.sleep(0)
    assert pair.told == [Recall(7, (METER.id,))]
    pair.client.recalled(7)
    assert await asyncio.wait_for(pair.heard.get(), 5) == Recalled(7)
