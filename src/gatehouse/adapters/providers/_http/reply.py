"""The answer to one request: filled by its connection, read by one task.

A whole answer wakes its reader once. A streamed one hands over what has come since the reader last looked, in one piece,
so that a burst costs one wake-up. What is buffered is bounded: beyond it the connection stops reading.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from gatehouse.core.errors import UpstreamFailed

HIGH_WATER: Final = 262_144
"""Bytes of a stream that may wait for their reader before the connection stops reading."""
MAX_DRAINED: Final = 65_536
"""Bytes that may still follow a stream its reader is done with; the connection is dropped beyond."""


class Failure(msgspec.Struct, frozen=True):
    """Why an answer will not come; the exception is made anew for whoever asks, so that no reply holds its own traceback."""

    code: str
    message: str
    detail: str
    sent: bool = True

    def error(self) -> UpstreamFailed:
        """What is raised."""
        return UpstreamFailed(self.message, code=self.code, detail=self.detail, sent=self.sent)


class Line(Protocol):
    """What a reply needs of the connection that fills it."""

    def begun(self) -> None:
        """The answer proper has begun: from now on only silence is bounded."""

    def resume(self) -> None:
        """Read on: the buffer is empty again."""

    def hasten(self) -> None:
        """The answer is done with except for its framing: end it within a moment."""

    def abort(self) -> None:
        """Close now, telling nobody."""


class Reply(msgspec.Struct, eq=False):
    """Status, headers and body of one answer.

    `streams` asks for body bytes as they come, when the answer turns out to be a good stream of `stream_type`; every other
    answer is collected up to `limit` bytes.
    """

    streams: bool
    limit: int
    stream_type: bytes = b"text/event-stream"
    told: "Callable[[Reply], None] | None" = None
    """Called once when it is whole or has failed: for a reader that does not wait."""
    context: Any = None
    """What that reader needs to know of the question."""
    status: int = 0
    headers: dict[bytes, bytes] = {}
    """Names in lower case; of a repeated header the last one."""
    streaming: bool = False
    """The head has come and body bytes are handed over as they come."""
    begun: bool = False
    """The answer proper has begun: from now on only silence between two pieces is bounded."""
    complete: bool = False
    failure: Failure | None = None
    stale: bool = False
    """A kept connection had been closed before the request could be processed: another connection may be tried."""
    paused: bool = False
    drained: bool = False
    size: int = 0
    buffered: int = 0
    chunks: list[bytes] = []
    _waiter: asyncio.Future[None] | None = None
    line: Line | None = None

    def __repr__(self) -> str:
        # What it holds is what somebody was answered.
        return f"Reply({self.status}, {self.size} bytes)"

    async def ready(self) -> None:
        """Return when the answer is whole or, if it streams, has its first bytes.

        Raises:
            UpstreamFailed: it failed before.
        """
        if not self.is_ready:
            await self.news()
        self.check()

    @property
    def is_ready(self) -> bool:
        """Whether the answer is whole or has failed or, if it streams, has its first bytes."""
        return self.complete or self.failure is not None or (self.streaming and bool(self.chunks))

    def news(self) -> asyncio.Future[None]:
        """What is done when there is something to look at; for one reader at a time."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        return waiter

    def check(self) -> None:
        """Raise UpstreamFailed when the answer failed before there was anything of it."""
        if self.failure is not None and not (self.streaming and self.chunks):
            raise self.failure.error()

    async def more(self) -> bytes:
        """The bytes that came since the last look, waiting for some; b"" at the end of the answer.

        Raises:
            UpstreamFailed: the answer broke off, once everything before the break has been handed over.
        """
        while not self.chunks:
            if self.complete:
                return b""
            if self.failure is not None:
                raise self.failure.error()
            await self.news()
        return self.take()

    def take(self) -> bytes:
        """The bytes that have come and were not handed over yet."""
        chunks = self.chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        if self.paused and self.line is not None:
            self.line.resume()
        return data

    def begin(self) -> None:
        """The reader has seen the first event: the deadline for it is met."""
        if not self.begun:
            self.begun = True
            if self.line is not None:
                self.line.begun()

    def finish(self) -> None:
        """Nothing more of the body is wanted. The connection is kept if the framing ends properly within a moment."""
        if not self.complete and self.failure is None and self.line is not None:
            self.drained = True
            self.chunks.clear()
            self.buffered = 0
            self.line.hasten()

    def abandon(self) -> None:
        """Close the connection at once unless the answer has ended; a no-op after `finish`."""
        self.told = self.context = None
        if not self.complete and not self.drained and self.line is not None:
            self.line.abort()

    # From here on: called by the connection.

    def add(self, data: bytes) -> bool:
        """Keep a piece of the body; False when it is more than may be kept."""
        size = len(data)
        self.size += size
        self.buffered += size
        if self.drained:
            return self.buffered <= MAX_DRAINED
        self.chunks.append(data)
        if self._waiter is not None and self.streaming:
            self.wake()
        return self.size <= self.limit

    def end(self) -> None:
        """The answer is whole."""
        self.complete = True
        self.line = None
        self.wake()

    def fail(self, failure: Failure) -> None:
        """The answer will not come, or not wholly."""
        if not self.complete and self.failure is None:
            self.failure = failure
            self.line = None
            self.wake()

    def wake(self) -> None:
        """Let the reader look."""
        told = self.told
        if told is not None:
            self.told = None
            told(self)
            return
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
