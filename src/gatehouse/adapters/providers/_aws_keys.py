"""Where AWS keys come from: the configuration, a profile of the machine's files, or the machine itself.

The machine's own address (169.254.169.254 on an instance, 169.254.170.2 in a container) gives keys to whoever asks, which is
why callers elsewhere try to make a gateway ask. Here it is asked only when the operator chose so, at an address that no caller's
word is part of, without a proxy, and with the session token (IMDSv2) that a forwarded request cannot have.
"""

import asyncio
import configparser
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from gatehouse.adapters.providers._codec import segment
from gatehouse.adapters.providers._http import HttpClient, HttpOptions, PoolOptions, Reply, parse_base_url, written
from gatehouse.adapters.providers._sigv4 import AwsKey
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Deadlines
from gatehouse.core.secrets import Secret

logger = logging.getLogger("gatehouse.providers")

INSTANCE_URL: Final = "http://169.254.169.254"
CONTAINER_URL: Final = "http://169.254.170.2"
_CONTAINER_HOSTS: Final = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
"""Where containers get keys in plain http: ECS, and EKS by either protocol."""
_ROLES: Final = "/latest/meta-data/iam/security-credentials/"
_SOON: Final = 300.0
"""Seconds before its end that a key is renewed."""
_AGAIN: Final = 10.0
"""Seconds between two attempts to renew a key that still holds."""
_RECALL: Final = 1.0
"""Seconds for which a failure to get a first key is told again without asking."""
_LOOK: Final = 5.0
"""Seconds between two looks whether a profile's file has changed."""
_ASKING: Final = Deadlines(connect=2.0, first_byte=2.0, idle=2.0, total=5.0)


class KeySource(Protocol):
    """Gives the key to sign with now."""

    async def key(self) -> AwsKey:
        """The key. Raises UpstreamFailed, with nothing sent, when there is none."""

    def refused(self) -> None:
        """AWS did not accept the last key: ask again before the next use."""

    async def close(self) -> None:
        """Give back what is held."""


def no_key(label: str, detail: str, code: str = "upstream_auth") -> UpstreamFailed:
    """The failure of a call that could not be signed; the detail says what to do."""
    text = "The model is not available: its credentials are missing."
    return UpstreamFailed(text, code=code, detail=f"{label}: {detail}", sent=False)


def _no(detail: str) -> UpstreamFailed:
    return UpstreamFailed("", code="upstream_auth", detail=detail, sent=False)


class FixedKey:
    """The key of the configuration."""

    def __init__(self, key: AwsKey) -> None:
        self._key = key

    async def key(self) -> AwsKey:
        """See `KeySource`."""
        return self._key

    def refused(self) -> None:
        """It is all there is."""

    async def close(self) -> None:
        """Nothing is held."""


class ProfileKey:
    """The key of a profile in AWS's files, read again when a file changes: tools that renew keys write them there."""

    def __init__(self, label: str, profile: str, files: tuple[Path, Path], now: Callable[[], float] = time.monotonic) -> None:
        """`files` are the credentials file and the config file, in the order in which they are asked."""
        self._label = label
        self._profile = profile
        self._files = files
        self._now = now
        self._kept: AwsKey | None = None
        self._seen: tuple[tuple[int, int] | None, ...] = ()
        self._look_at = 0.0

    async def key(self) -> AwsKey:
        """See `KeySource`."""
        now = self._now()
        if self._kept is not None and now < self._look_at:
            return self._kept
        seen = tuple(_state(path) for path in self._files)
        if self._kept is None or seen != self._seen:
            self._kept = self._read()
            self._seen = seen
        self._look_at = now + _LOOK
        return self._kept

    def refused(self) -> None:
        """Look into the files before the next use."""
        self._look_at = 0.0

    async def close(self) -> None:
        """Nothing is held."""

    def _read(self) -> AwsKey:
        others: set[str] = set()
        for path, section in zip(self._files, (self._profile, self._config_section()), strict=True):
            found = _section(path, section)
            if found.get("aws_access_key_id") and found.get("aws_secret_access_key"):
                token = found.get("aws_session_token")
                return AwsKey(found["aws_access_key_id"], Secret(found["aws_secret_access_key"]), Secret(token) if token else None)
            others |= {name for name in found if name in {"credential_process", "role_arn", "sso_session", "sso_start_url"}}
        if others:
            detail = (
                f"profile {self._profile!r} gets its key by {', '.join(sorted(others))}, which Gatehouse does not do: "
                "export the key into the credentials file, or use credentials: instance"
            )
        else:
            detail = f"no key for profile {self._profile!r} in {' or '.join(str(path) for path in self._files)}"
        raise no_key(self._label, detail)

    def _config_section(self) -> str:
        return "default" if self._profile == "default" else f"profile {self._profile}"


class MachineKey:
    """The key that an instance's or container's own address gives to its role: fetched once for all who wait, renewed in time."""

    def __init__(self, label: str, ask: "InstanceRole | ContainerRole", now: Callable[[], float] = time.time) -> None:
        self._label = label
        self._ask = ask
        self._now = now
        self._lock = asyncio.Lock()
        self._kept: AwsKey | None = None
        self._renew_at = 0.0
        self._failed: tuple[str, str] = ("", "")
        self._failed_until = 0.0
        self._fetched_at = 0.0

    async def key(self) -> AwsKey:
        """See `KeySource`."""
        if self._kept is not None and self._now() < self._renew_at:
            return self._kept
        async with self._lock:
            return await self._renewed()

    def refused(self) -> None:
        """Ask again before the next use, unless that was done just now."""
        if self._now() > self._fetched_at + _AGAIN:
            self._renew_at = 0.0

    async def close(self) -> None:
        """Close the connection to the machine's address."""
        await self._ask.close()

    async def _renewed(self) -> AwsKey:
        kept, now = self._kept, self._now()
        if kept is not None and now < self._renew_at:
            return kept
        if kept is None and now < self._failed_until:
            raise no_key(self._label, *self._failed)
        try:
            fetched = await self._ask.fetch()
        except UpstreamFailed as error:
            if kept is not None and (kept.expires is None or now < kept.expires):
                logger.warning("%s: the key could not be renewed and is used until its end: %s", self._label, error.detail)
                self._renew_at = now + _AGAIN
                return kept
            self._kept, self._failed, self._failed_until = None, (error.detail, error.code), now + _RECALL
            raise no_key(self._label, *self._failed) from None
        self._kept, self._fetched_at = fetched, now
        self._renew_at = now + 3600.0 if fetched.expires is None else max(fetched.expires - _SOON, now + _AGAIN)
        return fetched


class _Given(msgspec.Struct, rename="pascal"):
    """What the machine's address answers."""

    access_key_id: str
    secret_access_key: str
    token: str | None = None
    expiration: datetime | None = None


class _Question:
    """The attempt of a question to the machine, which belongs to no call."""

    __slots__ = ("deadlines", "request_id", "sent", "tenant", "traceparent")

    def __init__(self) -> None:
        self.request_id = "credentials"
        self.tenant = ""
        self.deadlines = _ASKING
        self.sent = False
        self.traceparent = ""

    def vacated(self) -> None:
        """Nobody waits for it."""


class _Machine:
    """Questions to the machine's own address."""

    def __init__(self, url: str) -> None:
        self._http = HttpClient(
            HttpOptions(label="aws credentials", base=parse_base_url(url, plaintext=True), pool=PoolOptions(1, 16, 5.0), max_answer=65_536)
        )

    async def ask(self, method: Literal["GET", "PUT"], path: str, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        """The body of a 200. Raises UpstreamFailed otherwise; its detail quotes nothing of the answer."""
        prefix = self._http.prefix(method, path, accept="*/*")
        reply: Reply = await self._http.send(
            prefix, b"", _Question(), streams=False, first_byte=_ASKING.first_byte, more=written(headers) if headers else b""
        )
        if reply.status != 200:
            raise _no(f"the machine answers {reply.status} to {path}")
        return reply.take()

    async def close(self) -> None:
        """Close the connection."""
        await self._http.close()


class InstanceRole:
    """The role of an EC2 instance, by IMDSv2."""

    def __init__(self, url: str = INSTANCE_URL) -> None:
        self._machine = _Machine(url)

    async def fetch(self) -> AwsKey:
        """A new key. Raises UpstreamFailed."""
        token = _plain(await self._machine.ask("PUT", "/latest/api/token", (("x-aws-ec2-metadata-token-ttl-seconds", "300"),)))
        said = (("x-aws-ec2-metadata-token", token),)
        role = _plain(await self._machine.ask("GET", _ROLES, said)).split("\n")[0].strip()
        if not role:
            raise UpstreamFailed(
                "", code="upstream_auth", detail="this instance has no role: give it one that may invoke models", sent=False
            )
        return _read_key(await self._machine.ask("GET", _ROLES + segment(role), said))

    async def close(self) -> None:
        """Close the connection."""
        await self._machine.close()


class ContainerRole:
    """The role of a container: ECS and EKS say where to ask, and may give a file with a token to show."""

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        """`url` is whole: the address and the path. Raises ValueError when it is none of those that AWS uses for this."""
        parts = urlsplit(url)
        base = parse_base_url(f"{parts.scheme}://{parts.netloc}", plaintext=True)
        if base.origin.scheme != "https" and not base.origin.loopback and base.origin.host not in _CONTAINER_HOSTS:
            raise ValueError("the address for container credentials is neither https nor one that AWS uses")
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._token_file = token_file
        self._machine = _Machine(f"{parts.scheme}://{parts.netloc}")

    async def fetch(self) -> AwsKey:
        """A new key. Raises UpstreamFailed."""
        headers: tuple[tuple[str, str], ...] = ()
        if self._token_file is not None:
            try:
                headers = (("authorization", self._token_file.read_text().strip()),)
            except OSError as fault:
                detail = f"the container's token file cannot be read: {type(fault).__name__}"
                raise _no(detail) from None
        return _read_key(await self._machine.ask("GET", self._path, headers))

    async def close(self) -> None:
        """Close the connection."""
        await self._machine.close()


def _plain(body: bytes) -> str:
    text = body.decode("latin-1").strip()
    if not text.isascii() or not text.replace("\n", "").isprintable():
        raise _no("the machine's answer is no text")
    return text


def _read_key(body: bytes) -> AwsKey:
    try:
        given = msgspec.json.decode(body, type=_Given)
    except (ValueError, RecursionError):
        raise _no("the machine's answer holds no key") from None
    expires = None if given.expiration is None else given.expiration.timestamp()
    return AwsKey(given.access_key_id, Secret(given.secret_access_key), Secret(given.token) if given.token else None, expires)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _section(path: Path, name: str) -> dict[str, str]:
    """A section of one of AWS's files; empty when file or section is not there, or the file cannot be read as one."""
    parser = configparser.RawConfigParser(strict=False, default_section="")
    try:
        parser.read_string(path.read_text())
        return dict(parser.items(name)) if parser.has_section(name) else {}
    except (OSError, ValueError, configparser.Error):
        return {}
