"""What a stage's `watch` returns: a generator around a stream that closes the stream on every exit.

An asynchronous generator that nobody began to iterate runs no `finally` when it is closed; what it wraps would stay open.
"""

from collections.abc import AsyncGenerator
from typing import Any

from gatehouse.core.events import Event, Events


class Watching(AsyncGenerator[Event, None]):
    """`watched` iterates `source`. Iterating this costs what iterating `watched` costs; closing it closes both."""

    __slots__ = ("_source", "_watched")

    def __init__(self, source: Events, watched: Events) -> None:
        self._source = source
        self._watched = watched

    def __aiter__(self) -> Events:
        return self._watched

    async def asend(self, value: None) -> Event:
        """The next event."""
        return await self._watched.asend(value)

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> Event:
        """Raise inside `watched`."""
        return await self._watched.athrow(typ, val, tb)

    async def aclose(self) -> None:
        """Close both, whatever either says."""
        try:
            await self._watched.aclose()
        finally:
            await self._source.aclose()
