"""The real clock, chance and tasks, behind the ports that a simulator replaces."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gatehouse.core.arrivals import Arrivals

logger = logging.getLogger("gatehouse.system")


class SystemClock:
    """Time of the machine and timers of the running loop."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)


class SystemRng:
    """Chance of the machine."""

    def random(self) -> float:
        """See `Rng`. Not for secrets."""
        return random.random()  # noqa: S311 - choices among targets

    def token(self, size: int) -> bytes:
        """See `Rng`. Fit for secrets."""
        return os.urandom(size)


class LoopTurn:
    """Implements `Turn` on the running event loop."""

    __slots__ = ("_call_soon", "_due", "_first", "_last", "_next", "_sends", "answered", "asked")

    def __init__(self) -> None:
        self._call_soon = asyncio.get_running_loop().call_soon
        self._first: list[Callable[[], object]] = []
        self._last: list[Callable[[], object]] = []
        self._next: list[Callable[[], object]] = []
        self._sends: list[tuple[Callable[[bytes], object], bytes]] = []
        self._due = False
        """Somebody will come to what is asked for now."""
        arrivals = Arrivals(self)
        self.asked = arrivals.asked
        """See `Turn`."""
        self.answered = arrivals.answered
        """See `Turn`."""

    def before(self, work: Callable[[], object]) -> None:
        """See `Turn`."""
        if not self._due:
            self._wake()
        self._first.append(work)

    def last(self, work: Callable[[], object]) -> None:
        """See `Turn`."""
        if not self._due:
            self._wake()
        self._last.append(work)

    def later(self, work: Callable[[], object]) -> None:
        """See `Turn`."""
        if not self._due:
            self._wake()
        self._next.append(work)

    def send(self, write: Callable[[bytes], object], data: bytes) -> None:
        """See `Turn`."""
        if not self._due:
            self._wake()
        self._sends.append((write, data))

    def _wake(self) -> None:
        self._due = True
        self._call_soon(self.end)

    def end(self) -> None:
        """See `Turn`. What is done here may itself end the turn: then what was still to be done is done there, before anything is sent."""
        first, last = self._first, self._last
        self._due = broken = True
        try:
            while first or last:
                work = (first or last).pop(0)
                try:
                    work()
                except Exception:
                    logger.exception("what is to be done before sending failed")
            broken = False
        finally:
            first += self._next
            self._next.clear()
            if first or last or broken:
                self._wake()  # for the next turn, or this step of the loop is over for a reason that is none of ours
            else:
                self._due = False
        sends, self._sends = self._sends, []
        for write, data in sends:
            try:
                write(data)
            except Exception:
                logger.exception("something could not be sent")


class TaskSpawner:
    """Starts tasks, keeps them from being collected, and logs what they die of."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __call__(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """See `Spawn`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task %s died", task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
