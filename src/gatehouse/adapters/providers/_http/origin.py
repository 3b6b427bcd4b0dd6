"""Where requests and credentials may go: a base URL is read once, by one parser, into an origin and a path.

The same parsed host is connected to, named in TLS, checked in the certificate and sent in `host`, so that no two readers
of a URL can disagree. Credentials name the origin they were given for and yield nothing for another.
"""

import ipaddress
import re
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from gatehouse.core.secrets import Secret

_HOST_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*", re.ASCII)
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", re.ASCII)


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port. `host` is lower case; an IPv6 address stands without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as `host` and CONNECT write them; a default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine by its very name; what a name resolves to is checked when it is dialled."""
        return self.host in {"localhost", "localhost."} or is_loopback(self.host)


class BaseUrl(msgspec.Struct, frozen=True):
    """An origin and the path every request path is joined to; `path` is "" or begins and does not end with a slash."""

    origin: Origin
    path: str


def is_loopback(address: str) -> bool:
    """Whether `address` is a literal loopback address, also when it is IPv4 mapped into IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def parse_base_url(text: str, *, plaintext: bool = False) -> BaseUrl:
    """Read a provider's base URL. `plaintext` allows http to other machines than this one.

    Raises:
        ValueError: not a plain http(s) URL of host, port and path. The message never quotes the URL: it may hold a password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the base URL cannot be read") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("the base URL must begin with https:// or http://")
    if not parts.netloc.isascii() or "@" in parts.netloc or parts.query or parts.fragment or "?" in text or "#" in text or "\\" in text:
        raise ValueError("the base URL may hold a host, a port and a path, and nothing else")
    if any(ord(character) <= 32 for character in text):
        raise ValueError("the base URL holds white space or control characters")
    host = (parts.hostname or "").lower()
    # A name that ends in a number is an address to some resolvers ("127.1", "0x7f.1"): only the plain spelling of one is taken.
    numeric = ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2])
    if not (_is_address(host) if numeric else _HOST_NAME.fullmatch(host)):
        raise ValueError("the base URL has no proper host")
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or any(step in {".", ".."} for step in path.split("/")):
        raise ValueError("the base URL has no proper path")
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    origin = Origin(scheme, host, port if port is not None else (443 if scheme == "https" else 80))
    if not 0 < origin.port < 65536:
        raise ValueError("the base URL has no proper port")
    if scheme == "http" and not plaintext and not origin.loopback:
        raise ValueError("plain http to another machine needs plaintext: true")
    return BaseUrl(origin, path)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_path(path: str) -> None:
    """A path to be joined to the base URL's, "" or beginning with a slash, and perhaps a query.

    Raises:
        ValueError: something in it would not stay where it is put.
    """
    steps, _, query = path.partition("?")
    if not _PATH.fullmatch(steps.removesuffix("/")) or not _QUERY.fullmatch(query) or any(step in {".", ".."} for step in steps.split("/")):
        raise ValueError("the path of a request is not proper")


def check_header(name: str, value: str) -> tuple[bytes, bytes]:
    """A fixed header as bytes.

    Raises:
        ValueError: not a proper name or value, or one of those that frame the message. The value is never quoted.
    """
    lowered = name.lower()
    if not _TOKEN.fullmatch(lowered):
        raise ValueError("a header's name is not proper")
    if lowered in {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te", "upgrade", "expect", "trailer"}:
        raise ValueError(f"the header {lowered!r} is not configurable")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of header {lowered!r} is not proper")
    return lowered.encode(), value.encode()


class Credentials:
    """One header with a secret in it, bound to the origin it was given for: another origin gets nothing."""

    __slots__ = ("_origin", "_prefix", "_secret", "name")

    def __init__(self, origin: Origin, secret: Secret, *, name: str = "authorization", prefix: str = "Bearer ") -> None:
        check_header(name, prefix + secret.reveal())
        self._origin = origin
        self._secret = secret
        self._prefix = prefix
        self.name = name

    def header_for(self, origin: Origin) -> tuple[bytes, bytes]:
        """The header for a request to `origin`.

        Raises:
            PermissionError: `origin` is not the one these credentials belong to.
        """
        if origin != self._origin:
            raise PermissionError(f"credentials for {self._origin.authority} were asked for {origin.authority}")
        return check_header(self.name, self._prefix + self._secret.reveal())

    def __repr__(self) -> str:
        return f"Credentials({self._origin.authority}, {self.name}: ***)"
