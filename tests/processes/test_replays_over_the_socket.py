"""Claims over a real socket pair: what nobody waits for any more must not stand as being carried."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gatehouse.adapters.system import SystemClock
from gatehouse.control.replays import Replays
from gatehouse.core.errors import Unavailable
from gatehouse.core.replays import Claim, Replayed
from gatehouse.processes.protocol import ClaimReplay, FinishReplay, Link, Message, ReplaySaid
from gatehouse.processes.steward_client import StewardClient
from gatehouse.testing.fakes import FakeClock


class Pair:
    """A worker's client, and the steward's desk, which answers when it is let."""

    def __init__(self) -> None:
        self.replays = Replays(FakeClock(), 600, 1_000_000)
        self.held: list[ClaimReplay] | None = None
        self.asked = asyncio.Event()
        self.finished = asyncio.Event()
        self.steward = Link(self._receive, lambda: None)
        self.client = StewardClient(SystemClock(), lambda message: None, lambda: None)

    def _receive(self, message: Message) -> None:
        if isinstance(message, ClaimReplay):
            self.asked.set()
            if self.held is None:
                self.say(message)
            else:
                self.held.append(message)
        elif isinstance(message, FinishReplay):
            self.replays.finish("w", message.key, message.answer)
            self.finished.set()

    def say(self, message: ClaimReplay) -> None:
        self.steward.send(ReplaySaid(message.number, self.replays.claim("w", message.key, message.digest)))

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        for sock, end in ((ours, self.steward), (theirs, self.client.link)):
            sock.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await made.open()
    yield made
    made.steward.close()
    made.client.link.close()
    await asyncio.sleep(0)


async def test_a_claim_and_its_answer(pair: Pair) -> None:
    """The bytes of an answer come back as they were, whoever asks next."""
    answer = Replayed(b"a: b\r\n", bytes(range(256)) * 40, streamed=True)
    assert await pair.client.claim(b"k", b"d") == Claim("yours")
    pair.client.finish(b"k", answer)
    await asyncio.wait_for(pair.finished.wait(), 5)
    assert await pair.client.claim(b"k", b"d") == Claim("done", answer)


async def test_a_claim_that_comes_too_late_is_given_up(pair: Pair) -> None:
    """Its asker left while the steward thought: the request is free for the next one."""
    pair.held = []
    asking = asyncio.ensure_future(pair.client.claim(b"k", b"d"))
    await asyncio.wait_for(pair.asked.wait(), 5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    pair.say(pair.held[0])
    await asyncio.wait_for(pair.finished.wait(), 5)
    pair.held = None
    assert await pair.client.claim(b"k", b"d") == Claim("yours")


async def test_a_steward_that_has_gone(pair: Pair) -> None:
    """Cannot be asked: unavailable, never a guess."""
    pair.steward.close()
    with pytest.raises(Unavailable):
        await pair.client.claim(b"k", b"d")
