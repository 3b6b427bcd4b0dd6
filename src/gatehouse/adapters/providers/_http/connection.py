"""One connection to the origin: writes a request, parses its answer, keeps its deadlines, and tells the pool when it is free.

One request at a time, one write for it, no task of its own. Its timer is armed lazily: it stays armed over many requests
and looks, when it fires, whether the deadline that holds by then has passed.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Final, Protocol, cast

import httptools
import msgspec

from gatehouse.adapters.providers._http.reply import HIGH_WATER, Failure, Reply
from gatehouse.core.plans import Deadlines
from gatehouse.core.ports import Attempt, Turn

MAX_OVERHEAD: Final = HIGH_WATER + 65_536
"""Bytes of head, trailer and framing of one answer; a read may bring that much of the body along with the head."""
MOST_FRAMING: Final = 8
"""A byte of body in a chunk of its own comes with five of framing."""
MAX_HEADERS: Final = 128
_MAX_INTERIM: Final = 8
_DRAIN_SECONDS: Final = 1.0
_JOIN_BELOW: Final = 65_536
_NEVER: Final = float("inf")

# Linux: `tcp_info.tcpi_bytes_acked`, 64 bits at offset 120.
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120


class Owner(Protocol):
    """What a connection tells the pool."""

    def free(self, connection: "Connection") -> None:
        """It can take the next request."""

    def lost(self, connection: "Connection") -> None:
        """It is gone; said exactly once."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """What goes out. `first_byte` is the seconds until the answer proper must have begun."""

    head: bytes
    body: bytes
    first_byte: float
    deadlines: Deadlines
    attempt: Attempt | None = None
    """Told when the request leaves, where that is later."""

    def __repr__(self) -> str:
        # The head holds a credential and the body what somebody asked.
        return f"Request({len(self.head)} + {len(self.body)} bytes)"


class Connection(asyncio.Protocol):
    """An open connection lent to one request after another."""

    _parser: httptools.HttpResponseParser

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, sock: socket.socket, *, label: str) -> None:
        self._owner = owner
        self._loop = loop
        self._sock = sock
        self._label = label
        self._transport: asyncio.Transport | None = None
        self._encrypted = False
        self.idle_since = 0.0
        self._used = 0
        self._gone = False
        # of the request under way
        self._reply: Reply | None = None
        self._request: Request | None = None
        self._written = 0
        self._acked_before = 0
        self._received = 0
        self._interim = 0
        self._framed = False
        self._ended = False
        self._keep = False
        self._turn: Turn | None = None
        """Where it says that something came, while a whole answer is awaited that nobody waits for in a task."""
        self._pending = b""
        self._leaving = False
        """The request is promised to the end of this turn: nothing of it has left."""
        # time
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._deadline = _NEVER
        self._latest = _NEVER

    def __repr__(self) -> str:
        return f"Connection({self._label}, used {self._used}, {'gone' if self._gone else 'open'})"

    def usable(self) -> bool:
        """Whether a request may be written to it, as far as is known by now."""
        transport = self._transport
        return not self._gone and self._reply is None and transport is not None and not transport.is_closing()

    # --- a request -------------------------------------------------------------------------------------------------

    def begin(self, reply: Reply, request: Request, turn: Turn | None = None) -> None:
        """Write `request`, now or at the end of `turn`, and let its answer fill `reply`. The connection must be usable."""
        transport = self._transport
        assert transport is not None
        self._reply = reply
        self._request = request
        self._received = self._interim = 0
        self._framed = self._ended = self._keep = False
        reply.line = self
        head, body = request.head, request.body
        if self._encrypted and self._used:
            self._acked_before = self._acked()
        self._used += 1
        now = self._loop.time()
        deadlines = request.deadlines
        self._latest = latest = now + deadlines.total
        deadline = now + request.first_byte
        self._deadline = deadline = deadline if deadline < latest else latest
        # Armed at the shortest of its phases, so that moving to the next phase never needs an earlier one.
        idle = now + deadlines.idle
        when = deadline if deadline < idle else idle
        if self._timer_at > when:
            self._arm(when)
        self._turn = turn
        if turn is not None:
            self._leaving = True
            turn.send(self._send, head + body)
        elif len(body) < _JOIN_BELOW:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self._written += len(head) + len(body)

    def _send(self, data: bytes) -> None:
        """The turn is over; unless whoever asked has left in it, the request goes out."""
        request, transport = self._request, self._transport
        if request is not None and transport is not None:
            self._leaving = False
            if request.attempt is not None:
                request.attempt.sent = True
            transport.write(data)

    def begun(self) -> None:
        """The answer proper has begun."""
        self._deadline = min(self._loop.time() + self._idle_seconds(), self._latest)
        self._arm(self._deadline)

    def resume(self) -> None:
        """Read on after the reader has caught up."""
        reply = self._reply
        if reply is not None and reply.paused:
            reply.paused = False
            self.begun()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def hasten(self) -> None:
        """What is left of the answer is framing only."""
        self.resume()
        self._latest = self._deadline = min(self._latest, self._loop.time() + _DRAIN_SECONDS)
        self._arm(self._deadline)

    def abort(self) -> None:
        """Close at once; the reply is told nothing."""
        self._reply = None
        self._pending = b""
        self._leave()
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: str) -> None:
        """Close because we are done with the origin; a request under way is told."""
        self._fail("upstream_broken", "The connection to the model was closed.", reason)

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._encrypted = transport.get_extra_info("ssl_object") is not None
        self._acked_before = self._acked()

    def data_received(self, data: bytes) -> None:
        if self._turn is None or self._reply is None:
            self._read(data)  # what nobody asked for must be seen before anybody asks
        elif self._pending:
            self._pending += data
        else:
            self._pending = data
            self._turn.answered(self)

    def take_in(self) -> None:
        """Look at what came in this turn. See `core.ports.Receiver`."""
        data = self._pending
        if data:
            self._pending = b""
            if len(data) <= HIGH_WATER:
                self._read(data)
                return
            # Several reads: what is bounded is bounded for each.
            for at in range(0, len(data), HIGH_WATER):
                self._read(data[at : at + HIGH_WATER])

    def _read(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or self._leaving:
            # Nobody asked, or not yet: this request, or the next, would get somebody else's answer.
            if reply is not None:
                reply.stale = True
            self._fail("upstream_invalid", "The model's answer is not acceptable.", "bytes before the request")
            return
        self._received += len(data)
        if self._received > MAX_OVERHEAD + MOST_FRAMING * reply.size:
            self._fail("upstream_invalid", "The model's answer is not acceptable.", "more head and framing than content")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("upstream_invalid", "The model's answer is not valid HTTP.", "asked for an upgrade")
        except httptools.HttpParserCallbackError as fault:
            cause = fault.__context__
            text = str(cause) if isinstance(cause, _Violation) else type(cause).__name__
            self._fail("upstream_invalid", "The model's answer is not acceptable.", text)
        except httptools.HttpParserError as fault:
            self._fail(
                "upstream_broken" if self._framed and not self._ended else "upstream_invalid",
                "The model's answer is not valid HTTP.",
                f"framing: {fault}",
            )
        else:
            if self._ended:
                self._done(reply)
            elif reply.begun and not reply.drained:
                self.begun()
                if reply.buffered > HIGH_WATER and reply.streaming and not reply.paused:
                    assert self._transport is not None
                    reply.paused = True
                    self._transport.pause_reading()

    def eof_received(self) -> None:
        self.take_in()
        reply = self._reply
        if reply is not None and self._received == 0:
            reply.stale = self._certainly_unprocessed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.take_in()
        reply = self._reply
        if reply is not None and self._leaving:
            reply.stale = True
        elif reply is not None and self._received == 0 and not isinstance(exc, ConnectionResetError):
            # A reset acknowledges nothing, so what was read before it looks as if it had never come. Behind a FIN it is no reset.
            reply.stale = reply.stale or self._certainly_unprocessed()
        if reply is not None and exc is None and self._framed and not self._keep and not self._delimited():
            # HTTP/1.0 manners: the answer ends where the connection does. Whether it is whole its content must show.
            self._reply = None
            self._leave()
            reply.end()
        else:
            detail = f"TLS: {exc.reason}" if isinstance(exc, ssl.SSLError) else type(exc).__name__ if exc else "closed by the other side"
            if self._received:
                self._fail("upstream_broken", "The connection to the model broke.", detail)
            else:
                self._fail("upstream_unreachable", "The model closed the connection without an answer.", detail)
        # The parser holds this object and this object the parser; nothing must wait for the cycle collector.
        del self._parser
        self._transport = None

    # --- httptools -------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of an answer."""
        if self._ended:
            raise _Violation("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer (which is dropped)."""
        reply = self._reply
        if reply is not None and not self._framed:
            reply.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole: decide how the body is read, or that it is not."""
        reply = self._reply
        if reply is None:
            return
        status = self._parser.get_status_code()
        headers = reply.headers
        if len(headers) > MAX_HEADERS:
            raise _Violation("too many headers")
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > _MAX_INTERIM:
                raise _Violation("unwanted interim answers")
            return
        reply.status = status
        self._framed = True
        self._keep = self._parser.should_keep_alive()
        encoding, coding = headers.get(b"content-encoding"), headers.get(b"transfer-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise _Violation("compressed although identity was asked for")
        if coding is not None and coding.lower() != b"chunked":
            raise _Violation("a transfer coding other than chunked")
        length = headers.get(b"content-length")
        if length is not None and int(length) > reply.limit:
            raise _Violation("larger than any answer may be")
        if reply.streams and status == 200 and headers.get(b"content-type", b"").lower().startswith(reply.stream_type):
            reply.streaming = True
        else:
            reply.begun = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body, freed of its framing."""
        reply = self._reply
        if reply is None or not reply.add(body):
            raise _Violation("larger than any answer may be")

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if not self._framed:
            reply = self._reply
            if reply is not None:
                reply.headers.clear()
            return
        self._ended = True

    # --- inside ----------------------------------------------------------------------------------------------------

    def _delimited(self) -> bool:
        reply = self._reply
        return reply is not None and (b"content-length" in reply.headers or b"transfer-encoding" in reply.headers)

    def _idle_seconds(self) -> float:
        return self._request.deadlines.idle if self._request is not None else _NEVER

    def _done(self, reply: Reply) -> None:
        transport = self._transport
        assert transport is not None
        self._reply = None
        self._request = None
        if not self._keep or transport.get_write_buffer_size():
            # The other side wants no more, or answered before it had read all: what it would read next is not a request.
            self.abort()
        else:
            self._owner.free(self)
        # Last: whoever is told may ask again at once.
        reply.end()

    def _fail(self, code: str, message: str, detail: str) -> None:
        reply = self._reply
        self.abort()
        if reply is not None:
            reply.fail(Failure(code, message, f"{self._label}: {detail}", not (reply.stale or self._leaving)))

    def _leave(self) -> None:
        self._request = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = _NEVER
        if not self._gone:
            self._gone = True
            self._owner.lost(self)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        self._timer_at = _NEVER
        self.take_in()
        reply = self._reply
        if reply is None:
            return
        now = self._loop.time()
        if reply.paused:
            # The reader is slow, not the other side; only the total counts.
            self._deadline = min(now + self._idle_seconds(), self._latest)
        if now < self._deadline:
            self._arm(self._deadline)
        elif reply.drained:
            self.abort()
        else:
            phase = "total" if now >= self._latest else "idle" if reply.begun else "first byte"
            self._fail("upstream_timeout", "The model took too long to answer.", f"{phase} deadline passed")

    def _acked(self) -> int:
        if _TCP_INFO is None:
            return 0
        with contextlib.suppress(OSError, struct.error):
            info = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED_AT + 8)
            acked: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)[0]
            return acked
        return 0

    def _certainly_unprocessed(self) -> bool:
        """Whether a kept connection died before the other machine had even received the whole request.

        Its kernel acknowledges what arrives before its program can read it; so a request of which a part was never
        acknowledged was never read to its end. Where the kernel does not tell, nothing is certain.
        """
        request = self._request
        if request is None or self._used < 2:
            return False
        acked = self._acked()
        if not acked:
            return False
        size = len(request.head) + len(request.body)
        before = self._acked_before if self._encrypted else self._acked_before + self._written - size
        return acked - before < size


class _Violation(Exception):
    """The answer breaks a bound or a rule of framing; the text is for operators."""
