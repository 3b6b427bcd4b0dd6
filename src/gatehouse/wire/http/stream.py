"""A streamed answer: frames that come in one turn of the event loop leave in one write, and a slow client pauses their producer."""

import asyncio
from typing import Final, Protocol

from gatehouse.wire.http import response

_BURST_FRAMES: Final = 64
_BURST_BYTES: Final = 65_536
"""A producer that never pauses gives way after so much, so that its frames leave and others get their turn."""


class Channel(Protocol):
    """What a stream asks of the connection that carries it."""

    @property
    def clogged(self) -> bool:
        """Whether to wait for `drained`."""

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""

    async def drained(self) -> None:
        """Return when more may be sent."""

    def answered(self, *, keep: bool) -> None:
        """The last byte was written."""

    def settle(self) -> None:
        """Let what is recorded get into the journal, and what is owed leave, before anything else is written."""


class Stream:
    """Frames of one answer on their way out. Its head leaves with the first of them."""

    __slots__ = ("_channel", "_chunked", "_frames", "_head", "_keep", "_loop", "_size", "_transport", "writes")

    def __init__(
        self,
        channel: Channel,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        head: bytes,
        *,
        chunked: bool,
        keep: bool,
    ) -> None:
        self._channel = channel
        self._transport = transport
        self._loop = loop
        self._head = head
        self._chunked = chunked
        self._keep = keep
        self._frames: list[bytes] = []
        self._size = 0
        self.writes = 0
        """How often something was due to leave: what stays the same is a silent stream."""

    def send(self, frame: bytes) -> bool:
        """Queue a frame for the end of this turn. True asks the producer to await `give_way` before the next."""
        frames = self._frames
        if not frames:
            self._loop.call_soon(self._flush)
            self._size = 0
        frames.append(frame)
        self._size += len(frame)
        return self._channel.clogged or len(frames) >= _BURST_FRAMES or self._size >= _BURST_BYTES

    async def give_way(self) -> None:
        """Let what is queued leave, then wait until the client has read enough."""
        await asyncio.sleep(0)
        await self._channel.drained()

    def end(self, tail: bytes, *, broken: bool = False) -> None:
        """Send what is queued and `tail`, and finish the answer. After a `broken` one the connection closes."""
        if self._channel.gone:
            self._frames.clear()
            return
        if tail:
            self._frames.append(tail)
        self._channel.settle()
        self._flush(last=True)
        self._channel.answered(keep=self._keep and not broken)

    def _flush(self, *, last: bool = False) -> None:
        frames = self._frames
        self.writes += 1
        if self._channel.gone:
            frames.clear()
            return
        if not self._chunked:
            data = b"".join(frames)
        else:
            data = response.chunk(frames) if frames else b""
            if last:
                data += response.LAST_CHUNK
        frames.clear()
        if self._head:
            data = self._head + data
            self._head = b""
        if data:
            self._transport.write(data)
