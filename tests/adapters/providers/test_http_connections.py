"""The pool and how its connections are opened: bounds, reuse, stale connections, proxies, certificates."""

import asyncio
import base64
import contextlib
import gc
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httptools
import pytest

from gatehouse.adapters.providers._http import (
    HttpClient,
    HttpOptions,
    PoolOptions,
    ProxyServer,
    Reply,
    parse_base_url,
    parse_proxy,
)
from gatehouse.adapters.providers._http.connection import Connection
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.secrets import Secret
from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, hang_up, http, silence, streamed
from tests.adapters.providers.conftest import Authority
from tests.adapters.providers.trials import Trial, eventually

OK = http(b"fine")


class Maker:
    """Makes clients and closes them."""

    def __init__(self) -> None:
        self.made: list[HttpClient] = []

    def __call__(self, url: str, **options: Any) -> HttpClient:
        base = parse_base_url(url, plaintext=options.get("plaintext", False))
        self.made.append(HttpClient(HttpOptions(label="lab", base=base, **options)))
        return self.made[-1]


@pytest.fixture
async def make() -> AsyncIterator[Maker]:
    """Clients that are closed with the test."""
    maker = Maker()
    yield maker
    for client in maker.made:
        await client.close()


async def ask(client: HttpClient, trial: Trial | None = None, body: bytes = b"{}", *, streams: bool = False) -> Reply:
    trial = trial or Trial()
    return await client.send(
        client.prefix("POST", "/ask", accept="*/*"), body, trial, streams=streams, first_byte=trial.deadlines.first_byte
    )


def spawn(work: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


# --- the pool ----------------------------------------------------------------------------------------------------------


async def test_connections_are_reused_and_bounded(upstream: FakeUpstream, make: Maker) -> None:
    """Many calls at once share the connections there may be; each gets its own answer."""

    async def echo(seen: Seen, wire: Wire) -> None:
        await asyncio.sleep(0.001)
        wire.write(http(seen.body))

    upstream.will(echo)
    client = make(upstream.url, pool=PoolOptions(connections=4, waiting=100))
    replies = await asyncio.gather(*(ask(client, body=b"%d" % number) for number in range(100)))
    assert [reply.take() for reply in replies] == [b"%d" % number for number in range(100)]
    assert (upstream.accepted, client.pool.open, client.pool.idle, client.pool.waiting) == (4, 4, 4, 0)


async def test_waiting_is_bounded_in_number(upstream: FakeUpstream, make: Maker) -> None:
    """The queue for a connection has an end; who comes after it is told at once, and that nothing was sent."""
    upstream.will(silence)
    client = make(upstream.url, pool=PoolOptions(connections=1, waiting=2))
    tasks = [spawn(ask(client)) for _ in range(3)]
    await upstream.until(lambda up: up.requests == 1)
    assert client.pool.waiting == 2
    trial = Trial()
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client, trial)
    assert (caught.value.code, caught.value.sent, caught.value.retry_after, trial.sent) == ("upstream_overloaded", False, 1.0, False)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (client.pool.waiting, client.pool.open) == (0, 0)


async def test_waiting_is_bounded_in_time(upstream: FakeUpstream, make: Maker) -> None:
    """Nobody waits for a connection longer than connecting may take."""
    upstream.will(silence)
    client = make(upstream.url, pool=PoolOptions(connections=1))
    first = spawn(ask(client))
    await upstream.until(lambda up: up.requests == 1)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client, Trial(connect=0.03))
    assert (caught.value.code, caught.value.sent) == ("upstream_overloaded", False)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_scenario_18_a_waiter_that_leaves_is_out_of_the_queue(upstream: FakeUpstream, make: Maker) -> None:
    """Cancelled while queued: never sent, and the place in line goes to the next."""
    release = asyncio.Event()

    async def wait(seen: Seen, wire: Wire) -> None:
        await release.wait()
        wire.write(OK)

    upstream.will(wait)
    client = make(upstream.url, pool=PoolOptions(connections=1))
    trials = [Trial() for _ in range(3)]
    tasks = [spawn(ask(client, trial)) for trial in trials]
    await upstream.until(lambda up: up.requests == 1)
    tasks[1].cancel()
    release.set()
    assert (await tasks[0]).take() == (await tasks[2]).take() == b"fine"
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert [trial.sent for trial in trials] == [True, False, True]
    assert (upstream.requests, upstream.accepted) == (2, 1)


async def test_served_and_cancelled_in_the_same_moment(upstream: FakeUpstream, make: Maker) -> None:
    """A connection handed to a waiter that was just cancelled goes to the next one, not nowhere."""
    release = asyncio.Event()

    async def wait(seen: Seen, wire: Wire) -> None:
        await release.wait()
        wire.write(OK)

    upstream.will(wait)
    client = make(upstream.url, pool=PoolOptions(connections=1))
    first = await asyncio.wait_for(client.pool.acquire(1.0), 1.0)
    second = spawn(client.pool.acquire(1.0))
    third = spawn(client.pool.acquire(1.0))
    await eventually(lambda: client.pool.waiting == 2)
    client.pool.free(first)
    second.cancel()
    assert await third is first
    with pytest.raises(asyncio.CancelledError):
        await second
    fourth = spawn(client.pool.acquire(1.0))
    await eventually(lambda: client.pool.waiting == 1)
    first.abort()
    fourth.cancel()
    await asyncio.gather(fourth, return_exceptions=True)
    assert await client.pool.acquire(1.0) is not first
    release.set()


async def test_a_lost_connection_makes_room(upstream: FakeUpstream, make: Maker) -> None:
    """When a busy connection dies its place goes to whoever waits, who opens a new one."""
    upstream.will(hang_up, OK)
    client = make(upstream.url, pool=PoolOptions(connections=1))
    results = await asyncio.gather(*(ask(client) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamFailed, Reply, Reply]
    assert (upstream.accepted, client.pool.open) == (2, 1)


async def test_idle_connections_are_closed_in_time(upstream: FakeUpstream, make: Maker) -> None:
    """What nobody used for a while is given up, so that no server has to do it first."""
    upstream.will(OK)
    client = make(upstream.url, pool=PoolOptions(keep_idle=0.05))
    await asyncio.gather(*(ask(client) for _ in range(3)))
    assert client.pool.idle == 3
    await upstream.until(lambda up: up.connections == 0)
    assert (client.pool.open, client.pool.idle) == (0, 0)
    assert (await ask(client)).take() == b"fine"


async def test_closing_tells_everybody(upstream: FakeUpstream, make: Maker) -> None:
    """Those who read, wait or come later learn that the client is closed; every connection ends."""
    upstream.will(silence)
    client = make(upstream.url, pool=PoolOptions(connections=1))
    tasks = [spawn(ask(client)) for _ in range(2)]
    await upstream.until(lambda up: up.requests == 1)
    await client.close()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, UpstreamFailed)
    with pytest.raises(UpstreamFailed):
        await ask(client)
    await client.close()
    await upstream.until(lambda up: up.connections == 0)


@pytest.mark.parametrize("options", [{"connections": 0}, {"waiting": -1}, {"keep_idle": 0.0}])
def test_a_pool_without_room_is_refused(options: dict[str, Any]) -> None:
    """Bounds that could never serve a call are an error when they are configured."""
    with pytest.raises(ValueError, match="pool"):
        PoolOptions(**options)


async def test_nothing_is_left_behind(upstream: FakeUpstream, make: Maker) -> None:
    """Connections that ended, however they did, are freed without the cycle collector."""
    upstream.will(OK, hang_up, b"nonsense\r\n\r\n", OK)
    client = make(upstream.url)
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            await asyncio.gather(ask(client), return_exceptions=True)
        await client.close()
        await upstream.until(lambda up: up.connections == 0)
        await asyncio.sleep(0)
        left = [thing for thing in gc.get_objects() if type(thing) in {Connection, Reply, httptools.HttpResponseParser}]
        assert left == []
    finally:
        gc.enable()


# --- stale connections -------------------------------------------------------------------------------------------------


async def test_a_connection_closed_while_idle_is_not_used(upstream: FakeUpstream, make: Maker) -> None:
    """A server that restarts closes what we keep; the next call opens a new connection and nobody notices."""
    upstream.will(OK)
    client = make(upstream.url)
    for _ in range(3):
        assert (await ask(client)).take() == b"fine"
        upstream.drop()
        await eventually(lambda: client.pool.open == 0)
    assert (upstream.requests, upstream.accepted) == (3, 3)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_request_that_crossed_the_close_is_sent_again(make: Maker, authority: Authority, tls: bool) -> None:
    """The server closed the kept connection before it had received the request: it was never processed, so it is sent once more."""
    async with FakeUpstream(OK) as upstream:
        if tls:
            await upstream.stop()
            await upstream.start(tls=authority.server("127.0.0.1"))
        client = make(upstream.url, ca_bundle=authority.bundle)
        for _ in range(10):
            assert (await ask(client)).take() == b"fine"
            # In one turn of the loop: the server's FIN is on its way when the request is written.
            upstream.drop(politely=tls)
            await asyncio.sleep(0)
        assert upstream.requests == 10


async def resets(seen: Seen, wire: Wire) -> None:
    """Takes the request and breaks the connection."""
    wire.reset()


async def test_a_request_that_was_read_before_a_reset_is_not_sent_again(upstream: FakeUpstream, make: Maker) -> None:
    """A reset says nothing of what was read before it: the request may have been worked on, and is sent once."""
    for _ in range(10):
        upstream.will(OK, resets, OK)
        client = make(upstream.url)
        await ask(client)
        asked = upstream.requests
        with pytest.raises(UpstreamFailed) as caught:
            await ask(client)
        assert (caught.value.code, caught.value.sent, upstream.requests) == ("upstream_unreachable", True, asked + 1)


async def test_a_request_that_was_read_is_not_sent_again(upstream: FakeUpstream, make: Maker) -> None:
    """When the server had received the whole request before it closed, it may have been processed: the failure is told."""
    upstream.will(OK, hang_up, OK)
    client = make(upstream.url)
    await ask(client)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert caught.value.sent
    assert upstream.requests == 2


async def test_a_request_is_sent_again_only_once(make: Maker) -> None:
    """A server that closes its connections unread, new ones too, is asked on one more connection and no further."""
    lines: list[Any] = []

    class Closing(asyncio.Protocol):
        """Answers on the first connection; closes every later one unread."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            lines.append(transport)
            if len(lines) > 1:
                lines[-1].abort()

        def data_received(self, data: bytes) -> None:
            lines[0].write(OK)

    server = await asyncio.get_running_loop().create_server(Closing, "127.0.0.1", 0)
    client = make(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await ask(client)
    lines[0].abort()
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert caught.value.code == "upstream_unreachable"
    assert len(lines) == 2
    server.close()


# --- opening -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_scenario_21_connect_refused(make: Maker) -> None:
    """Nobody listens: unreachable, and certainly nothing was sent."""
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(f"http://127.0.0.1:{free_port()}"))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert "Refused" in caught.value.detail
    assert "127.0.0.1" not in caught.value.message


def resolving(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], list[str]]) -> list[str]:
    """Let this loop resolve names by `answer`; the names it was asked for."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    class Loop:
        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
            asked.append(host)
            addresses = answer(host)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            found: list[Any] = []
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                found.append((family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0) if ":" in address else (address, port)))
            return found

    monkeypatch.setattr("gatehouse.adapters.providers._http.dialing.asyncio.get_running_loop", Loop)
    return asked


async def test_scenario_21_nxdomain(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve: unreachable, and certainly nothing was sent."""
    resolving(monkeypatch, lambda host: [])
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make("http://no-such-host.example", plaintext=True))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert "not resolved" in caught.value.detail


async def test_every_address_is_tried(upstream: FakeUpstream, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead address, or a family without a route, only costs its share of the time."""
    upstream.will(OK)
    asked = resolving(monkeypatch, lambda host: ["::1", "127.0.0.2", "127.0.0.1"])
    client = make(f"http://models.example:{upstream.port}", plaintext=True)
    assert (await ask(client)).take() == b"fine"
    assert asked == ["models.example"]


async def test_ipv6(make: Maker) -> None:
    """An IPv6 literal works like any other host."""
    upstream = FakeUpstream(OK)
    try:
        await upstream.start(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (await ask(make(f"http://[::1]:{upstream.port}"))).take() == b"fine"
    assert upstream.seen[0].headers["host"] == f"[::1]:{upstream.port}"
    await upstream.stop()


async def test_cve_2026_54020_localhost_is_this_machine(upstream: FakeUpstream, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http was allowed because the name means this machine: an answer of the resolver that says otherwise is not dialled."""
    resolving(monkeypatch, lambda host: ["192.0.2.1", "64:ff9b::7f00:1"])
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(f"http://localhost:{upstream.port}"))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    resolving(monkeypatch, lambda host: ["192.0.2.1", "127.0.0.1"])
    upstream.will(OK)
    assert (await ask(make(f"http://localhost:{upstream.port}"))).take() == b"fine"


async def test_connecting_is_bounded(make: Maker) -> None:
    """A host that swallows our packets, or a TLS handshake nobody answers, is given up after the connect deadline."""
    mute = socket.socket()
    mute.bind(("127.0.0.1", 0))
    mute.listen(8)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(f"https://127.0.0.1:{mute.getsockname()[1]}"), Trial(connect=0.1))
    assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)
    mute.close()


async def test_cancelled_while_connecting(make: Maker) -> None:
    """The half-open connection is closed and its place is free again."""
    lost = asyncio.Event()

    class Mute(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    server = await asyncio.get_running_loop().create_server(Mute, "127.0.0.1", 0)
    client = make(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", pool=PoolOptions(connections=1))
    asking = spawn(ask(client))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(lost.wait(), 2.0)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client, Trial(connect=0.05))
    assert caught.value.code == "upstream_timeout"
    server.close()


# --- redirects ---------------------------------------------------------------------------------------------------------


async def test_cve_2026_45401_redirects_are_not_followed(upstream: FakeUpstream, make: Maker) -> None:
    """A redirect is an answer like any other, and no second request goes out, here or elsewhere."""
    async with FakeUpstream(OK) as elsewhere:
        upstream.will(http(b"", status=307, headers=[("location", f"{elsewhere.url}/stolen")]))
        assert (await ask(make(upstream.url))).status == 307
        assert (upstream.requests, elsewhere.requests, elsewhere.accepted) == (1, 0, 0)


# --- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def secure(authority: Authority) -> AsyncIterator[FakeUpstream]:
    """A provider with a good certificate for 127.0.0.1."""
    upstream = FakeUpstream(OK)
    await upstream.start(tls=authority.server("127.0.0.1"))
    yield upstream
    await upstream.stop()


async def test_tls_with_a_private_authority(secure: FakeUpstream, make: Maker, authority: Authority) -> None:
    """A certificate that the bundle vouches for is accepted; connections are kept and streams flow."""
    client = make(secure.url, ca_bundle=authority.bundle)
    for _ in range(3):
        assert (await ask(client, body=bytes(300_000))).take() == b"fine"
    secure.will(streamed([b"data: 1\n\n"] * 3, gap=0.002))
    reply = await ask(client, streams=True)
    reply.begin()
    data = b""
    while piece := await reply.more():
        data += piece
    assert data == b"data: 1\n\n" * 3
    assert secure.accepted == 1


def expired(authority: Authority) -> ssl.SSLContext:
    return authority.server("127.0.0.1", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2021, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("fault", ["self-signed", "wrong host", "expired", "unknown authority"])
async def test_scenario_34_a_bad_certificate_is_refused(
    fault: str, make: Maker, authority: Authority, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Expired, for another host, or from nobody we trust: refused with a clear log line, nothing sent, no plain text tried."""
    bundle: str | None = authority.bundle
    if fault == "wrong host":
        context = authority.server("api.example.com")
    elif fault == "expired":
        context = expired(authority)
    elif fault == "unknown authority":
        context = Authority(tmp_path_factory.mktemp("other")).server("127.0.0.1")
    else:
        context, bundle = authority.server("127.0.0.1"), None
    upstream = FakeUpstream(OK)
    await upstream.start(tls=context)
    trial = Trial()
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(upstream.url, ca_bundle=bundle), trial)
    assert (caught.value.code, caught.value.sent, trial.sent) == ("upstream_unreachable", False, False)
    assert "certificate" in caught.value.message
    assert re.search(r"lab: the certificate of 127\.0\.0\.1:\d+ was refused: ", caplog.text)
    assert upstream.requests == 0
    await upstream.stop()


async def test_scenario_34_no_tls_is_no_reason_for_plain_text(upstream: FakeUpstream, make: Maker) -> None:
    """A server that does not speak TLS on an https URL gets no request at all."""
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(f"https://127.0.0.1:{upstream.port}"))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert upstream.requests == 0


async def test_old_tls_is_refused(make: Maker, authority: Authority) -> None:
    """Nothing below TLS 1.2, whatever the server would rather speak."""
    context = authority.server("127.0.0.1")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    upstream = FakeUpstream(OK)
    await upstream.start(tls=context)
    with pytest.raises(UpstreamFailed):
        await ask(make(upstream.url, ca_bundle=authority.bundle))
    await upstream.stop()


def test_a_bundle_that_cannot_be_read_is_an_error_at_once(tmp_path: Any) -> None:
    """A wrong path or an empty file is found when the client is made, not with the first call."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (str(empty), str(tmp_path / "none.pem")):
        with pytest.raises((OSError, ssl.SSLError)):
            HttpClient(HttpOptions(label="lab", base=parse_base_url("https://127.0.0.1"), ca_bundle=path))


# --- proxies -----------------------------------------------------------------------------------------------------------


class Shut:
    """Closes a stream's end for certain."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def __aenter__(self) -> None:
        """Nothing to do yet."""

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Proxy:
    """An egress proxy: remembers what it was asked, answers `reply`, and pumps to where it was asked when that says 200."""

    def __init__(self, reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.reply = reply
        self.heads: list[str] = []
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self.port = 0

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        async with Shut(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            writer.write(self.reply)
            if b" 200" in self.reply:
                await self._tunnel(head, reader, writer)

    async def _tunnel(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = head.split()[1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host.strip("[]").replace("models.example", "127.0.0.1"), int(port))
        async with Shut(far_writer):
            pumps = [spawn(self._pump(reader, far_writer)), spawn(self._pump(far_reader, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)


async def test_an_egress_proxy_sees_names_only(make: Maker, authority: Authority) -> None:
    """CONNECT with the proxy's credentials; the provider's key and the call pass inside TLS, checked end to end; we resolve no name."""
    upstream = FakeUpstream(OK)
    await upstream.start(tls=authority.server("models.example"))
    proxy = await Proxy().start()
    server = parse_proxy(Secret(f"http://user:geheim@127.0.0.1:{proxy.port}"))
    client = make(
        f"https://models.example:{upstream.port}/v1",
        ca_bundle=authority.bundle,
        proxy=server,
        headers={"x-key": Secret("sk-123")},
    )
    for _ in range(2):
        assert (await ask(client)).take() == b"fine"
    token = base64.b64encode(b"user:geheim").decode()
    target = f"models.example:{upstream.port}"
    assert proxy.heads == [f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: Basic {token}\r\n\r\n"]
    assert upstream.seen[0].headers["x-key"] == "sk-123"
    assert "proxy-authorization" not in upstream.seen[0].headers
    await proxy.stop()
    await upstream.stop()


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\ngeheim", "403"),
        (b"SSH-2.0\r\n\r\n", "speak"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", "bytes of its own"),
        (b"HTTP/1.1 502 " + b"x" * 20_000, "too long"),
        (b"HTTP/1.1 502 Bad", "closed"),
    ],
)
async def test_a_proxy_that_refuses(upstream: FakeUpstream, make: Maker, reply: bytes, detail: str) -> None:
    """No tunnel, no call: and nobody but the origin can answer in its name."""
    proxy = await Proxy(reply).start()
    client = make(upstream.url, proxy=ProxyServer("127.0.0.1", proxy.port))
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert detail in caught.value.detail
    assert "geheim" not in caught.value.detail
    assert upstream.requests == 0
    await proxy.stop()


async def test_a_proxy_that_is_not_there(upstream: FakeUpstream, make: Maker) -> None:
    """When the way out is closed we do not go around it."""
    with pytest.raises(UpstreamFailed) as caught:
        await ask(make(upstream.url, proxy=ProxyServer("127.0.0.1", free_port())))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert upstream.accepted == 0
