"""A fake of an OpenAI-compatible provider on a real socket: it answers what a test tells it to, and remembers what it was asked.

What it plays is either bytes (a complete HTTP answer, written at once, fast enough for benchmarks) or a coroutine function
that is handed the wire and may do whatever a bad provider does: wait, break off, reset, write in pieces.
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final

import httptools
import msgspec


class Seen(msgspec.Struct, frozen=True):
    """A request as it came. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Wire:
    """The connection a request came on, for a play to write to."""

    def __init__(self, line: "_Line") -> None:
        self._line = line

    @property
    def gone(self) -> bool:
        """Whether the other side has closed."""
        return self._line.gone.done()

    def write(self, data: bytes) -> None:
        """Put bytes on the wire; a no-op when the other side has gone."""
        if not self.gone:
            self._line.transport.write(data)

    async def flush(self) -> None:
        """Return once everything written was taken by the system, or the other side has gone."""
        await self._line.flush()

    def end(self) -> None:
        """Close politely after what was written."""
        self._line.transport.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        reset(self._line.transport)

    async def closed(self) -> None:
        """Return when the other side has gone."""
        await asyncio.shield(self._line.gone)


Play = bytes | Callable[[Seen, Wire], Awaitable[None]]

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def http(body: bytes, *, status: int = 200, content_type: str = "application/json", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A complete answer with its length."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\ncontent-type: {content_type}\r\n{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """The usage object of a provider."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(text: str = "Hello there.", *, usage: dict[str, int] | None = None, model: str = "fake", finish: str = "stop") -> bytes:
    """A complete answer of one choice; usage of 3 + 5 tokens unless told, none for {}."""
    body: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1_767_268_800,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, "logprobs": None}],
    }
    if usage is None or usage:
        body["usage"] = usage or usage_of(3, 5)
    return http(json.dumps(body).encode())


def failure(status: int, message: str = "no", *, code: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """An error in OpenAI's words."""
    error = {"message": message, "type": "error", "param": None, "code": code}
    return http(json.dumps({"error": error}).encode(), status=status, headers=headers)


def frame(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


DONE: Final = b"data: [DONE]\n\n"


def delta(text: str | None = None, *, finish: str | None = None, role: str | None = None, index: int = 0, model: str = "fake") -> bytes:
    """A frame that adds to one choice."""
    piece: dict[str, Any] = {}
    if role is not None:
        piece["role"] = role
    if text is not None:
        piece["content"] = text
    choice = {"index": index, "delta": piece, "finish_reason": finish}
    return frame({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_767_268_800, "model": model, "choices": [choice]})


def usage_frame(usage: dict[str, Any]) -> bytes:
    """The frame that carries usage and no choice."""
    return frame(
        {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_767_268_800, "model": "fake", "choices": [], "usage": usage}
    )


def story(texts: Iterable[str] = ("Hel", "lo", " there."), *, usage: dict[str, Any] | None = None) -> list[bytes]:
    """The frames of a proper stream: role, texts, finish, usage (3 + 5 unless told, none for {}), [DONE]."""
    frames = [delta("", role="assistant"), *(delta(text) for text in texts), delta(finish="stop")]
    if usage is None or usage:
        frames.append(usage_frame(usage or usage_of(3, 5)))
    return [*frames, DONE]


STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(frames: Iterable[bytes] | None = None) -> bytes:
    """A complete streamed answer, to be written at once."""
    return STREAM_HEAD + b"".join(chunk(piece) for piece in (story() if frames is None else frames)) + LAST_CHUNK


def streamed(frames: Iterable[bytes] | None = None, *, gap: float = 0.0, then: Callable[[Wire], None] | None = None) -> Play:
    """A streamed answer, frame by frame, `gap` seconds apart; `then` takes the place of its proper end."""
    pieces = list(story() if frames is None else frames)

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(STREAM_HEAD)
        for piece in pieces:
            if wire.gone:
                return
            wire.write(chunk(piece))
            await wire.flush()
            await asyncio.sleep(gap)
        if then is None:
            wire.write(LAST_CHUNK)
        else:
            then(wire)

    return play


async def silence(seen: Seen, wire: Wire) -> None:
    """Take the request and never answer."""
    await wire.closed()


async def hang_up(seen: Seen, wire: Wire) -> None:
    """Take the request and close without an answer."""
    wire.end()


def endless(text: str = "word ", *, gap: float = 0.0) -> Play:
    """A stream that only the reader can end."""

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(STREAM_HEAD + chunk(delta("", role="assistant")))
        while not wire.gone:
            wire.write(chunk(delta(text)))
            await wire.flush()
            await asyncio.sleep(gap)

    return play


def reset(transport: asyncio.BaseTransport) -> None:
    """Close `transport`'s connection with a TCP reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "abort"):
        transport.abort()


class FakeUpstream:
    """The provider. `plays` are performed one a request, in order; the last is repeated. An async context manager.

    `seen` holds the newest `remember` requests, `requests` counts all; `connections` are open now, `accepted` ever.
    """

    def __init__(self, *plays: Play, remember: int = 1000) -> None:
        self._plays = list(plays) or [completion()]
        self._next = 0
        self._remember = remember
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: ssl.SSLContext | None = None
        self._changed = asyncio.Event()
        self.host = "127.0.0.1"
        self.port = 0
        self.seen: list[Seen] = []
        self.requests = 0
        self.accepted = 0

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._lines)

    @property
    def url(self) -> str:
        """What to configure as `base_url`."""
        return f"{'https' if self._context else 'http'}://{self.host}:{self.port}/v1"

    def will(self, *plays: Play) -> None:
        """From the next request on, perform these."""
        self._plays = list(plays)
        self._next = 0

    async def start(self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._context = tls
        self._server = await loop.create_server(lambda: _Line(self), host, port, ssl=tls)
        self.host, self.port = host, self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self, *, politely: bool = False) -> None:
        """Close every connection, as a restarted server would have; `politely` with TLS's farewell."""
        for line in list(self._lines):
            if politely:
                line.transport.close()
            else:
                line.transport.abort()

    async def until(self, condition: Callable[["FakeUpstream"], bool], *, seconds: float = 5.0) -> None:
        """Return as soon as `condition` holds of this upstream. Raises TimeoutError when it does not in time."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def __aenter__(self) -> "FakeUpstream":
        if self._server is None:
            await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    # --- from its connections --------------------------------------------------------------------------------------

    def opened(self, line: "_Line") -> None:
        """A connection was accepted."""
        self._lines.add(line)
        self.accepted += 1
        self._changed.set()

    def closed(self, line: "_Line") -> None:
        """A connection has ended."""
        self._lines.discard(line)
        self._changed.set()

    def perform(self, line: "_Line", seen: Seen) -> None:
        """Answer a request with the play whose turn it is."""
        self.requests += 1
        if self._remember:
            self.seen.append(seen)
            del self.seen[: -self._remember]
        self._changed.set()
        play = self._plays[min(self._next, len(self._plays) - 1)]
        self._next += 1
        if isinstance(play, bytes):
            line.transport.write(play)
            line.done()
        else:
            task = asyncio.get_running_loop().create_task(self._run(play, line, seen))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _run(play: Callable[[Seen, Wire], Awaitable[None]], line: "_Line", seen: Seen) -> None:
        await play(seen, Wire(line))
        line.done()


class _Line(asyncio.Protocol):
    """A connection from a client: parses one request after another; the next waits until the play of the last is over."""

    transport: asyncio.Transport
    gone: "asyncio.Future[None]"

    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._ready: list[Seen] = []
        self._busy = False
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's are no subclass
        self.gone = asyncio.get_running_loop().create_future()
        self._upstream.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del self._parser
        if not self.gone.done():
            self.gone.set_result(None)
        self.resume_writing()
        self._upstream.closed(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(http(b'{"error":{"message":"not HTTP"}}', status=400))
            self.transport.close()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    async def flush(self) -> None:
        """Wait until the transport takes more."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def done(self) -> None:
        """The play is over: the next request may be answered."""
        self._busy = False
        self._serve()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._path, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        """Its target."""
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of it."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        method = self._parser.get_method().decode()
        self._ready.append(Seen(method, self._path.decode("latin-1"), self._headers, b"".join(self._body)))
        self._serve()

    def _serve(self) -> None:
        while self._ready and not self._busy and not self.gone.done():
            self._busy = True
            self._upstream.perform(self, self._ready.pop(0))
