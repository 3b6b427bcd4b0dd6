"""Messages between servers through Valkey (or Redis): published on one channel, and kept nowhere.

Two connections, because one that has subscribed may not publish. This side hears itself too, and goes by that: whoever has published and
hears nothing of it within the deadline connects anew, whatever is wrong, a dead link, a paused server or a permission that lacks. What
cannot be sent now is not sent later. Only the steward imports this.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow

from gatehouse.core.ports import LARGEST_BROADCAST, Clock, Rng, Spawn, Task
from gatehouse.core.secrets import Secret

logger = logging.getLogger("gatehouse.state")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries to connect, half as many more or less by chance."""
MOST_WAITING: Final = 256
"""Messages that wait to be published; the oldest go first."""
MOST_A_SECOND: Final = 2_000
MOST_BYTES_A_SECOND: Final = 16 * 1024 * 1024
"""What is read in a second; the rest waits with Valkey, which cuts off whoever lets too much wait."""
QUIET_SECONDS: Final = 3_600.0
"""Without a word for so long, of ourselves neither, the link is made anew."""
SENDER_BYTES: Final = 8


class ValkeyPlace(msgspec.Struct, frozen=True):
    """Where Valkey is and how it is spoken to."""

    host: str
    port: int
    channel: str
    """What servers of one installation have in common."""
    username: str | None = None
    password: Secret | None = None
    tls: ssl.SSLContext | None = None
    connect_seconds: float = 2.0
    answer_seconds: float = 2.0


class _Unheard(Exception):
    """What was published did not come back."""


class ValkeyBroadcast:
    """Implements `Broadcast`. Belongs to the event loop it listens on."""

    def __init__(self, place: ValkeyPlace, clock: Clock, rng: Rng, spawn: Spawn) -> None:
        self._place = place
        self._where = f"Valkey at {place.host}:{place.port}"
        self.problem = f"{self._where} is being connected to"
        self._clock = clock
        self._rng = rng
        self._spawn = spawn
        self._sender = rng.token(SENDER_BYTES)
        self._hear: Callable[[bytes], None] = _to_nobody
        self._outbox: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._more = asyncio.Event()
        self._unheard: float | None = None
        """Since when something published has not come back."""
        self._up = False
        self._up_since = 0.0
        self._told = False
        """Whether the log knows that it is lost."""
        self._task: Task | None = None
        self._ended: asyncio.Event | None = None
        """Set when what keeps the link has ended; None until it has begun."""

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """See `Broadcast`."""
        self._hear = hear
        self._task = self._spawn(self._keep(), name="valkey")

    def send(self, message: bytes) -> None:
        """See `Broadcast`."""
        if self._up and 0 < len(message) <= LARGEST_BROADCAST:
            self._outbox.append(message)
            self._more.set()

    async def close(self) -> None:
        """See `Broadcast`."""
        self._hear = _to_nobody
        self._up = False
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            if self._ended is not None:
                await self._ended.wait()

    # --- the link --------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect again and again."""
        pause = FIRST_PAUSE
        self._ended = asyncio.Event()
        try:
            while True:
                try:
                    await self._linked()
                except Exception as error:
                    if self._up and self._clock.monotonic() - self._up_since > LONGEST_PAUSE:
                        pause = FIRST_PAUSE
                    self._lost(_words(error))
                await self._clock.sleep(pause * (0.5 + self._rng.random()))
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._ended.set()

    async def _linked(self) -> None:
        """Connect, then read and write until one of them fails."""
        reader, writer = self._connection(), self._connection()
        work: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(self._place.connect_seconds):
                await reader.connect()  # type: ignore[no-untyped-call]
                await reader.send_command("SUBSCRIBE", self._place.channel)
                await reader.read_response()
                await writer.connect()  # type: ignore[no-untyped-call]
            self._outbox.clear()
            # Nothing to tell, and the proof that what is published is heard.
            self._outbox.append(b"")
            self._unheard = None
            work = [asyncio.ensure_future(self._read(reader)), asyncio.ensure_future(self._write(writer))]
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for connection in (reader, writer):
                await connection.disconnect(nowait=True)

    def _connection(self) -> Connection:
        place = self._place
        kind = Connection if place.tls is None else SSLConnection
        connection = kind(
            host=place.host,
            port=place.port,
            username=place.username,
            password=place.password.reveal() if place.password is not None else None,
            socket_connect_timeout=place.connect_seconds,
            socket_timeout=place.answer_seconds,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
        )
        if isinstance(connection, SSLConnection):
            connection.ssl_context.context = place.tls
        return connection

    async def _write(self, connection: Connection) -> None:
        while True:
            self._more.clear()
            while self._outbox:
                message = self._outbox.popleft()
                if self._unheard is None:
                    self._unheard = self._clock.monotonic()
                await connection.send_command("PUBLISH", self._place.channel, self._sender + message)
                await connection.read_response()
            try:
                async with asyncio.timeout(self._patience()):
                    await self._more.wait()
            except TimeoutError:
                if self._patience() == 0.0:
                    raise _Unheard from None

    def _patience(self) -> float | None:
        """Seconds in which what was published has to come back; None when all of it has."""
        if self._unheard is None:
            return None
        return max(self._unheard + self._place.answer_seconds - self._clock.monotonic(), 0.0)

    async def _read(self, connection: Connection) -> None:
        began, messages, size = self._clock.monotonic(), 0, 0
        while True:
            said = await connection.read_response(timeout=QUIET_SECONDS)
            if not isinstance(said, list) or len(said) != 3 or said[0] != b"message":
                continue
            data = said[2]
            messages += 1
            size += len(data)
            if data[:SENDER_BYTES] == self._sender:
                self._unheard = None
                self._found()
            elif SENDER_BYTES < len(data) <= SENDER_BYTES + LARGEST_BROADCAST:
                self._hear(data[SENDER_BYTES:])
            elapsed = self._clock.monotonic() - began
            if elapsed >= 1.0:
                began, messages, size = began + elapsed, 0, 0
            elif messages >= MOST_A_SECOND or size >= MOST_BYTES_A_SECOND:
                await self._clock.sleep(1.0 - elapsed)

    # --- what is said of it ----------------------------------------------------------------------------------------

    def _found(self) -> None:
        if not self._up:
            self._up, self._up_since = True, self._clock.monotonic()
        if self.problem:
            self.problem = ""
            logger.info("%s: what servers know of targets is shared%s", self._where, " again" if self._told else "")
            self._told = False

    def _lost(self, words: str) -> None:
        self._up = False
        self.problem = f"{self._where} {words}: nothing is shared with other servers"
        if not self._told:
            self._told = True
            logger.warning("%s %s; calls go on by what this server knows, and it is tried again and again", self._where, words)


def _words(error: BaseException) -> str:
    """What went wrong, in words of ours: what a library or a server says may repeat what it was told."""
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"has a certificate that is not trusted ({each.verify_message})"
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return "does not speak TLS as we do"
    match error:
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return "refuses our user, password or what we ask (it must allow publish and subscribe on our channel)"
        case _Unheard():
            return "does not pass on what is published"
        case TooSlow() | TimeoutError():
            return "does not answer in time"
        case NotConnected() | OSError():
            return "cannot be reached"
        case _:
            return f"does not speak as expected ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _to_nobody(_message: bytes) -> None:
    """Nobody listens."""
