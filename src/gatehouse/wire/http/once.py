"""A call whose request names an idempotency key: carried once, however often it is asked for.

Before the call begins its caller is identified and its body read, by the same functions and under the same bounds as in the
pipeline, because whether it is the same request can only be said then. A call that is carried goes through every stage as any
other. It runs to its end though its client leaves: that it left is why it will ask again. What is repeated is a whole answer of
status 200; a failure is not kept, so that asking again tries again.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gatehouse.core.errors import GatehouseError, InvalidRequest
from gatehouse.core.identity import Principal
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock
from gatehouse.core.replays import Claim, ReplayDesk, Replayed
from gatehouse.pipeline.exchange import Exchange
from gatehouse.wire.http.protocol import Connection
from gatehouse.wire.http.refusals import shutting_down
from gatehouse.wire.http.stream import Stream

logger = logging.getLogger("gatehouse.wire.http")

HEADER: Final = b"idempotency-key"
REPLAYED: Final = b"x-gatehouse-replayed: true\r\n"
_LONGEST: Final = 255
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two questions whether an equal request has ended."""
_LARGE: Final = 262_144
"""Bytes from which a digest is made beside the loop."""


class Outlet(Protocol):
    """Where the frames of a stream go."""

    @property
    def writes(self) -> int:
        """How often something left."""

    def send(self, frame: bytes) -> bool:
        """See `Stream.send`."""

    async def give_way(self) -> None:
        """See `Stream.give_way`."""

    def end(self, tail: bytes, *, broken: bool = False) -> None:
        """See `Stream.end`."""


class Replier(Protocol):
    """Where the answer to a call goes: a connection, or a recorder before it."""

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""

    @property
    def clogged(self) -> bool:
        """Whether the reader is behind."""

    def answer(self, status: int, fields: bytes, payload: bytes, *, close: bool = False) -> None:
        """Send a whole answer."""

    def stream(self, fields: bytes) -> Outlet:
        """Begin a streamed one."""

    def abort(self) -> None:
        """Close without a word."""


class Rules(Protocol):
    """What a call that is carried once asks of who serves it."""

    desk: ReplayDesk
    clock: Clock
    largest: int
    """Bytes of an answer that are kept at most."""

    async def identify(self, credentials: tuple[bytes, ...]) -> Principal:
        """Who asks."""

    def limit_of(self, principal: Principal) -> int:
        """Bytes of body that they may send."""


Carry = Callable[[Replier, Exchange], Awaitable[None]]
"""Runs the call and answers it, whatever becomes of it."""
Refuse = Callable[[GatehouseError, int | None], None]
"""Answers what becomes no call; with another status than the dialect's."""


class Ready:
    """A body that has been read."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def at_hand(self, limit: int) -> bytes | None:
        """See `core.ports.Body`."""
        return self._content if len(self._content) <= limit else None

    async def read(self, limit: int) -> bytes:
        """See `core.ports.Body`."""
        return self._content


class Once:
    """One request with an idempotency key, until it is answered."""

    __slots__ = ("_begun", "_carried", "_carry", "_connection", "_outcome", "_refuse", "_rules", "_x", "task")

    def __init__(self, rules: Rules, connection: Connection, x: Exchange, carry: Carry, refuse: Refuse) -> None:
        """`x` is the call that there will be, unless it was made before."""
        self._rules = rules
        self._connection = connection
        self._x = x
        self._carry = carry
        self._refuse = refuse
        self._begun = False
        self._carried = False
        self._outcome: Outcome | None = None
        self.task: asyncio.Task[None] | None = None
        """What runs it; set by whoever started that."""

    def end(self, outcome: Outcome) -> None:
        """The client has gone: what only waits is over, what is carried runs on. Any other end is an end."""
        if self._carried:
            if outcome is not Outcome.CLIENT:
                self._x.end(outcome)
        elif self._outcome is None:
            self._outcome = outcome
            # A task that is cancelled before its first step runs none of its lines, so nobody would hear that it is over.
            if self._begun and self.task is not None:
                self.task.cancel()

    async def run(self) -> None:
        """Answer it."""
        self._begun = True
        try:
            if self._outcome is not None:
                raise asyncio.CancelledError
            await self._run()
        except GatehouseError as error:
            self._refuse(error, None)
        except asyncio.CancelledError:
            if self._outcome is not Outcome.CLIENT:
                self._refuse(shutting_down(), None)
        except Exception:
            logger.exception("request %s: it could not be answered", self._x.request_id)
            self._connection.abort()

    async def _run(self) -> None:
        rules, head, body = self._rules, self._x.head, self._x.body
        assert body is not None
        principal = await rules.identify(head.credentials)
        name = head.headers[HEADER]
        if not 1 <= len(name) <= _LONGEST or not (name.isascii() and name.decode("ascii").isprintable()):
            raise InvalidRequest(
                f"Idempotency-Key has 1 to {_LONGEST} printable ASCII characters.", code="invalid_idempotency_key", param="idempotency-key"
            )
        content = await body.read(rules.limit_of(principal))
        key = _digest(b"\0".join((principal.tenant.encode(), principal.key_id.encode(), head.path.encode(), name)))
        digest = _digest(content) if len(content) <= _LARGE else await asyncio.to_thread(_digest, content)
        claim = await self._claimed(key, digest)
        if claim.state == "reused":
            words = "This Idempotency-Key was used for another request; a new request needs a new one."
            self._refuse(InvalidRequest(words, code="idempotency_key_reused", param="idempotency-key"), 422)
        elif claim.answer is not None:
            self._repeat(claim.answer)
        else:
            await self._carry_once(key, content)

    async def _claimed(self, key: bytes, digest: bytes) -> Claim:
        """The claim, once no equal request runs any more."""
        pause = _FIRST_PAUSE
        while True:
            claim = await self._rules.desk.claim(key, digest)
            if claim.state != "running":
                return claim
            await self._rules.clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _carry_once(self, key: bytes, content: bytes) -> None:
        recorder = Recorder(self._connection, self._rules.largest)
        self._x.body = Ready(content)
        self._carried = True
        try:
            await self._carry(recorder, self._x)
        finally:
            self._rules.desk.finish(key, recorder.kept if self._x.outcome is Outcome.COMPLETED else None)

    def _repeat(self, answer: Replayed) -> None:
        if answer.streamed:
            self._connection.stream(answer.fields + REPLAYED).end(answer.body)
        else:
            self._connection.answer(200, answer.fields + REPLAYED, answer.body)


class Recorder:
    """Passes an answer on and keeps it, unless it is larger than `largest` bytes."""

    def __init__(self, connection: Connection, largest: int) -> None:
        self._connection = connection
        self._largest = largest
        self.kept: Replayed | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""
        return self._connection.gone

    @property
    def clogged(self) -> bool:
        """Whether the reader is behind."""
        return self._connection.clogged

    def answer(self, status: int, fields: bytes, payload: bytes, *, close: bool = False) -> None:
        """Send a whole answer."""
        if status == 200 and len(payload) <= self._largest:
            self.kept = Replayed(fields, payload)
        self._connection.answer(status, fields, payload, close=close)

    def stream(self, fields: bytes) -> "RecordedStream":
        """Begin a streamed one."""
        return RecordedStream(self, None if self.gone else self._connection.stream(fields), fields, self._largest)

    def abort(self) -> None:
        """Close without a word."""
        self._connection.abort()


class RecordedStream:
    """Frames on their way out, and the same once more."""

    def __init__(self, recorder: Recorder, stream: Stream | None, fields: bytes, largest: int) -> None:
        self._recorder = recorder
        self._stream = stream
        self._fields = fields
        self._room = largest
        self._frames: list[bytes] = []

    @property
    def writes(self) -> int:
        """How often something left."""
        return 0 if self._stream is None else self._stream.writes

    def send(self, frame: bytes) -> bool:
        """Queue a frame; True asks for `give_way`."""
        self._keep(frame)
        return True if self._stream is None else self._stream.send(frame)

    async def give_way(self) -> None:
        """Let others have their turn; a reader that is gone is not waited for."""
        if self._stream is None or self._recorder.gone:
            await asyncio.sleep(0)
        else:
            await self._stream.give_way()

    def end(self, tail: bytes, *, broken: bool = False) -> None:
        """Finish the answer. A broken one is not kept."""
        self._keep(tail)
        if not broken and self._room >= 0:
            self._recorder.kept = Replayed(self._fields, b"".join(self._frames), streamed=True)
        self._frames.clear()
        if self._stream is not None:
            self._stream.end(tail, broken=broken)

    def _keep(self, frame: bytes) -> None:
        self._room -= len(frame)
        if self._room >= 0:
            self._frames.append(frame)
        else:
            self._frames.clear()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=32).digest()
