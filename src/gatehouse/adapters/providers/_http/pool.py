"""Connections to one origin: a bounded number open, a bounded number of callers waiting, the warmest reused first.

A connection that becomes free goes straight to whoever has waited longest. One that dies hands its place on, so a caller
never waits for a place that nobody holds.
"""

import asyncio
import socket
import time
from collections import OrderedDict

import msgspec

from gatehouse.adapters.providers._http.connection import Connection
from gatehouse.adapters.providers._http.dialing import Dialler
from gatehouse.core.errors import UpstreamFailed

_Waiter = asyncio.Future[Connection | None]


class PoolOptions(msgspec.Struct, frozen=True):
    """At most `connections` open and `waiting` callers queued; an unused connection is closed after `keep_idle` seconds."""

    connections: int = 256
    waiting: int = 1024
    keep_idle: float = 55.0

    def __post_init__(self) -> None:
        if self.connections < 1 or self.waiting < 0 or self.keep_idle <= 0:
            raise ValueError("a pool needs at least one connection, no negative queue and a positive idle time")


class Pool:
    """Lends connections. Implements `connection.Owner`."""

    def __init__(self, dialler: Dialler, options: PoolOptions, *, label: str) -> None:
        self._dialler = dialler
        self._options = options
        self._label = label
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._places = options.connections
        """How many more connections may be opened."""
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that are open, busy ones included."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Callers queued for a connection."""
        return len(self._queue)

    def at_hand(self) -> Connection | None:
        """An idle connection, if there is one: the case in which a request costs no waiting at all."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.usable():
                return connection
        return None

    async def acquire(self, seconds: float, *, fresh: bool = False) -> Connection:
        """A usable connection; `seconds` bound the waiting and, again, the connecting. `fresh` distrusts those kept idle.

        Raises:
            UpstreamFailed: upstream_overloaded, upstream_unreachable or upstream_timeout; certainly nothing was sent.
        """
        if fresh:
            for connection in self._idle[:]:
                connection.abort()
        while True:
            if self._closed:
                raise self._shut()
            kept = self.at_hand()
            if kept is not None:
                return kept
            if self._places > 0 and not self._queue:
                self._places -= 1
                return await self._dial(seconds)
            handed = await self._wait(seconds)
            if handed is None:
                return await self._dial(seconds)
            if handed.usable():
                return handed

    def close(self) -> None:
        """Close every connection; whoever waits or reads is told."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(self._shut())
        self._queue.clear()
        for connection in list(self._open):
            connection.close("closed by us")

    # --- connection.Owner ------------------------------------------------------------------------------------------

    def free(self, connection: Connection) -> None:
        """Hand it to whoever has waited longest, or keep it."""
        waiter = self._next() if self._queue else None
        if waiter is not None:
            waiter.set_result(connection)
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._options.keep_idle, self._sweep)

    def lost(self, connection: Connection) -> None:
        """Its place goes to whoever has waited longest."""
        if connection in self._open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._vacate()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _vacate(self) -> None:
        waiter = self._next()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self._places += 1

    def _next(self) -> _Waiter | None:
        while self._queue:
            waiter, _ = self._queue.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    async def _dial(self, seconds: float) -> Connection:
        # The caller holds a place; it is given back unless a connection now stands for it.
        loop = asyncio.get_running_loop()
        try:
            connection = await self._dialler.dial(lambda sock: self._make(loop, sock), seconds)
            if not connection.usable():
                raise UpstreamFailed(
                    "The model could not be reached.", code="upstream_unreachable", detail=f"{self._label}: closed at once", sent=False
                )
            if self._closed:
                connection.abort()
                raise self._shut()
        except BaseException:
            self._vacate()
            raise
        self._open.add(connection)
        return connection

    def _make(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Connection:
        return Connection(self, loop, sock, label=self._label)

    async def _wait(self, seconds: float) -> Connection | None:
        if len(self._queue) >= self._options.waiting:
            raise self._overloaded("too many are waiting for a connection")
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        self._queue[waiter] = None
        expiry = loop.call_later(seconds, self._expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Served and cancelled in the same moment: what was handed over goes to the next.
                connection = waiter.result()
                if connection is None:
                    self._vacate()
                elif connection.usable():
                    self.free(connection)
            raise
        finally:
            self._queue.pop(waiter, None)
            expiry.cancel()

    def _expire(self, waiter: _Waiter) -> None:
        if not waiter.done():
            waiter.set_exception(self._overloaded("no connection became free in time"))

    def _overloaded(self, detail: str) -> UpstreamFailed:
        return UpstreamFailed(
            "Too many calls are waiting for this model.",
            code="upstream_overloaded",
            retry_after=1.0,
            detail=f"{self._label}: {detail}",
            sent=False,
        )

    def _shut(self) -> UpstreamFailed:
        return UpstreamFailed("The model is shut down.", code="upstream_unreachable", detail=f"{self._label}: closed", sent=False)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = time.monotonic() - self._options.keep_idle
        for connection in [kept for kept in self._idle if kept.idle_since <= oldest]:
            connection.abort()
        self._sweeper = None
        if self._idle:
            wait = self._idle[0].idle_since - oldest
            self._sweeper = loop.call_later(max(wait, 0.01), self._sweep)
