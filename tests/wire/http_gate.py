"""A data server on a real socket, with a dialect and a stage small enough to see through, and a client that takes nothing on trust."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, InvalidRequest
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Dialect
from gatehouse.core.request_ids import RequestIds
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.read import Read
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeSpawn, settle_loop
from gatehouse.wire.http.body import Body
from gatehouse.wire.http.data_plane import DataPlane, Manners, Route
from gatehouse.wire.http.endpoints import Endpoints
from gatehouse.wire.http.head import RequestHead
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.protocol import Connection
from gatehouse.wire.http.server import DataServer
from gatehouse.wire.http.tls import Tls

PATH = "/v1/chat/completions"
STATUS = {
    "invalid_request": 400,
    "too_large": 413,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "blocked": 400,
    "limit_exceeded": 429,
    "timeout": 408,
    "unavailable": 503,
    "upstream_failed": 502,
    "internal": 500,
}


class PlainDialect:
    """Requests are `{"model", "stream"?, "say"?}`; answers are text."""

    name = "plain"

    def decode_request(self, body: bytes) -> Call:
        """The call in `body`; what `say` holds is its one message."""
        try:
            wanted = msgspec.json.decode(body, type=dict[str, Any])
            return Call(model=wanted["model"], stream=wanted.get("stream", False), extra={"say": wanted.get("say", "")})
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as fault:
            raise InvalidRequest(f"not a call: {str(fault)[:60]}") from None

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """Its text."""
        return msgspec.json.encode({"text": answer.choices[0].text})

    def open_stream(self, call: Call, request_id: str) -> "PlainDialect":
        """Nothing is remembered between frames, so the dialect writes them itself."""
        return self

    def event(self, event: Event, cost: str | None) -> bytes:
        """One frame of text, none for an empty one; the cost on its own line."""
        assert isinstance(event, Chunk)
        text = "".join(choice.text for choice in event.choices)
        frame = f"data: {text}\n\n".encode() if text else b""
        return frame if cost is None else frame + f"data: cost {cost}\n\n".encode()

    def end(self) -> bytes:
        """The last frame of a good stream."""
        return b"data: [DONE]\n\n"

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""
        return STATUS[error.kind], msgspec.json.encode({"error": {"code": error.code, "message": error.message}})

    def error(self, error: GatehouseError) -> bytes:
        """The last frame of a broken stream."""
        return f"data: error {error.code}\n\n".encode()


def text(piece: str) -> Chunk:
    """One event with `piece`."""
    return Chunk(choices=(ChoiceDelta(text=piece),))


def answer(content: str) -> Answer:
    """A whole answer."""
    return Answer(choices=(Choice(text=content),))


Script = Callable[[Exchange], Events]
Speakers = Mapping[bytes, Dialect] | None


async def echo(x: Exchange) -> AsyncGenerator[Event, None]:
    """Answers with what the call says."""
    assert x.call is not None
    yield text(str(x.call.extra["say"])) if x.call.stream else answer(str(x.call.extra["say"]))


async def broken(error: BaseException, *events: Event) -> AsyncGenerator[Event, None]:
    """Some events, then the error."""
    for event in events:
        yield event
        await asyncio.sleep(0)
    raise error


class Scripted:
    """The stage that answers, by the test's script; it remembers each exchange and how it ended."""

    name = "scripted"

    def __init__(self, script: Script, before: Callable[[Exchange], None] | None = None) -> None:
        self._script = script
        self.begun: list[Exchange] = []
        self.ended: list[Outcome | None] = []
        self.any_begun = asyncio.Event()
        self.any_ended = asyncio.Event()

    async def admit(self, x: Exchange) -> Events:
        """Answer."""
        self.begun.append(x)
        self.any_begun.set()
        return self._script(x)

    def settle(self, x: Exchange) -> None:
        """Remember."""
        self.ended.append(x.outcome)
        self.any_ended.set()


class Refusing:
    """A stage before the body is read: raises `error` when there is one."""

    name = "refusing"

    def __init__(self, error: Callable[[Exchange], GatehouseError | None] = lambda x: None) -> None:
        self.error = error
        self.seen: list[Exchange] = []

    async def admit(self, x: Exchange) -> None:
        """Look at the head, as Identify does."""
        self.seen.append(x)
        error = self.error(x)
        if error is not None:
            raise error

    def settle(self, x: Exchange) -> None:
        """Nothing to put right."""


class Errors(logging.Handler):
    """Collects what is logged as an error: a server that survives its own faults must still be caught having them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)


class Gate:
    """The running server and everything a test looks at."""

    def __init__(
        self,
        script: Script,
        limits: HttpLimits,
        body_limit: int,
        tls: Tls | None,
        endpoints: Endpoints | None,
        speakers: Speakers,
        manners: Manners | None,
    ) -> None:
        self.clock = FakeClock()
        self.spawn = FakeSpawn()
        self.identify = Refusing()
        self.stage = Scripted(script)
        self.runner = Runner((self.identify, Read(body_limit), self.stage), self.clock)
        self.ready: tuple[bool, dict[str, str]] = (True, {})
        self.dialect = PlainDialect()
        self.plane = DataPlane(
            self.runner,
            {PATH: Route(self.dialect, "chat")},
            self.dialect,
            ready=lambda: self.ready,
            ids=RequestIds(FakeRng(7), self.clock),
            endpoints=endpoints,
            speakers=speakers,
            manners=manners,
        )
        self.server = DataServer(self.plane, limits, self.clock, self.spawn)
        self.tls = tls
        self.address: tuple[str, int] = ("", 0)
        self.clients: list[Client] = []
        self.errors = Errors()
        self.faults: list[dict[str, Any]] = []

    async def start(self) -> None:
        """Listen on a free port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = listener.getsockname()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(context))
        await self.server.start([listener], self.tls)

    async def connect(self) -> "Client":
        """A new connection."""
        client = Client(*await asyncio.open_connection(*self.address))
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        """Close, and see that nothing is left behind."""
        closing = asyncio.ensure_future(self.server.close())
        for _ in range(200):
            await settle_loop(5)
            if closing.done():
                break
            self.clock.advance(0.5)
            await asyncio.sleep(0.001)
        await closing
        for client in self.clients:
            await client.close()
        await self.spawn.close()
        assert self.server.open_connections == 0
        assert self.server.running == 0
        assert self.runner.running == set()
        assert self.spawn.errors == []
        assert self.faults == []

    def leave_at_once(self) -> asyncio.Event:
        """From now on each request's client is gone in the very turn of the loop in which it came; set when the first was."""
        serve, left = self.plane.serve, asyncio.Event()

        def serve_and_leave(connection: Connection, head: RequestHead, body: Body) -> None:
            serve(connection, head, body)
            assert connection.exchange is not None
            connection.exchange.end(Outcome.CLIENT)
            left.set()

        self.plane.serve = serve_and_leave  # type: ignore[method-assign]
        return left

    async def pass_time(self, seconds: float, *, step: float = 0.5) -> None:
        """Move the server's clock and let what falls due reach the sockets."""
        left = seconds
        while left > 0:
            self.clock.advance(min(step, left))
            left -= step
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)


@asynccontextmanager
async def gate(
    script: Script = echo,
    *,
    limits: HttpLimits | None = None,
    body_limit: int = 100_000,
    tls: Tls | None = None,
    faults: bool = False,
    endpoints: Endpoints | None = None,
    speakers: Speakers = None,
    manners: Manners | None = None,
) -> AsyncIterator[Gate]:
    """A started server that is stopped and inspected at the end; with `faults`, errors in the log are expected."""
    it = Gate(script, limits or HttpLimits(), body_limit, tls, endpoints, speakers, manners)
    log = logging.getLogger("gatehouse")
    log.addHandler(it.errors)
    try:
        await it.start()
        try:
            yield it
        finally:
            await it.stop()
        assert faults or it.errors.records == []
    finally:
        log.removeHandler(it.errors)


class Response(msgspec.Struct):
    """What came back. `whole` is False when a chunked body never ended."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    def error(self) -> str:
        """The code in an error's body."""
        return str(msgspec.json.decode(self.body)["error"]["code"])


class Malformed(AssertionError):
    """The server wrote something that is not HTTP."""


def parse_responses(data: bytes, methods: tuple[str, ...] = ()) -> list[Response]:
    """Every response in everything a connection ever sent; raises Malformed for bytes that are none."""
    found: list[Response] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        if not separator:
            raise Malformed(head)
        status, headers = parse_head(head)
        if status == 100:
            continue
        method = methods[len(found)] if len(found) < len(methods) else "POST"
        if method == "HEAD":
            found.append(Response(status, headers, b""))
        elif headers.get("transfer-encoding") == "chunked":
            body, data, whole = parse_chunks(data)
            found.append(Response(status, headers, body, whole))
        elif "content-length" not in headers and headers.get("connection") == "close":
            found.append(Response(status, headers, data))  # a stream for HTTP/1.0
            data = b""
        else:
            length = int(headers["content-length"])
            if len(data) < length:
                raise Malformed(data)
            found.append(Response(status, headers, data[:length]))
            data = data[length:]
    return found


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and fields."""
    first, *lines = head.split(b"\r\n")
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b"") or not head.isascii():
        raise Malformed(head)
    version, status, _ = first.decode().split(" ", 2)
    if version != "HTTP/1.1" or len(status) != 3:
        raise Malformed(first)
    headers: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.decode().partition(": ")
        if not separator or name in headers or name != name.lower():
            raise Malformed(line)
        headers[name] = value
    return int(status), headers


def parse_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """Content, what follows it, and whether it was ended."""
    content = b""
    while data:
        size, separator, rest = data.partition(b"\r\n")
        if not separator:
            raise Malformed(data)
        length = int(size, 16)
        if len(rest) < length + 2 or rest[length : length + 2] != b"\r\n":
            raise Malformed(rest[:40])
        content += rest[:length]
        data = rest[length + 2 :]
        if length == 0:
            return content, data, True
    return content, data, False


class Client:
    """A connection that says exactly what it is told and reads exactly what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """One head."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        return parse_head(head[:-4])

    async def response(self, method: str = "POST") -> Response:
        """One whole response."""
        status, headers = await self.read_head()
        if method == "HEAD" or status == 100:
            return Response(status, headers, b"")
        if headers.get("transfer-encoding") != "chunked":
            return Response(status, headers, await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 5))
        body = b""
        while (piece := await self.chunk()) is not None:
            body += piece
        return Response(status, headers, body)

    async def chunk(self) -> bytes | None:
        """One chunk, or None for the last."""
        size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 5), 16)
        content = await asyncio.wait_for(self.reader.readexactly(size + 2), 5)
        assert content[-2:] == b"\r\n"
        return content[:-2] if size else None

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), 5)
        except ConnectionResetError:
            return b""

    async def closed(self) -> bool:
        """Whether the server has closed without another byte."""
        return await self.rest() == b""

    async def close(self) -> None:
        """Go away."""
        self.writer.close()
        with suppress(ConnectionError, BrokenPipeError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Go away with a reset."""
        transport: Any = self.writer.transport
        transport.abort()


def post(body: bytes | dict[str, Any] = b"", *lines: str, path: str = PATH, length: int | None = None, version: str = "1.1") -> bytes:
    """A POST with its Content-Length and any further header lines."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    extra = "".join(f"{line}\r\n" for line in lines)
    size = len(content) if length is None else length
    return f"POST {path} HTTP/{version}\r\nHost: gate.test\r\n{extra}Content-Length: {size}\r\n\r\n".encode() + content


def chunked(*pieces: bytes, ending: bytes = b"0\r\n\r\n", lines: str = "") -> bytes:
    """A POST whose body comes in chunks."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: gate.test\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + ending


def call(say: str = "hello", *, stream: bool = False) -> dict[str, Any]:
    """A body the plain dialect reads."""
    return {"model": "m", "say": say, "stream": stream}
