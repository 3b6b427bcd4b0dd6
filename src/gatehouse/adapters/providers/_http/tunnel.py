"""The way out through an egress proxy: CONNECT, then everything else is between us and the origin.

Which proxy and which exceptions is configuration that is handed in; nothing here looks at the environment.
"""

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from gatehouse.adapters.providers._http.origin import Origin
from gatehouse.core.secrets import Secret

_MAX_HEAD: Final = 16_384
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r]")


class ProxyServer(msgspec.Struct, frozen=True):
    """An http proxy; `authorization` is the complete value of `proxy-authorization`."""

    host: str
    port: int
    authorization: Secret | None = None


class TunnelRefused(Exception):
    """The proxy would not connect us; the text is for operators."""


def parse_proxy(url: Secret) -> ProxyServer:
    """Read the value of a variable like HTTPS_PROXY ("http://user:password@host:3128").

    Raises:
        ValueError: not such a URL. Its text is never quoted, for it may hold a password.
    """
    text = url.reveal()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise ValueError("the proxy's URL cannot be read") from None
    if parts.scheme != "http":
        raise ValueError("the proxy's URL must begin with http:// (TLS to the proxy itself is not supported)")
    if not parts.hostname or not parts.netloc.isascii() or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("the proxy's URL may hold a user, a password, a host and a port, and nothing else")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = Secret("Basic " + base64.b64encode(pair.encode()).decode())
    return ProxyServer(parts.hostname, port or 80, authorization)


def bypasses(exceptions: Iterable[str], host: str) -> bool:
    """Whether `host` is reached directly: NO_PROXY's entries are "*", a name (and all below it), an address or a network."""
    host = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for raw in exceptions:
        entry = raw.strip().lower()
        if entry == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
        elif entry:
            name = entry.lstrip(".")
            if host == name or host.endswith(f".{name}"):
                return True
    return False


async def open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: ProxyServer, origin: Origin) -> None:
    """Ask the proxy at the other end of `sock` for a tunnel to `origin`; when this returns the next bytes are the origin's.

    Raises:
        TunnelRefused: the proxy said no, or spoke nonsense.
        OSError: the connection broke.
    """
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    authority = f"{host}:{origin.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n"
    if proxy.authorization is not None:
        head += f"proxy-authorization: {proxy.authorization.reveal()}\r\n"
    await loop.sock_sendall(sock, f"{head}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise TunnelRefused("the proxy closed the connection")
        answer += data
        if len(answer) > _MAX_HEAD:
            raise TunnelRefused("the proxy's answer is too long")
    status = _STATUS.match(answer)
    if status is None:
        raise TunnelRefused("the proxy does not speak HTTP/1.1")
    if status[1][:1] != b"2":
        raise TunnelRefused(f"the proxy answered {status[1].decode()}")
    if not answer.endswith(b"\r\n\r\n") or answer.count(b"\r\n\r\n") != 1:
        # The origin has been told nothing yet: whatever follows the head was not said by it.
        raise TunnelRefused("the proxy sent bytes of its own into the tunnel")
