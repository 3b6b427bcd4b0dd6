"""A call of the library on its way: what the runner delivers in one task is read, event by event, in another."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Final, Self

from gatehouse.adapters.system import TaskSpawner
from gatehouse.core.collect import collected
from gatehouse.core.errors import GatehouseError, Internal, Unauthenticated, Unavailable
from gatehouse.core.events import Event, Events
from gatehouse.core.money import format_usd
from gatehouse.core.outcome import Outcome
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Runner

AHEAD: Final = 32
"""Events that may wait for their reader before the model has to wait too."""


class Carrying:
    """One exchange, carried by a task of its own, so that whatever ends the call never ends who reads it."""

    def __init__(self, x: Exchange, runner: Runner, spawn: TaskSpawner) -> None:
        self.x = x
        self._runner = runner
        self._spawn = spawn
        self._events: deque[Event] = deque()
        self._ended: asyncio.Future[None] | None = None
        self._error: GatehouseError | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events. When this ends the call is settled; closing it stops the call."""
        self._ended = asyncio.get_running_loop().create_future()
        task = self._spawn(self._carry(), name="call")
        task.add_done_callback(self._done)
        try:
            while (event := await self._next()) is not None:
                yield event
        finally:
            await self.stop()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """End the call as one whose caller has left, and return when it is settled. A no-op when it has ended."""
        if self._ended is not None and not self._ended.done():
            self.x.end(Outcome.CLIENT)
            await asyncio.shield(self._ended)

    async def _carry(self) -> None:
        try:
            await self._runner.carry(self.x, self._deliver)
        except GatehouseError as error:
            self._error = error

    def _done(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self._error = _stopped(self.x.outcome)
        elif task.exception() is not None:
            self._error = Internal("Something went wrong on our side.")
        assert self._ended is not None
        self._ended.set_result(None)
        _wake(self._wanted)

    async def _deliver(self, x: Exchange, events: Events) -> None:
        if x.call is None or not x.call.stream:
            x.answer = await collected(events)
            await self._hand_over(x.answer)
        else:
            async for event in events:
                await self._hand_over(event)
        # Not completed before the reader has it all.
        while self._events:
            await self._wait_for_room()

    async def _hand_over(self, event: Event) -> None:
        self._events.append(event)
        _wake(self._wanted)
        while len(self._events) >= AHEAD:
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    async def _next(self) -> Event | None:
        """The next event, or None when the call has ended and all that it brought was read."""
        assert self._ended is not None
        while not self._events and not self._ended.done():
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        if not self._events:
            return None
        event = self._events.popleft()
        _wake(self._room)
        return event


class Reply:
    """A call's answer as it comes: `async for event in reply`, once.

    Leaving the loop stops the call; `async with reply:` or `await reply.aclose()` also waits until it is settled. What it
    used and cost stands here when it has ended.
    """

    def __init__(self, carrying: Carrying) -> None:
        self._carrying = carrying
        self._read = False

    def __aiter__(self) -> AsyncIterator[Event]:
        # Nothing here holds on to the generator: when its loop is left it is closed, though the reply is kept.
        if self._read:
            raise RuntimeError("a reply can be read once")
        self._read = True
        return self._carrying.events()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the call if it runs, and return when it is settled."""
        await self._carrying.stop()

    @property
    def request_id(self) -> str:
        """The call's id in usage, traces and logs."""
        return self._carrying.x.request_id

    @property
    def target(self) -> str | None:
        """The target that answers, or answered last."""
        target = self._carrying.x.target
        return None if target is None else target.id

    @property
    def cache(self) -> str:
        """hit, miss or bypass."""
        return self._carrying.x.cache

    @property
    def usage(self) -> Usage:
        """Tokens used."""
        return self._carrying.x.usage

    @property
    def cost_usd(self) -> str:
        """What the call cost, as a decimal string."""
        return format_usd(self._carrying.x.charge)


def _stopped(outcome: Outcome | None) -> GatehouseError:
    """What a reader is told whose call was ended from outside."""
    if outcome is Outcome.REVOKED:
        return Unauthenticated("The key of this call was revoked.")
    words = "This reply was closed." if outcome is Outcome.CLIENT else "This Gatehouse is closing."
    return Unavailable(words, code="shutting_down")


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
