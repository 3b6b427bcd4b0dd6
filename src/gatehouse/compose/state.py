"""Where what may be lost is kept: the way to other servers, and which targets are the same for all of them."""

import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from gatehouse.adapters.state.memory_broadcast import MemoryBroadcast
from gatehouse.compose.providers import address
from gatehouse.compose.start import StartError
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Broadcast, Clock, Rng, Spawn
from gatehouse.core.secrets import Secret
from gatehouse.processes.neighbours import Place
from gatehouse.settings import Settings, StateSettings

PORT: Final = 6379


def shared(settings: StateSettings) -> bool:
    """Whether other servers are told anything."""
    return not settings.url.reveal().startswith("memory:")


def encrypted(settings: StateSettings) -> bool:
    """Whether it goes over TLS."""
    return urlsplit(settings.url.reveal()).scheme in {"valkeys", "rediss"}


def host_of(settings: StateSettings) -> str:
    """The host, which may be shown."""
    return urlsplit(settings.url.reveal()).hostname or ""


def open_broadcast(settings: StateSettings, clock: Clock, rng: Rng, spawn: Spawn) -> Broadcast:
    """The way to other servers; nothing is connected yet.

    Raises:
        StartError: a package or a file that it needs is not there.
    """
    if not shared(settings):
        return MemoryBroadcast()
    try:
        from gatehouse.adapters.state.valkey import ValkeyBroadcast, ValkeyPlace
    except ImportError:
        raise StartError(
            "state.url needs the package `redis`, which is not installed: install gatehouse[valkey]"
            ' (python -m pip install "redis>=8"), or set state.url to memory://'
        ) from None
    url = urlsplit(settings.url.reveal())
    place = ValkeyPlace(
        url.hostname or "",
        url.port or PORT,
        f"{settings.prefix}:targets",
        unquote(url.username) if url.username else None,
        Secret(unquote(url.password)) if url.password else None,
        _tls(settings) if encrypted(settings) else None,
        settings.connect_seconds,
        settings.answer_seconds,
    )
    return ValkeyBroadcast(place, clock, rng, spawn)


def _tls(settings: StateSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_bundle)
        if settings.client_cert is not None:
            context.load_cert_chain(settings.client_cert, settings.client_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"state.ca_bundle, client_cert or client_key cannot be used: {error.strerror or type(error).__name__}") from None
    return context


def places(settings: Settings, plans: Iterable[Plan]) -> dict[str, Place]:
    """The targets of which servers talk to each other: those of providers.

    What they are is in the digest, so that two servers whose files give one name to two places do not take the one for the other. What
    is on this machine is that only for servers of this machine. Embedded models are nobody else's.
    """
    wheres = {provider.name: _where(provider.kind, address(provider)) for provider in settings.providers}
    return {
        target.id: Place(hashlib.blake2b(f"{wheres[target.provider]}\0{target.model}".encode(), digest_size=8).digest(), target.breaker)
        for plan in plans
        for target in plan.everywhere
        if target.provider in wheres and target.breaker.enabled
    }


def _where(kind: str, url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"{kind}\0{url.rstrip('/')}\0{socket.gethostname() if is_loopback(host) else ''}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or number."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
