"""How many of those that wait a worker takes in one turn of its loop: neighbours share the queue, and nobody may wait in it for long."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from gatehouse.testing.fakes import FakeClock
from gatehouse.wire.http.acceptor import Acceptor


@dataclass
class Door:
    """An acceptor on a real listening socket; whoever it takes is put down in `taken`."""

    clock: FakeClock
    listener: socket.socket
    taken: list[socket.socket] = field(default_factory=list)
    waiting: list[socket.socket] = field(default_factory=list)
    most: int = 10_000

    def open(self) -> Acceptor:
        """Begin to take connections."""
        return Acceptor([self.listener], self.clock, room=lambda: len(self.taken) < self.most, welcome=self.taken.append, sorry=b"")

    def arrive(self, count: int) -> None:
        """So many connect, and wait in the queue."""
        self.waiting += [socket.create_connection(self.listener.getsockname()) for _ in range(count)]

    async def turn(self) -> int:
        """One turn of the loop: how many were taken in it."""
        before = len(self.taken)
        while len(self.taken) == before:  # the loop looks at its descriptors once in each of these
            await asyncio.sleep(0)
        return len(self.taken) - before


@contextlib.asynccontextmanager
async def door() -> AsyncIterator[Door]:
    """Cleaned up after the test."""
    it = Door(FakeClock(), socket.create_server(("127.0.0.1", 0), backlog=512))
    try:
        yield it
    finally:
        for sock in (*it.taken, *it.waiting, it.listener):
            sock.close()


async def test_turns_that_take_no_time_take_one_connection_each() -> None:
    """So that workers with nothing to do share a burst."""
    async with door() as it:
        it.arrive(4)
        acceptor = it.open()
        assert [await it.turn() for _ in range(4)] == [1, 1, 1, 1]
        acceptor.close()


async def test_a_busy_worker_takes_as_many_as_an_idle_neighbour_would_have_fetched_meanwhile() -> None:
    """At one for each of its long turns a burst would wait for seconds."""
    async with door() as it:
        it.arrive(100)
        acceptor = it.open()
        assert await it.turn() == 1
        it.clock.advance(0.0021)
        assert await it.turn() == 10
        it.clock.advance(10.0)
        assert await it.turn() == 89
        acceptor.close()


async def test_a_burst_after_a_rest_is_shared_again() -> None:
    """The time in which nobody waited counts for nothing."""
    async with door() as it:
        it.arrive(1)
        acceptor = it.open()
        assert await it.turn() == 1
        it.clock.advance(10.0)
        it.arrive(3)
        assert [await it.turn() for _ in range(3)] == [1, 1, 1]
        acceptor.close()


async def test_what_somebody_else_took_meanwhile_counts_for_nothing() -> None:
    """A neighbour fetched what had stayed in the queue: the next burst comes after a rest."""
    async with door() as it:
        it.arrive(2)
        acceptor = it.open()
        assert await it.turn() == 1
        it.taken.append(it.listener.accept()[0])
        for _ in range(3):
            await asyncio.sleep(0)
        it.clock.advance(2.0)
        it.arrive(40)
        assert [await it.turn() for _ in range(3)] == [1, 1, 1]
        acceptor.close()


async def test_who_is_welcomed_while_it_closes_may_close_it() -> None:
    """Nothing is closed twice."""
    async with door() as it:
        it.arrive(3)
        acceptors: list[Acceptor] = []

        def welcome(sock: socket.socket) -> None:
            it.taken.append(sock)
            acceptors[0].close()

        acceptors.append(Acceptor([it.listener], it.clock, room=lambda: True, welcome=welcome, sorry=b""))
        acceptors[0].close()
        assert len(it.taken) == 3


async def test_closing_takes_all_that_wait_and_no_more_than_there_is_room_for() -> None:
    """They get an answer, where a closed queue would have reset them."""
    async with door() as it:
        it.arrive(30)
        it.most = 20
        it.open().close()
        assert len(it.taken) == 20
