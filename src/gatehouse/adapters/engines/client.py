"""A worker's end of an embedded engine: calls over the host's Unix socket, as the Model that Dispatch knows."""

import asyncio
from collections import deque
from pathlib import Path
from typing import Final, cast

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.engine_messages import (
    AnyEngineMessage,
    Ask,
    Cancel,
    Count,
    Counted,
    Done,
    EngineMessage,
    Failed,
    Hello,
    Pieces,
    Ping,
    Whole,
)
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Chunk, Event, Events
from gatehouse.core.frames import FrameCutter, framed
from gatehouse.core.plans import Target
from gatehouse.core.ports import Attempt

_STARTED: Final = Chunk()
"""What a stream yields to nobody, so that its generator has begun and closing it always runs its end."""
_RETRY: Final = 1.0
COUNT_SECONDS: Final = 0.5
"""A call waits no longer for its prompt to be counted."""
NOT_RUNNING: Final = "The embedded model does not run at the moment."


class _Talk:
    """One call: what came and was not taken yet."""

    __slots__ = ("_loop", "_patience", "_since", "_timer", "attempt", "begun", "events", "failure", "finished", "waiting")

    def __init__(self, attempt: Attempt) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        """When the wait of the moment began, or the last one."""
        self._patience = 0.0
        """How long it may take, in seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self.attempt = attempt
        self.begun = False
        """The engine said something."""
        self.events: deque[Event] = deque()
        self.finished = False
        self.failure: UpstreamFailed | None = None
        self.waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Somebody may be waiting for what has just come."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    async def more(self, seconds: float) -> bool:
        """Wait for something; False when nothing more will come.

        Raises:
            UpstreamFailed: the engine failed, or said nothing for `seconds`.
        """
        while not self.events:
            if self.failure is not None:
                raise self.failure
            if self.finished:
                return False
            self.waiting = self._loop.create_future()
            self._since = self._loop.time()
            if seconds != self._patience:
                self.over()
                self._patience = seconds
                self._timer = self._loop.call_later(seconds, self._look)
            try:
                await self.waiting
            finally:
                self.waiting = None
        return True

    def _look(self) -> None:
        """Has somebody been waiting too long? One timer asks that now and then: one an event would cost more than the event."""
        waited = self._loop.time() - self._since if self.waiting is not None else 0.0
        if waited < self._patience:
            self._timer = self._loop.call_later(self._patience - waited, self._look)
            return
        self.failure = self.failure or UpstreamFailed("The embedded model took too long.", code="upstream_timeout")
        self.wake()

    def over(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class EngineModel:
    """Implements `Model`, `Slotted` and `TokenCounter` for the engine host that listens on `path`.

    The connection is made when it is needed, and again when it broke.
    """

    def __init__(self, path: Path, *, count_seconds: float = COUNT_SECONDS) -> None:
        self._path = path
        self._count_seconds = count_seconds
        self._line: _Line | None = None
        self._connecting: asyncio.Lock = asyncio.Lock()
        self._number = 0
        self._slots: int | None = None

    @property
    def slots(self) -> int | None:
        """What the host said when it was met last; see `Slotted`."""
        return self._slots

    def __repr__(self) -> str:
        return f"EngineModel({self._path.name})"

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """See `Model`."""
        line = await self._connected(attempt.deadlines.connect)
        if line.hello is not None and line.hello.problem:
            detail = f"engine {self._path.name}: {line.hello.problem}"
            raise UpstreamFailed("The embedded model could not be loaded.", code="upstream_unreachable", detail=detail, sent=False)
        self._number += 1
        number = self._number
        talk = line.talks[number] = _Talk(attempt)
        attempt.sent = True
        line.send(Ask(number, call, attempt.deadlines.first_byte))
        first_byte = attempt.deadlines.first_byte if call.stream else attempt.deadlines.total
        try:
            if not await talk.more(first_byte):
                raise UpstreamFailed("The embedded model answered nothing.", code="upstream_invalid")
        except BaseException:
            line.leave(number)
            raise
        events = _flow(line, number, talk, attempt.deadlines.idle)
        await events.asend(None)
        return events

    async def count_tokens(self, call: Call) -> int | None:
        """See `TokenCounter`. None after `count_seconds` at the latest, whatever has become of the host."""
        try:
            async with asyncio.timeout(self._count_seconds):
                line = await self._connected(self._count_seconds)
                if line.hello is None or line.hello.problem:
                    return None
                self._number += 1
                return await line.count(self._number, call)
        except (UpstreamFailed, TimeoutError):
            return None

    async def ping(self) -> str:
        """ "" when the host answers and its model is loaded."""
        try:
            line = await self._connected(5.0)
        except UpstreamFailed as error:
            return error.message
        line.send(Ping())
        return line.hello.problem if line.hello is not None else ""

    async def close(self) -> None:
        """Hang up; running calls fail."""
        if self._line is not None:
            self._line.hang_up()

    async def _connected(self, seconds: float) -> "_Line":
        line = self._line
        if line is not None and line.open:
            return line
        async with self._connecting:
            if self._line is not None and self._line.open:
                return self._line
            try:
                async with asyncio.timeout(seconds):
                    _, line = await asyncio.get_running_loop().create_unix_connection(_Line, str(self._path))
                    await line.greeted
            except (OSError, TimeoutError) as error:
                raise UpstreamFailed(
                    NOT_RUNNING,
                    code="upstream_unreachable",
                    retry_after=_RETRY,
                    detail=f"engine {self._path.name}: {type(error).__name__}",
                    sent=False,
                ) from None
            self._line = line
            self._slots = line.hello.slots or None if line.hello is not None else None
            return line


async def _flow(line: "_Line", number: int, talk: _Talk, idle: float) -> Events:
    """The events of a call; whoever closes this stops the engine within a token."""
    try:
        yield _STARTED
        while await talk.more(idle):
            while talk.events:
                yield talk.events.popleft()
    finally:
        line.leave(number)


class _Line(asyncio.Protocol):
    """The connection to a host."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._cutter = FrameCutter()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(AnyEngineMessage)
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.hello: Hello | None = None
        self.talks: dict[int, _Talk] = {}
        self._counts: dict[int, asyncio.Future[int | None]] = {}

    @property
    def open(self) -> bool:
        """Whether the host can be spoken to."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The host took us."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """What the host says."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._cutter.feed(data)]
        except (ValueError, msgspec.DecodeError):
            self.hang_up()
            return
        for message in messages:
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The host is gone: every call it was answering has failed."""
        self._transport = None
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionResetError())
            self.greeted.exception()
        for talk in self.talks.values():
            code = "upstream_broken" if talk.begun else "upstream_unreachable"
            talk.failure = talk.failure or UpstreamFailed("The embedded model stopped.", code=code, retry_after=_RETRY)
            talk.wake()
        for number in tuple(self._counts):
            self._counted(number, None)

    async def count(self, number: int, call: Call) -> int | None:
        """The prompt's tokens; None when the host does not count them or is gone."""
        waiting: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._counts[number] = waiting
        self.send(Count(number, call))
        try:
            return await waiting
        finally:
            if self._counts.pop(number, None) is not None:
                self.send(Cancel(number))

    def _counted(self, number: int, tokens: int | None) -> None:
        waiting = self._counts.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(tokens)

    def send(self, message: EngineMessage) -> None:
        """Write one message; a no-op when the host is gone."""
        if self._transport is not None:
            self._transport.write(framed(self._encoder.encode(message)))

    def leave(self, number: int) -> None:
        """Nobody wants more of this call."""
        talk = self.talks.pop(number, None)
        if talk is None:
            return
        talk.over()
        if not talk.finished and talk.failure is None:
            self.send(Cancel(number))

    def hang_up(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, message: EngineMessage) -> None:
        if isinstance(message, Hello):
            self.hello = message
            if not self.greeted.done():
                self.greeted.set_result(None)
            return
        if isinstance(message, Counted):
            self._counted(message.number, message.tokens)
            return
        number = getattr(message, "number", -1)
        talk = self.talks.get(number)
        if talk is None:
            if isinstance(message, Failed):
                self._counted(number, None)
            return
        match message:
            case Pieces(chunks=chunks):
                talk.begun = True
                talk.events.extend(chunks)
            case Whole(answer=answer):
                talk.events.append(answer)
                talk.finished = True
            case Done():
                talk.finished = True
            case Failed():
                talk.failure = UpstreamFailed(
                    message.message,
                    code=message.code if message.caller_fault or message.code.startswith("upstream_") else "upstream_invalid",
                    retry_after=message.retry_after,
                    caller_fault=message.caller_fault,
                )
            case _:
                return
        if not isinstance(message, Pieces):
            # However slowly the answer is taken, the engine has done with it.
            talk.attempt.vacated()
        talk.wake()
