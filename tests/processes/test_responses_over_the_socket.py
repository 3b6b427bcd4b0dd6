"""Kept responses over a real socket pair: the store's promises, and a call ended in whichever worker carries it."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gatehouse.adapters.system import SystemClock
from gatehouse.core.errors import Unavailable
from gatehouse.core.responses import Ended, Owner
from gatehouse.processes.protocol import (
    CancelResponse,
    EndResponse,
    FindResponse,
    KeepResponse,
    Link,
    RemoveResponse,
    ResponseEnded,
    ResponseSaid,
)
from gatehouse.processes.response_desk import ResponseDesk
from gatehouse.processes.steward_client import StewardClient
from gatehouse.testing.fakes import FakeClock
from gatehouse.testing.response_store import ANN, FakeResponseStore, ResponseStoreContract, kept_response

ENDED = Ended("assistant", 7)


class Pair:
    """A worker's client, and a steward's desk over a store in memory."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = FakeResponseStore(clock)
        self.told: list[object] = []
        self.heard: list[object] = []
        self.desk = ResponseDesk(self.store, self.cancel)
        self.steward = Link(self._receive, lambda: None)
        self.client = StewardClient(SystemClock(), self.told.append, lambda: None)
        self._tasks: set[asyncio.Task[None]] = set()

    async def cancel(self, owner: Owner, response_id: str) -> Ended | None:
        return ENDED if (owner, response_id) == (ANN, "resp_running") else None

    def _receive(self, message: object) -> None:
        if isinstance(message, KeepResponse | FindResponse | RemoveResponse | CancelResponse):
            task = asyncio.create_task(self.desk.answer(self.steward, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.heard.append(message)

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        for sock, end in ((ours, self.steward), (theirs, self.client.link)):
            sock.setblocking(False)
            await loop.create_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def pair(clock: FakeClock) -> AsyncIterator[Pair]:
    made = Pair(clock)
    await made.open()
    yield made
    made.steward.close()
    made.client.link.close()
    await asyncio.sleep(0)


class TestOverTheSocket(ResponseStoreContract):
    """A worker sees the very store the steward has."""

    @pytest.fixture
    def store(self, pair: Pair) -> StewardClient:
        """The worker's end."""
        return pair.client


async def test_nobody_can_tell(pair: Pair) -> None:
    """A store that is away is unavailable, never an absence; and so is a steward that has gone."""
    await pair.client.keep(kept_response())
    pair.store.broken = True
    for asking in (pair.client.keep(kept_response()), pair.client.find(ANN, "resp_1"), pair.client.remove(ANN, "resp_1")):
        with pytest.raises(Unavailable) as caught:
            await asking
        assert caught.value.code == "responses_unavailable"
    pair.steward.close()
    with pytest.raises(Unavailable):
        await pair.client.find(ANN, "resp_1")


async def test_a_call_is_ended_elsewhere(pair: Pair) -> None:
    """The asker learns what was ended, or that nothing was; the worker that is told answers what it ended."""
    assert await pair.client.cancel_response(ANN, "resp_running") == ENDED
    assert await pair.client.cancel_response(ANN, "resp_other") is None
    pair.steward.send(EndResponse(5, ANN, "resp_running"))
    async with asyncio.timeout(5):
        while not pair.told:
            await asyncio.sleep(0)
    assert pair.told == [EndResponse(5, ANN, "resp_running")]
    pair.client.response_ended(5, ENDED)
    async with asyncio.timeout(5):
        while not pair.heard:
            await asyncio.sleep(0)
    assert pair.heard == [ResponseEnded(5, ENDED)]


async def test_an_answer_nobody_waits_for_is_dropped(pair: Pair) -> None:
    """It came too late; the next question is answered as ever."""
    pair.steward.send(ResponseSaid(999, done=True))
    assert await pair.client.find(ANN, "resp_1") is None
