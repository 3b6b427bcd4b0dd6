"""Fetches an image or a file from the public net for a call, and nothing from anywhere else.

A name is resolved once; every address it has must be allowed, and the connection goes to an address that was looked at, with
the name kept for TLS and the `host` header: there is no second resolution that could answer otherwise. Redirects are not
followed, nothing of the caller's or ours is sent along, and what comes back is bounded in size and time and must be of a
type that a model reads, by its own first bytes and not by what the server calls it. An egress proxy is not used: behind one
nobody could say which address is reached.
"""

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import httptools
import msgspec

from gatehouse.core.errors import Unavailable
from gatehouse.core.remote import RemoteUrl, UrlRefused, is_public, parse_url

NOT_PUBLIC: Final = "nothing public can be reached there"
"""One sentence for a name that does not exist, one that means a private address, and one that nobody answers at: a caller
must not learn from us what our network looks like."""
_MOST_HEAD: Final = 32_768
_PIECE: Final = 65_536
_LARGE: Final = 262_144
"""Bytes from which encoding is done beside the loop."""
_AT_ONCE: Final = 32
_PATIENCE: Final = 2.0
"""Seconds a call waits for its turn before it is told to come back."""
_STARTS: Final[dict[str, tuple[tuple[bytes, str], ...]]] = {
    "image": ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif")),
    "file": ((b"%PDF-", "application/pdf"),),
}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> every IP address of the name. Raises OSError."""


class FetchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be fetched. `networks` are the operator's exceptions from "public only"; `hosts`, when there are any, are the only
    names ("*.example.com" covers what ends so). `max_bytes` is of one content, `seconds` for all of fetching it."""

    http: bool = False
    ports: frozenset[int] = frozenset({80, 443})
    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    max_bytes: int = 8 * 1024 * 1024
    seconds: float = 10.0
    ca_bundle: str | None = None


class WebFetcher:
    """Implements `core.ports.Fetcher`."""

    def __init__(self, options: FetchOptions, resolve: Resolve | None = None) -> None:
        """Raises ValueError or OSError for a network or bundle that is none."""
        self._options = options
        self._networks = tuple(ipaddress.ip_network(net) for net in options.networks)
        self._resolve = resolve or _resolve
        self._context = ssl.create_default_context(cafile=options.ca_bundle)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str, kind: Literal["image", "file"]) -> str:
        """See `Fetcher`."""
        place = parse_url(url)
        self._check(place)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable("Too much is being fetched for other calls.", code="fetch_busy", retry_after=2.0) from None
        try:
            async with asyncio.timeout(self._options.seconds):
                content = await self._content(place)
        except TimeoutError:
            raise UrlRefused("it did not answer in time") from None
        finally:
            self._turns.release()
        media = _media_type(content, kind)
        if len(content) > _LARGE:
            return await asyncio.to_thread(_data_url, media, content)
        return _data_url(media, content)

    def _check(self, place: RemoteUrl) -> None:
        """What can be refused before anything is asked of anybody."""
        options = self._options
        if place.scheme == "http" and not options.http:
            raise UrlRefused("it is not an https address")
        if place.port not in options.ports:
            raise UrlRefused(f"port {place.port} is not allowed")
        if options.hosts and not any(_covers(pattern, place.host) for pattern in options.hosts):
            raise UrlRefused("its host is not one of those allowed here")
        if place.literal and not self._allowed(place.host):
            raise UrlRefused(NOT_PUBLIC)

    def _allowed(self, address: str) -> bool:
        if is_public(address):
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    async def _content(self, place: RemoteUrl) -> bytes:
        try:
            addresses = [place.host] if place.literal else await self._resolve(place.host, place.port)
        except (OSError, UnicodeError):
            raise UrlRefused(NOT_PUBLIC) from None
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise UrlRefused(NOT_PUBLIC)
        reader, writer = await self._connect(place, addresses[0])
        try:
            lines = (
                f"GET {place.target} HTTP/1.1",
                f"host: {place.authority}",
                "user-agent: gatehouse",
                "accept: image/png, image/jpeg, image/gif, image/webp, application/pdf",
                "accept-encoding: identity",
                "connection: close",
            )
            writer.write("\r\n".join((*lines, "", "")).encode())
            return await _Answer(self._options.max_bytes).read(reader)
        except (OSError, ssl.SSLError):
            raise UrlRefused("the connection broke") from None
        finally:
            writer.transport.abort()

    async def _connect(self, place: RemoteUrl, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to an address that was looked at; nothing here resolves a name."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (address, place.port))
            tls = place.scheme == "https"
            return await asyncio.open_connection(
                sock=sock, limit=_PIECE, ssl=self._context if tls else None, server_hostname=place.host if tls else None
            )
        except ssl.SSLCertVerificationError:
            sock.close()
            raise UrlRefused("its certificate is not good") from None
        except OSError:
            sock.close()
            raise UrlRefused(NOT_PUBLIC) from None
        except BaseException:
            sock.close()
            raise


class _Answer:
    """Reads one answer, bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parser = httptools.HttpResponseParser(self)
        self._content = bytearray()
        self._head = 0
        self._complete = False
        self._problem = ""

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """The content of a 200. Raises UrlRefused for anything else."""
        while not self._complete and not self._problem:
            data = await reader.read(_PIECE)
            if not data:
                break
            self._head += len(data)
            if self._head - len(self._content) > _MOST_HEAD + 8 * len(self._content) + _PIECE:
                self._problem = "its answer is not acceptable"
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._problem = self._problem or "its answer is not valid HTTP"
        if self._problem:
            raise UrlRefused(self._problem)
        if not self._complete:
            raise UrlRefused("its answer broke off")
        return bytes(self._content)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        lower = name.lower()
        if lower == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            self._problem = "its content is encoded"
        elif lower == b"content-length" and value.isdigit() and int(value[:20]) > self._most:
            self._problem = self._too_large()

    def on_headers_complete(self) -> None:
        """See httptools."""
        status = self._parser.get_status_code()
        if 300 <= status < 400:
            self._problem = "it answers with a redirect; give the address it leads to"
        elif status != 200:
            self._problem = f"it answers {status}"

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if len(self._content) + len(body) > self._most:
            self._problem = self._too_large()
        elif not self._problem:
            self._content += body

    def on_message_complete(self) -> None:
        """See httptools."""
        self._complete = True

    def _too_large(self) -> str:
        return f"it holds more than {self._most} bytes"


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for _, _, _, _, address in found]


def _covers(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _media_type(content: bytes, kind: Literal["image", "file"]) -> str:
    if kind == "image" and content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    for start, media in _STARTS[kind]:
        if content.startswith(start):
            return media
    wanted = "a PNG, JPEG, GIF or WebP image" if kind == "image" else "a PDF"
    raise UrlRefused(f"it does not hold {wanted}")


def _data_url(media: str, content: bytes) -> str:
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
