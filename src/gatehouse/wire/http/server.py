"""The data plane's server: listeners, one shared timer for every deadline, and a way to stop that breaks no answer."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from gatehouse.core.errors import Unavailable
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock, Spawn, Timer, Turn
from gatehouse.wire.http import response
from gatehouse.wire.http.acceptor import Acceptor
from gatehouse.wire.http.data_plane import DataPlane
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.protocol import Connection
from gatehouse.wire.http.shared import Shared
from gatehouse.wire.http.tls import Tls

_LAST_WORDS: Final = 5.0
"""Seconds that calls ended by a shutdown have to close their streams, and their connections to take the news."""


class DataServer:
    """Serves `application` on listening sockets of the running loop."""

    def __init__(self, application: DataPlane, limits: HttpLimits, clock: Clock, spawn: Spawn, turn: Turn | None = None) -> None:
        self._application = application
        self._limits = limits
        self._clock = clock
        self._spawn = spawn
        self._shared = Shared(application, limits, clock.monotonic(), response.date_line(clock.now()), turn)
        self._acceptor: Acceptor | None = None
        self._timer: Timer | None = None
        self._tls: Tls | None = None
        self._handshakes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        """Done when the last call or the last connection has gone: whoever waits looks which."""
        self._shared.freed = self._freed
        application.emptied = self._wake

    def on_refused(self, told: Callable[[str], object]) -> None:
        """Have `told` called with the error code of each request that is not one."""
        self._shared.refused = told

    @property
    def open_connections(self) -> int:
        """Connections taken and not yet gone."""
        return len(self._shared.connections) + self._handshakes

    @property
    def running(self) -> int:
        """Calls whose answer is not out yet."""
        return len(self._application.running)

    @property
    def accepting(self) -> bool:
        """Whether new connections are taken."""
        return self._acceptor is not None and self._acceptor.listening

    async def start(self, sockets: Sequence[socket.socket], tls: Tls | None = None) -> None:
        """Serve on `sockets`, which already listen and now belong to the server."""
        self._tls = tls
        self._tick()
        fields, payload = self._application.refusal(Unavailable("Too many connections; try again in a moment.", retry_after=1.0))
        sorry = response.whole(503, fields + b"retry-after: 1\r\n" + response.CLOSE, payload)
        self._acceptor = Acceptor(sockets, self._clock, room=self._has_room, welcome=self._welcome, sorry=b"" if tls is not None else sorry)

    async def drain(self, grace: float) -> bool:
        """Take no more connections, let running calls end within `grace` seconds, end the rest, close everything.

        True when every call ended by itself. Requests that come meanwhile on open connections are told to go elsewhere.
        """
        self._shared.draining = True
        self._application.draining = True
        if self._acceptor is not None:
            self._acceptor.close()
        whole = await self._emptied(grace)
        if not whole:
            for x in tuple(self._application.running):
                x.end(Outcome.SHUTDOWN)
            await self._emptied(_LAST_WORDS)
        await self.close()
        return whole

    async def close(self) -> None:
        """Stop at once: running calls are ended, and connections given a moment to take what is already written."""
        self._shared.draining = True
        self._application.draining = True
        if self._acceptor is not None:
            self._acceptor.close()
        for x in tuple(self._application.running):
            x.end(Outcome.SHUTDOWN)
        await self._emptied(_LAST_WORDS)
        for connection in tuple(self._shared.connections):
            connection.close_idle()
        await self._gone(_LAST_WORDS)
        for connection in tuple(self._shared.connections):
            connection.abort()
        await self._gone(_LAST_WORDS)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """What time it is, and whose is up."""
        self._timer = self._clock.call_later(self._limits.tick_seconds, self._tick)
        shared = self._shared
        now = shared.now = self._clock.monotonic()
        shared.date = response.date_line(self._clock.now())
        for connection in [each for each in shared.connections if each.deadline <= now]:
            connection.expire()

    def _has_room(self) -> bool:
        return self.open_connections < self._limits.max_connections

    def _freed(self) -> None:
        """A connection has gone: there may be room for one that waits, or nobody left to wait for."""
        if self._acceptor is not None and not self._acceptor.listening and self._has_room():
            self._acceptor.resume()
        if not self.open_connections:
            self._wake()

    def _welcome(self, sock: socket.socket) -> None:
        self._handshakes += 1
        self._spawn(self._connect(sock), name="connect")

    async def _connect(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        shared = self._shared
        try:
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: Connection(shared, loop), sock)
            else:
                await loop.connect_accepted_socket(
                    lambda: Connection(shared, loop),
                    sock,
                    ssl=self._tls.context,
                    ssl_handshake_timeout=self._limits.head_seconds,
                    ssl_shutdown_timeout=self._limits.linger_seconds,
                )
        except (OSError, asyncio.CancelledError):
            sock.close()  # it left, or could not agree on TLS: nothing that anybody here can do about
        finally:
            self._handshakes -= 1
            self._freed()

    async def _emptied(self, seconds: float) -> bool:
        """Whether every running call ended within `seconds`."""
        await self._until(lambda: not self._application.running, seconds)
        return not self._application.running

    async def _gone(self, seconds: float) -> None:
        """Return when no connection is left, or after `seconds`."""
        await self._until(lambda: not self.open_connections, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when `condition` holds after somebody has gone, or after `seconds`."""
        end = self._clock.monotonic() + seconds
        timer = self._clock.call_later(seconds, self._wake)
        try:
            while not condition() and self._clock.monotonic() < end:
                change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.add(change)
                await change
        finally:
            timer.cancel()

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
        self._waiting.clear()
