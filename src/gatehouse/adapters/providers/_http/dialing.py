"""Opening a connection: resolve, try each address, pass the proxy, prove the certificate. All of it under one deadline."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final

from gatehouse.adapters.providers._http.connection import Connection
from gatehouse.adapters.providers._http.origin import Origin, is_loopback
from gatehouse.adapters.providers._http.tunnel import ProxyServer, TunnelRefused, open_tunnel
from gatehouse.core.errors import UpstreamFailed

logger = logging.getLogger("gatehouse.providers")

_LEAST_SHARE: Final = 0.25
"""Seconds that even the first of many addresses gets."""

Address = tuple[socket.AddressFamily, Any]


def trust(ca_bundle: str | None) -> ssl.SSLContext:
    """A client context that verifies chain and host name: against the machine's roots, or only against the bundle given.

    Raises:
        OSError: the bundle cannot be read.
        ssl.SSLError: it holds no certificates.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_bundle)
    except OSError as fault:
        fault.filename = ca_bundle
        raise
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialler:
    """Opens connections to one origin, directly or through one proxy."""

    def __init__(self, origin: Origin, *, label: str, ca_bundle: str | None, proxy: ProxyServer | None, plaintext: bool) -> None:
        self._origin = origin
        self._label = label
        self._proxy = proxy
        self._only_loopback = origin.scheme == "http" and not plaintext
        self._context = trust(ca_bundle) if origin.scheme == "https" else None

    async def dial(self, make: Callable[[socket.socket], Connection], seconds: float) -> Connection:
        """An open connection, made by `make` around the socket.

        Raises:
            UpstreamFailed: upstream_unreachable or upstream_timeout; certainly nothing was sent.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._open(make, seconds)
        except TimeoutError:
            raise self._failed("The model could not be reached in time.", "connect deadline passed", "upstream_timeout") from None
        except ssl.SSLCertVerificationError as fault:
            logger.warning("%s: the certificate of %s was refused: %s", self._label, self._origin.authority, fault.verify_message)
            raise self._failed("The model's certificate was refused.", f"certificate refused: {fault.verify_message}") from None
        except ssl.SSLError as fault:
            logger.warning("%s: no TLS with %s: %s", self._label, self._origin.authority, fault.reason)
            raise self._failed("No secure connection to the model could be made.", f"TLS: {fault.reason}") from None
        except socket.gaierror as fault:
            raise self._failed("The model could not be reached.", f"name not resolved: {fault.strerror}") from None
        except TunnelRefused as fault:
            raise self._failed("The model could not be reached.", str(fault)) from None
        except OSError as fault:
            raise self._failed("The model could not be reached.", f"{type(fault).__name__} {fault.errno or ''}".strip()) from None

    def _failed(self, message: str, detail: str, code: str = "upstream_unreachable") -> UpstreamFailed:
        return UpstreamFailed(message, code=code, detail=f"{self._label}: {self._origin.authority}: {detail}", sent=False)

    async def _open(self, make: Callable[[socket.socket], Connection], seconds: float) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await self._connect(loop, seconds)
        connection: Connection | None = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._proxy is not None:
                await open_tunnel(loop, sock, self._proxy, self._origin)
            connection = made = make(sock)
            await loop.create_connection(
                lambda: made,
                sock=sock,
                ssl=self._context,
                server_hostname=self._origin.host.rstrip(".") if self._context is not None else None,
            )
        except BaseException:
            if connection is not None:
                connection.abort()
            sock.close()
            raise
        return connection

    async def _connect(self, loop: asyncio.AbstractEventLoop, seconds: float) -> socket.socket:
        host, port = (self._origin.host, self._origin.port) if self._proxy is None else (self._proxy.host, self._proxy.port)
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        addresses = _by_turns([(family, address) for family, _, _, _, address in found])
        if self._only_loopback and self._proxy is None:
            # The name was allowed because it means this machine; what it resolves to must be this machine too.
            addresses = [entry for entry in addresses if is_loopback(str(entry[1][0]))]
        ends = loop.time() + seconds
        last: OSError = OSError("no address")
        for left, (family, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            except OSError as fault:
                last = fault
                continue
            try:
                sock.setblocking(False)
                async with asyncio.timeout(max(_LEAST_SHARE, (ends - loop.time()) / left)):
                    await loop.sock_connect(sock, address)
            except OSError as fault:  # a TimeoutError is one too
                sock.close()
                last = fault
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise last


def _by_turns(addresses: Sequence[Address]) -> list[Address]:
    # One family may be unroutable as a whole: the other's first address comes second, not last.
    first = [entry for entry in addresses if entry[0] == addresses[0][0]]
    other = [entry for entry in addresses if entry[0] != addresses[0][0]]
    return [entry for entry in chain.from_iterable(zip_longest(first, other)) if entry is not None]
