"""A stream of exactly one event: what a target that answers in one piece, or a cache, gives.

It holds nothing, so closing it closes nothing; it costs a fraction of an asynchronous generator, of which the event loop
keeps a register. Whoever sees that a stream is `Single` may take its event at once.
"""

from collections.abc import AsyncGenerator
from typing import Any

from gatehouse.core.events import Event


class Single(AsyncGenerator[Event, None]):
    """Yields `event` once."""

    __slots__ = ("_ended", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._ended = False

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        self._ended = True
        return self.event

    async def asend(self, value: None) -> Event:
        """The event, the first time."""
        return await self.__anext__()

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> Event:
        """End, and raise what was thrown in."""
        self._ended = True
        raise typ if val is None else val

    async def aclose(self) -> None:
        """End."""
        self._ended = True
