"""Fetching on real sockets: what is got, what is refused, and that nothing is connected to that was not looked at."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gatehouse.adapters.fetching.web import NOT_PUBLIC, FetchOptions, WebFetcher
from gatehouse.core.remote import UrlRefused
from tests.served.test_http_tls import write_pair

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 100
LOOPBACK = ("127.0.0.0/8", "::1/128")


def reply(body: bytes = PNG, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "content-type: text/html", *headers]
    return "\r\n".join((*lines, "", "")).encode() + body


class Site:
    """A server that answers every request with the same bytes and remembers what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.connections = 0
        self.hold = False
        self.ended: list[asyncio.Event] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.ended.append(ended := asyncio.Event())
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
            if self.hold:
                await reader.read()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        ended.set()


@contextlib.asynccontextmanager
async def site(answer: bytes = b"", host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    it = Site(answer or reply())
    server = await asyncio.start_server(it.serve, host, port, ssl=tls)
    it.port = server.sockets[0].getsockname()[1]
    async with server:
        yield it
        async with asyncio.timeout(10):
            for ended in it.ended:
                await ended.wait()


def fetcher(it: Site, *addresses: str, resolved: list[str] | None = None, **options: object) -> WebFetcher:
    """One that may go to loopback at the site's port; names resolve to `addresses`."""
    given = {"http": True, "ports": frozenset({it.port}), "networks": LOOPBACK, "seconds": 5.0, **options}

    async def resolve(host: str, port: int) -> Sequence[str]:
        if resolved is not None:
            resolved.append(host)
        return addresses or ("127.0.0.1",)

    return WebFetcher(FetchOptions(**given), resolve)  # type: ignore[arg-type]


async def refusal(it: WebFetcher, url: str, kind: str = "image") -> str:
    with pytest.raises(UrlRefused) as refused:
        await it.fetch(url, kind)  # type: ignore[arg-type]
    return str(refused.value)


async def test_an_image_is_fetched() -> None:
    """As a data: URL of the type its first bytes show, whatever the server calls it; a name is resolved once and kept as `host`."""
    resolved: list[str] = []
    async with site() as it:
        got = await fetcher(it, resolved=resolved).fetch(f"http://pictures.example:{it.port}/a.png?x=1#y", "image")
    assert got.startswith("data:image/png;base64,iVBORw0KGgp4")
    assert resolved == ["pictures.example"]
    (asked,) = it.asked
    lines = asked.decode().split("\r\n")
    assert lines[0] == "GET /a.png?x=1 HTTP/1.1"
    assert f"host: pictures.example:{it.port}" in lines
    assert not any(line.lower().startswith(("authorization", "cookie", "referer", "x-", "traceparent")) for line in lines)


@pytest.mark.parametrize(
    ("kind", "body", "media"),
    [
        ("image", b"\xff\xd8\xff\xe0" + b"x" * 20, "image/jpeg"),
        ("image", b"GIF89a" + b"x" * 20, "image/gif"),
        ("image", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        ("file", b"%PDF-1.7 ...", "application/pdf"),
    ],
)
async def test_what_may_be_fetched(kind: str, body: bytes, media: str) -> None:
    """Four kinds of images, and PDF as a file."""
    async with site(reply(body)) as it:
        got = await fetcher(it).fetch(f"http://a.example:{it.port}/", kind)  # type: ignore[arg-type]
    assert got.startswith(f"data:{media};base64,")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(b"<html>secret</html>"), "does not hold a PNG"),
        (reply(b""), "does not hold"),
        (reply(status="404 Not Found"), "answers 404"),
        (reply(PNG, "206 Partial Content"), "answers 206"),
        (reply(gzip.compress(PNG), "200 OK", "content-encoding: gzip"), "is encoded"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + PNG, "broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n", "not "),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n", "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7D0\r\n" + b"x" * 2000 + b"\r\n", "more than 1000 bytes"),
    ],
)
async def test_what_is_not_taken(answer: bytes, words: str) -> None:
    """Another type, another status, encoded, cut off, no HTTP, or too large by its own word or in fact; no byte of it is told."""
    async with site(answer) as it:
        said = await refusal(fetcher(it, max_bytes=1000), f"http://a.example:{it.port}/")
    assert words in said
    assert "secret" not in said


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_cve_2026_45401_redirects_are_not_followed(status: str) -> None:
    """Open WebUI checked the first address and went on to the next. Here the caller is told to give the address itself."""
    async with site() as trap, site(reply(b"", status, f"location: http://127.0.0.1:{trap.port}/")) as it:
        assert "redirect" in await refusal(fetcher(it), f"http://a.example:{it.port}/")
        assert (it.connections, trap.connections) == (1, 0)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",), ("::1",), ("10.0.0.1",), ("169.254.169.254",), ("::ffff:127.0.0.1",), ("64:ff9b::7f00:1",),
        ("93.184.216.34", "127.0.0.1"),
    ],
)  # fmt: skip
async def test_scenario_16_a_name_that_means_something_private_gets_no_packet(addresses: tuple[str, ...]) -> None:
    """Also when only one of its addresses is private, or is one in disguise (NAT64, CVE-2026-70485). What it means is not told."""
    async with site() as it:
        assert await refusal(fetcher(it, *addresses, networks=()), f"http://a.example:{it.port}/") == NOT_PUBLIC
        assert it.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "[fe80::1]", "10.0.0.1"])
async def test_scenario_16_a_private_address_gets_no_packet(host: str) -> None:
    """And nobody is asked what it means."""
    resolved: list[str] = []
    async with site() as it:
        assert await refusal(fetcher(it, networks=(), resolved=resolved), f"http://{host}:{it.port}/") == NOT_PUBLIC
        assert it.connections == 0
    assert resolved == []


async def test_cve_2026_54020_the_address_that_was_looked_at_is_the_one_connected_to() -> None:
    """Rebinding: the second answer of a name would be another machine. Here there is no second question."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    async with site() as trap, site(host="127.0.0.2", port=trap.port) as it:
        options = FetchOptions(http=True, ports=frozenset({it.port}), networks=("127.0.0.2/32",))
        await WebFetcher(options, resolve).fetch(f"http://a.example:{it.port}/", "image")
        assert (it.connections, trap.connections) == (1, 0)
        assert len(answers) == 1


async def test_a_name_that_is_unknown_sounds_like_one_that_is_private() -> None:
    """And so does one where nobody listens: the caller learns nothing of our network."""

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    options = FetchOptions(http=True, networks=LOOPBACK, ports=frozenset({1}))
    assert await refusal(WebFetcher(options, unknown), "http://a.example:1/") == NOT_PUBLIC
    assert await refusal(WebFetcher(options), "http://127.0.0.1:1/") == NOT_PUBLIC


@pytest.mark.parametrize(
    ("options", "url", "words"),
    [
        ({"http": False}, "http://a.example:{port}/", "not an https address"),
        ({"ports": frozenset({443})}, "http://a.example:{port}/", "is not allowed"),
        ({"hosts": ("*.example.org", "b.example")}, "http://a.example:{port}/", "not one of those allowed"),
        ({"hosts": ("*.example",)}, "http://example:{port}/", "not one of those allowed"),
    ],
)
async def test_what_the_operator_does_not_allow(options: dict[str, object], url: str, words: str) -> None:
    """Plain http, other ports and, where there is a list, other hosts; nothing is resolved for them."""
    resolved: list[str] = []
    async with site() as it:
        assert words in await refusal(fetcher(it, resolved=resolved, **options), url.format(port=it.port))
        assert (it.connections, resolved) == (0, [])


async def test_a_listed_host_is_fetched_from() -> None:
    """By its end, or by its name."""
    async with site() as it:
        for host in ("cdn.example", "b.example.org"):
            await fetcher(it, hosts=("*.example", "b.example.org")).fetch(f"http://{host}:{it.port}/", "image")
        assert it.connections == 2


async def test_a_site_that_never_ends_is_cut() -> None:
    """Its time is bounded as a whole, not by the byte."""
    async with site(b"HTTP/1.1 200 OK\r\ncontent-length: 108\r\n\r\n\x89PNG") as it:
        it.hold = True
        assert "in time" in await refusal(fetcher(it, seconds=0.2), f"http://a.example:{it.port}/")


async def test_tls_is_for_the_name(tmp_path: Path) -> None:
    """The certificate must be that of the name in the address, from an authority that is trusted; there is no way back to plain http."""
    certificate, key = write_pair(tmp_path, 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with site(tls=context) as it:
        good = fetcher(it, http=False, ca_bundle=str(certificate))
        assert (await good.fetch(f"https://gate.test:{it.port}/a", "image")).startswith("data:image/png")
        assert "certificate" in await refusal(good, f"https://other.test:{it.port}/a")
        assert "certificate" in await refusal(fetcher(it, http=False), f"https://gate.test:{it.port}/a")
    assert len(it.asked) == 1


async def test_a_cancelled_fetch_leaves_nothing_open() -> None:
    """The connection is closed at once when the caller goes."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                begun.set()
        gone.set()
        writer.close()

    begun = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        it = WebFetcher(FetchOptions(http=True, ports=frozenset({port}), networks=LOOPBACK))
        task = asyncio.create_task(it.fetch(f"http://127.0.0.1:{port}/", "image"))
        async with asyncio.timeout(10):
            await begun.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await gone.wait()
