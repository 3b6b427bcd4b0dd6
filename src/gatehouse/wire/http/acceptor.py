"""Taking connections from listening sockets, and not taking them: at the limit, without descriptors, or when the house closes.

The event loops' own servers cannot pause; a listening socket that nobody reads keeps its queue, which is what an overloaded
machine needs.
"""

import asyncio
import errno
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

from gatehouse.core.ports import Clock

logger = logging.getLogger("gatehouse.wire.http")

_ONE_SECONDS: Final = 0.0002
"""What a worker with nothing else to do needs for a connection, in seconds. The workers share the listening socket, and who takes all
that wait leaves the others idle: so one is taken in a turn of the loop, and of those that stayed in the queue only as many as an idle
neighbour would have fetched meanwhile. A busy worker's turns are long, and at one for each a burst would wait in the queue for seconds."""
_MOST: Final = 256
"""Connections taken in one turn of the loop."""
_QUEUE: Final = 65_535
"""More than a listening socket keeps."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LEFT: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM}
)
"""What accept says on Linux when a connection was gone, or forbidden, before it was taken."""
_PAUSE: Final = 0.25
"""Seconds without accepting after the machine ran out of descriptors."""
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A peer whose machine vanished without a word is noticed after two minutes, also while its call runs."""


class Acceptor:
    """Accepts on `sockets` and hands each connection to `welcome`, while `room` says there is some."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        clock: Clock,
        *,
        room: Callable[[], bool],
        welcome: Callable[[socket.socket], None],
        sorry: bytes,
    ) -> None:
        self._sockets = tuple(sockets)
        self._clock = clock
        self._room = room
        self._welcome = welcome
        self._sorry = sorry
        """What a connection that cannot be served is told, or empty when it could not understand it (TLS)."""
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._closed = False
        self._stayed: dict[int, float] = {}
        """When connections were left in the queue of a listening socket (its descriptor), in the turn before this one."""
        self._reserve = _spare()
        """A descriptor to spare: with none left, not even a refusal could be sent. -1 while there is not even that."""
        for sock in self._sockets:
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:  # what is accepted inherits these
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.resume()

    @property
    def listening(self) -> bool:
        """Whether connections are being taken."""
        return self._listening

    def resume(self) -> None:
        """Take connections again."""
        if not self._listening and not self._closed:
            self._listening = True
            if self._reserve < 0:
                self._reserve = _spare()
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def pause(self) -> None:
        """Leave new connections in the queue."""
        if self._listening:
            self._listening = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)

    def close(self) -> None:
        """Take what already waits, then no more; the sockets are closed."""
        if self._closed:
            return
        self._closed = True
        for sock in self._sockets if self._listening else ():
            self._take(sock, _QUEUE)
        self.pause()
        if self._reserve >= 0:
            os.close(self._reserve)
        for sock in self._sockets:
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        stayed = self._stayed.pop(listener.fileno(), None)
        fetchable = 1 if stayed is None else int((self._clock.monotonic() - stayed) / _ONE_SECONDS)
        self._take(listener, max(1, min(fetchable, _MOST)))
        if self._listening and _readable(listener):
            file = listener.fileno()
            self._stayed[file] = now = self._clock.monotonic()
            # What is still there is told of in the next turn; what is not, somebody else has taken, and then the queue was empty.
            self._loop.call_soon(self._loop.call_soon, self._forget, file, now)

    def _forget(self, file: int, moment: float) -> None:
        if self._stayed.get(file) == moment:
            del self._stayed[file]

    def _take(self, listener: socket.socket, most: int) -> None:
        for _ in range(most):
            if not self._room():
                self.pause()
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as fault:
                if fault.errno in _LEFT:
                    continue
                logger.warning("not accepting for a moment: %s", fault.strerror)
                if fault.errno in _EXHAUSTED and self._reserve >= 0:
                    self._say_sorry(listener)
                self.pause()
                self._clock.call_later(_PAUSE, self.resume)
                return
            sock.setblocking(False)
            self._welcome(sock)

    def _say_sorry(self, listener: socket.socket) -> None:
        """Out of descriptors: the one in reserve is enough to tell whoever is first."""
        os.close(self._reserve)
        try:
            sock, _ = listener.accept()
            with sock:
                sock.setblocking(False)
                sock.send(self._sorry)
        except OSError:
            pass  # it has gone, or somebody else took the descriptor
        self._reserve = _spare()


def _readable(listener: socket.socket) -> bool:
    """Whether somebody waits in its queue."""
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
