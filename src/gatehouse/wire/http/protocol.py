"""One connection: bytes in, requests handed on one at a time, answers out, and a bound on everything a peer can make us keep or wait for.

A request that comes before its turn waits in `_input`; past `read_ahead` bytes the socket is not read until its turn comes.
A client that goes away, or closes its sending side, while its call runs ends that call in the same event.
"""

import asyncio
import fcntl
import logging
import struct
import termios
from typing import Final, cast

from gatehouse.core.errors import Timeout
from gatehouse.core.outcome import Outcome
from gatehouse.wire.http import response
from gatehouse.wire.http.body import Body, RequestBody, WholeBody
from gatehouse.wire.http.head import KnownHead, Refused, RequestHead, malformed
from gatehouse.wire.http.shared import Running, Shared
from gatehouse.wire.http.stream import Stream

logger = logging.getLogger("gatehouse.wire.http")

NEVER: Final = float("inf")

_HEAD: Final = 0
"""Between requests, or in the middle of a head."""
_BODY: Final = 1
"""The body of the current request (answered or not) is still coming."""
_FULL: Final = 2
"""The current request is here as a whole; its answer is not out."""
_CLOSING: Final = 3
"""Our last word is said; nothing more is read that counts."""
_GONE: Final = 4

_TURNS: Final = 16
"""Requests of one connection that are answered on the spot before others get their turn."""


class Connection(asyncio.Protocol):
    """The server's end of one HTTP/1.1 connection."""

    __slots__ = (
        "_advancing",
        "_at",
        "_body",
        "_continued",
        "_drain",
        "_held",
        "_input",
        "_known",
        "_limits",
        "_owed",
        "_paused",
        "_pending",
        "_phase",
        "_request",
        "_scanned",
        "_shared",
        "_transport",
        "_unsent",
        "_until",
        "deadline",
        "exchange",
        "loop",
        "met",
        "peer",
    )

    _transport: asyncio.Transport

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = shared
        self._limits = shared.limits
        self.loop = loop
        self._phase = _HEAD
        self._input = b""
        """What has come and is not used up; it counts from `_at`."""
        self._at = 0
        self._scanned = 0
        """Up to here no head ends in `_input`."""
        self._advancing = False
        self._known: KnownHead | None = None
        """The head before: clients say the same again and again."""
        self.met: tuple[RequestHead, object] | None = None
        """What the application made of a head, for when it comes again."""
        self._request: RequestHead | None = None
        self._body: Body | None = None
        self._continued = False
        self._held = False
        """The socket is not read."""
        self._paused = False
        """The transport holds more unsent bytes than it should."""
        self._pending = b""
        """What came in this turn and is looked at when it ends."""
        self._owed = False
        """An answer leaves at the end of this turn."""
        self._unsent = 0
        """How many bytes the slow client had to take when its time began."""
        self._until = NEVER
        self._drain: asyncio.Future[None] | None = None
        self.deadline = NEVER
        """When `expire` is to be called, in the shared timer's seconds."""
        self.exchange: Running | None = None
        """What runs for the current request; set by the application, ended here when the client goes."""
        self.peer = ""

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start listening; the first head has its time from here."""
        transport = self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by behaviour only
        transport.set_write_buffer_limits(high=self._limits.write_high)
        name = transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else "local"
        self._shared.connections.add(self)
        self.deadline = self._shared.due(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: so is whoever waited for the call."""
        self.take_in()
        self._phase = _GONE
        self.deadline = NEVER
        self._client_left()
        self._resume_producer()
        self._input = b""
        self._body = None
        self._shared.closed(self)

    def eof_received(self) -> bool:
        """The peer sends no more. A client that still wanted its answer would have kept its side open, so this is a goodbye."""
        self.take_in()
        self._client_left()
        if self._phase < _CLOSING:
            self._close(linger=False)
        return False

    def data_received(self, data: bytes) -> None:
        """Take bytes, whatever they are."""
        turn = self._shared.turn
        if turn is None:
            self._received(data)
        elif self._pending:
            self._pending += data
        else:
            self._pending = data
            turn.asked(self)

    def take_in(self) -> None:
        """Look at what came, when everything that was ready in this turn is read."""
        data = self._pending
        if data:
            self._pending = b""
            self._received(data)

    def _received(self, data: bytes) -> None:
        try:
            phase = self._phase
            if phase == _HEAD:
                known = self._known
                if known is not None and not self._input and len(data) == known.whole and data.startswith(known.raw) and self._ready(known):
                    self._again(known, data)
                    return
                if self._input:
                    data = self._input[self._at :] + data
                    self._at = 0
                self._input = data
                self._advance()
            elif phase == _BODY:
                self._body_received(data)
            elif phase == _FULL:
                self._input = self._input[self._at :] + data
                self._at = 0
                if len(self._input) > self._limits.read_ahead:
                    self.hold()
        except Exception:
            logger.exception("a connection failed over what it received")
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._paused = True
        self._unsent = self._unacknowledged()
        self.deadline = self._shared.due(self._limits.slow_client_seconds)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        if self._phase == _FULL:
            self.deadline = NEVER
        elif self._phase == _HEAD:
            self.deadline = self._shared.due(self._limits.keep_alive_seconds)
        self._resume_producer()
        if self._phase == _HEAD and self._input:
            self.loop.call_soon(self._advance)

    # ---- requests in

    def _ready(self, known: KnownHead) -> bool:
        """Whether a whole request with this head may be served on the spot."""
        return not self._paused and not self._advancing and 0 < known.head.length <= self._limits.read_ahead

    def _again(self, known: KnownHead, data: bytes) -> None:
        """Nearly every request of a kept connection: the same head as before, and its whole body with it, in one piece."""
        self.deadline = NEVER
        head = self._request = known.head
        self._continued = False
        body = self._body = WholeBody(data[len(known.raw) :], known.encoding)
        self._phase = _FULL
        self._shared.application.serve(self, head, body)

    def _advance(self) -> None:
        """Serve what is there, one request at a time."""
        if self._advancing:
            return
        self._advancing = True
        turns = 0
        try:
            while self._phase == _HEAD and self._input and not self._paused:
                if turns == _TURNS:
                    self.loop.call_soon(self._advance)
                    return
                turns += 1
                data = self._input
                start = self._at
                if data.startswith(b"\r\n", start):
                    start += 2  # one empty line before a request is what careless senders leave behind a body
                known = self._known
                if known is not None and data.startswith(known.raw, start):
                    # The same head again, byte for byte.
                    head = known.head
                    self._at = start + len(known.raw)
                else:
                    read = self._read_head(data, start)
                    if read is None:
                        return
                    head = read
                self._scanned = 0
                self._begin(head)
        except Refused as refused:
            self._refuse(refused)
        finally:
            self._advancing = False
            if not self._scanned and len(self._input) - self._at > self._limits.read_ahead:
                self.hold()  # stopped before the end: by its turns, by a client that does not read, or by a call that runs

    def _read_head(self, data: bytes, start: int) -> RequestHead | None:
        """The head that begins at `start`; None when only a part of it is here. Raises Refused."""
        end = data.find(b"\r\n\r\n", self._scanned or start) + 4
        if end == 3:
            self._partial_head(data, start)
            return None
        if end - start > self._limits.head_bytes:
            raise self._too_long()
        self._at = end
        raw = data[start:end]
        known = self._known
        if known is None or (head := known.again(raw)) is None:
            head = self._shared.heads.read(raw)
            self._known = KnownHead.of(raw, head)
        return head

    def _partial_head(self, data: bytes, start: int) -> None:
        """Part of a head is here: wait for the rest, unless it already cannot become one."""
        part = data[start:]
        if len(part) > self._limits.head_bytes:
            raise self._too_long()
        if part.count(b"\n") != part.count(b"\r\n"):
            raise malformed("A line of the head does not end in CRLF.")
        if not self._scanned:
            self.deadline = self._shared.due(self._limits.head_seconds)
        self._input = data[self._at :]
        self._at = 0
        self._scanned = max(len(self._input) - 3, 1)  # never 0, which says that no part of a head is here
        self._read_on()

    def _too_long(self) -> Refused:
        return malformed(f"The head of a request may have {self._limits.head_bytes} bytes.", status=431)

    def _begin(self, head: RequestHead) -> None:
        """A head is complete: take what has come of its body, and hand the request on."""
        self.deadline = NEVER
        self._request = head
        self._continued = False
        data = self._input
        at = self._at
        length = head.length
        end = at + length
        body: Body
        if 0 < length <= self._limits.read_ahead and end <= len(data):
            # As of nearly every call: the whole body came with its head.
            body = WholeBody(data[at:end], head.headers.get(b"content-encoding"))
            self._input = data[end:]
            self._at = 0
        else:
            body = RequestBody(self, head, self._limits.read_ahead)
            if at == len(data):
                self._input = b""
                self._at = 0
            elif not body.complete:
                self._input = b""
                self._at = 0
                self._input = body.feed(data[at:])
        self._body = body
        self._phase = _FULL if body.complete else _BODY
        self._shared.application.serve(self, head, body)

    def _body_received(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        if body.failed:
            return  # whoever reads it was told, and the answer will close the connection
        try:
            self._input = body.feed(data)
        except Refused:
            return
        if body.complete:
            if self._request is None:
                self._next()
            else:
                self._phase = _FULL
                self.deadline = NEVER
        elif self._request is None or body.waiting:
            self.deadline = min(self._shared.due(self._limits.body_idle_seconds), self._until)

    def want(self) -> None:
        """The body is waited for: let the sender send it, within its time."""
        head, body = self._request, self._body
        assert head is not None
        assert body is not None
        if head.expects and not self._continued:
            self._continued = True
            if not body.started:
                if self._owed:
                    self.settle()
                self._transport.write(response.CONTINUE)
        self._until = self._shared.due(self._limits.body_seconds)
        self.deadline = min(self._shared.due(self._limits.body_idle_seconds), self._until)
        self._read_on()

    def hold(self) -> None:
        """Do not read the socket for now."""
        if not self._held and self._phase < _CLOSING:
            self._held = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._held and self._phase < _GONE:
            self._held = False
            self._transport.resume_reading()

    # ---- answers out

    def answer(self, status: int, fields: bytes, payload: bytes, *, close: bool = False) -> None:
        """Send the whole answer to the current request; `fields` are complete header lines."""
        request, body, shared = self._request, self._body, self._shared
        if request is None or self._phase not in (_BODY, _FULL):
            return  # the client has left
        turn = shared.turn
        if (
            turn is not None
            and self._phase == _FULL
            and not close
            and not shared.draining
            and request.keep_alive
            and request.method != "HEAD"
            and not (body is None or body.failed)
        ):
            # As nearly every answer: another request may follow, and nothing of this one is still to come.
            self._owed = True
            lines = (response.STATUS_LINES[status], shared.date, fields, len(payload), payload)
            turn.send(self._send, b"%b%b%bcontent-length: %d\r\n\r\n%b" % lines)
            self.exchange = None
            self._next()
            return
        keep = not close and self._persistent(request)
        lines_before = shared.date + fields if keep else shared.date + fields + response.CLOSE
        data = response.whole(status, lines_before, payload, bodiless=request.method == "HEAD")
        if turn is None:
            self._transport.write(data)
        else:
            self._owed = True
            turn.send(self._send, data)
        self.answered(keep=keep)

    def _send(self, data: bytes) -> None:
        """The turn is over: what is recorded of this answer is in the journal."""
        self._owed = False
        if self._phase != _GONE:
            self._transport.write(data)

    def settle(self) -> None:
        """Nothing that is owed may be overtaken by what is written now, and nothing recorded by what is sent."""
        if self._shared.turn is not None:
            self._shared.turn.end()

    def stream(self, fields: bytes) -> Stream:
        """Begin a streamed answer to the current request."""
        request = self._request
        assert request is not None
        if self._owed:
            self.settle()
        keep = self._persistent(request)
        lines = response.STATUS_LINES[200] + self._shared.date + fields
        if request.minor:
            lines += response.CHUNKED
        if not keep:
            lines += response.CLOSE
        return Stream(self, self._transport, self.loop, lines + b"\r\n", chunked=bool(request.minor), keep=keep)

    @property
    def clogged(self) -> bool:
        """Whether a producer should wait for `drained` before it sends more."""
        return self._paused

    @property
    def gone(self) -> bool:
        """Whether nobody reads what we write any more."""
        return self._phase >= _CLOSING

    async def drained(self) -> None:
        """Return when the client has read enough of what waits for it."""
        if self._paused:
            self._drain = self.loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None

    def answered(self, *, keep: bool) -> None:
        """The last byte of the current answer has been handed to the transport."""
        self.exchange = None
        if not keep or self._shared.draining:
            self._close(linger=self._phase == _BODY or bool(self._input))
        elif self._phase == _FULL:
            self._next()
        else:
            self._request = None
            if self._body is not None:
                self._body.abandon()
            self._until = self._shared.due(self._limits.body_seconds)
            self.deadline = self._shared.due(self._limits.body_idle_seconds)
            self._read_on()

    def _next(self) -> None:
        """The connection is ready for another request."""
        self._phase = _HEAD
        self._request = None
        self._body = None
        if self._known is None:
            self.met = None  # a long head is not kept while nobody asks
        limits = self._limits
        self.deadline = self._shared.now + limits.tick_seconds + limits.keep_alive_seconds
        if self._held:
            self._read_on()
        if self._input and not self._advancing:
            if self._owed:
                self.loop.call_soon(self._advance)  # this turn is ending: others come first
            else:
                self._advance()

    def _persistent(self, request: RequestHead) -> bool:
        """Whether another request may follow the current one on this connection."""
        body = self._body
        if body is None or not request.keep_alive or self._shared.draining:
            return False
        if body.complete and not body.failed:
            return True
        if body.failed:
            return False
        # A sender that still waits for 100 Continue may send the body or not: nobody can tell what comes next.
        remaining = body.remaining
        return remaining is not None and remaining <= self._limits.discard_bytes and (self._continued or not request.expects)

    def _refuse(self, refused: Refused) -> None:
        """Say what is wrong with what came in place of a request, and be done with this connection."""
        self._shared.refused(refused.error.code)
        if self._owed:
            self.settle()
        fields, payload = self._shared.application.refusal(refused.error)
        self._transport.write(response.whole(refused.status, self._shared.date + fields + response.CLOSE, payload))
        self._close(linger=True)

    # ---- the end

    def expire(self) -> None:
        """The deadline has passed."""
        if self._pending:
            self.take_in()
            if self.deadline > self._shared.now:
                return  # what was waited for had come
        self.deadline = NEVER
        phase = self._phase
        if self._paused or phase == _CLOSING:
            self._expire_writing()
        elif phase == _HEAD:
            if self._input:
                self._refuse(Refused(408, Timeout("The head of the request took too long to arrive.", code="request_timeout")))
            else:
                self._close(linger=False)
        elif phase == _BODY:
            if self._request is None or self._body is None:
                self._close(linger=False)
            else:
                self._body.fail(Timeout("The body of the request took too long to arrive.", code="request_timeout"))

    def _expire_writing(self) -> None:
        """A client that reads, however slowly, is served; one that does not is cut off."""
        unsent = self._unacknowledged()
        if self._transport.get_write_buffer_size() and self._unsent - unsent >= self._limits.slow_client_bytes:
            self._unsent = unsent
            self.deadline = self._shared.due(self._limits.slow_client_seconds)
        else:
            self._client_left()
            self._transport.abort()

    def _unacknowledged(self) -> int:
        """Bytes the client has not taken: in our buffer, and in the kernel's, which alone hides megabytes of slowness."""
        sock = self._transport.get_extra_info("socket")
        try:
            (queued,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        except (OSError, AttributeError):
            queued = 0
        return self._transport.get_write_buffer_size() + int(queued)

    def close_idle(self) -> None:
        """Close unless a request is being served or received."""
        self.take_in()
        if self._phase == _HEAD and not self._input:
            self._close(linger=False)

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        self._transport.abort()

    def _close(self, *, linger: bool) -> None:
        """Close when everything is sent. With `linger`, keep reading (and dropping) for a moment: a reset would overtake our last word."""
        if self._owed:
            self.settle()
        self._phase = _CLOSING
        self._input = b""
        self._body = None
        transport = self._transport
        if transport.get_write_buffer_size():
            self._unsent = self._unacknowledged()
            self.deadline = self._shared.due(self._limits.slow_client_seconds)
        else:
            self.deadline = self._shared.due(self._limits.linger_seconds)
        if not linger:
            transport.close()
            return
        self._read_on()
        if transport.can_write_eof():
            transport.write_eof()

    def _client_left(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.end(Outcome.CLIENT)

    def _resume_producer(self) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
