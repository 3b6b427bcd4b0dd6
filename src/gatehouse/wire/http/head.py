"""A request's head, from bytes to values: llhttp parses, and here stands what it lets pass and we do not.

Whoever disagrees with the machine in front of us about where a request ends can be made to serve another man's request.
So every head has one reading or none: nothing is repaired, folded, guessed or joined that decides about framing, host or
credentials, and a head that is refused ends its connection.
"""

import re
from typing import Any, Final

import msgspec
from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser
from msgspec.structs import replace

from gatehouse.core.errors import GatehouseError, InvalidRequest, TooLarge
from gatehouse.wire.credentials import bearer, offered
from gatehouse.wire.http.limits import HttpLimits

CHUNKED: Final = -1
"""The `length` of a body that says its size as it comes."""

_TARGET: Final = re.compile(
    rb"(/(?!/)(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*)(?:\?((?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*))?"
)
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_VERSIONS: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_REMEMBERED: Final = 512
_SHORT: Final = 256
"""How many and how long the things are that a reader remembers: what a stranger sends must not pile up."""
_SINGLE: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"expect", b"idempotency-key"}
)
"""Fields that mean something different when read first than when read last."""


_LENGTH_FIELD: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[ \t]*([0-9]+)[ \t]*\r\n")
_LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length."""
_KNOWN_BYTES: Final = 2_048
"""The longest head that a connection keeps to know it again."""


class Refused(Exception):
    """A request that goes no further: the status to answer, and why. The connection ends with it."""

    def __init__(self, status: int, error: GatehouseError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class RequestHead(msgspec.Struct, frozen=True):
    """Header names are lower case; `length` is the body's in bytes, or CHUNKED. `credentials` are the distinct keys offered."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    credentials: tuple[bytes, ...]
    length: int
    minor: int
    """The version is HTTP/1.`minor`."""
    keep_alive: bool
    expects: bool
    """The sender waits for `100 Continue` before it sends the body."""
    seen: dict[str, Any] = {}
    """What was found out about this head, for as long as its connection says the same again."""

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {self.path})"


def malformed(message: str, *, status: int = 400, code: str = "malformed_request") -> Refused:
    """A refusal for breaking the protocol."""
    return Refused(status, InvalidRequest(message, code=code))


class _Names(dict[bytes, bytes]):
    """Field names and their lower case: there are few of them, and a remembered one has its hash ready."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if len(self) < _REMEMBERED and len(name) <= _SHORT:
            self[name] = lower
        return lower


class KnownHead:
    """A head that was read, to be known again: the same bytes but for the digits of its Content-Length mean the same request.

    Only short heads are kept, and only until their connection's next one.
    """

    __slots__ = ("_after", "_before", "_digits", "encoding", "head", "raw", "whole")

    def __init__(self, before: bytes, digits: bytes, after: bytes, head: RequestHead) -> None:
        self.raw = before + digits + after
        """Its bytes."""
        self.head = head
        """What they mean."""
        self.whole = len(self.raw) + head.length
        """Bytes of head and body."""
        self.encoding = head.headers.get(b"content-encoding")
        self._before = before
        self._digits = digits
        self._after = after

    @classmethod
    def of(cls, raw: bytes, head: RequestHead) -> "KnownHead | None":
        """What to know `raw` by, whose meaning is `head`; None when that is not worth it."""
        digits = head.headers.get(b"content-length", b"")
        field = _LENGTH_FIELD.search(raw)
        if not digits or len(raw) > _KNOWN_BYTES or field is None or field[1] != digits:
            return None
        return cls(raw[: field.start(1)], digits, raw[field.end(1) :], head)

    def again(self, raw: bytes) -> RequestHead | None:
        """What `raw` means, when it is this head again."""
        before, after = self._before, self._after
        digits = raw[len(before) : len(raw) - len(after)]
        if not raw.startswith(before) or not raw.endswith(after) or len(raw) < len(before) + len(after):
            return None
        if digits == self._digits:
            return self.head
        if not digits.isdigit() or len(digits) > _LONGEST_LENGTH:
            return None
        head = self.head
        return replace(head, headers={**head.headers, b"content-length": digits}, length=int(digits))


class HeadReader:
    """Reads heads within `limits`. It remembers the request lines, names and hosts it found good; callers repeat themselves."""

    __slots__ = ("_hosts", "_limits", "_lines", "_names")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._lines: dict[bytes, tuple[str, str, str, int]] = {}
        self._names = _Names()
        self._hosts: set[bytes] = set()

    def read(self, raw: bytes) -> RequestHead:
        """Read one complete head, from its first byte to the empty line that ends it.

        Raises:
            Refused: 400, 414, 417, 431, 501 or 505.
        """
        first = raw.index(b"\r\n")
        line = raw[:first]
        known = self._lines.get(line)
        if known is None:
            known = self._request_line(line)
        method, path, query, minor = known
        try:
            HttpRequestParser(None).feed_data(raw)
        except HttpParserUpgrade:
            pass  # an offer to change protocols is one that may be left unanswered
        except HttpParserInvalidMethodError:
            raise malformed("This method is not known here.", status=501) from None
        except HttpParserError as fault:
            raise malformed(f"The request is malformed: {str(fault)[:80]}.") from None
        # llhttp has seen to it that each line is a name, a colon and a value, and that none continues the one before.
        lines = raw[first + 2 : -4].split(b"\r\n") if len(raw) > first + 4 else []
        if len(lines) > self._limits.head_fields:
            raise Refused(431, TooLarge(f"A request may have {self._limits.head_fields} header fields.", param="headers"))
        names = self._names
        headers: dict[bytes, bytes] = {}
        for each in lines:
            name, _, value = each.partition(b":")
            headers[names[name]] = value.strip()
        several: dict[bytes, list[bytes]] = {}
        if len(headers) != len(lines):
            headers, several = _repeated(lines)
        host = headers.get(b"host")
        if host not in self._hosts:
            self._check_host(host, minor)
        connection = headers.get(b"connection")
        expect = headers.get(b"expect")
        if expect is not None and (expect.lower() != b"100-continue" or not minor):
            raise malformed("Only 100-continue can be expected of this server.", status=417)
        return RequestHead(
            method,
            path,
            query,
            headers,
            _credentials(headers, several),
            _length(headers, minor),
            minor,
            minor == 1 and (connection is None or connection == b"keep-alive" or not _says_close(connection)),
            expect is not None,
        )

    def _request_line(self, line: bytes) -> tuple[str, str, str, int]:
        """Method, path, query and minor version of a head's first line."""
        words = line.split(b" ")
        if len(words) != 3:
            raise malformed("A request begins with a method, a path and a version, one space between them.")
        method, target, version = words
        if _TOKEN.fullmatch(method) is None:  # llhttp skips line ends before it, with or without their CR
            raise malformed("A request begins with a method.")
        minor = _VERSIONS.get(version)
        if minor is None:
            if version.startswith(b"HTTP/"):
                raise malformed("This server speaks HTTP/1.1.", status=505)
            raise malformed("A request line ends with its HTTP version.")
        if len(target) > self._limits.target_bytes:
            raise Refused(414, TooLarge(f"A path may have {self._limits.target_bytes} bytes, query included.", param="path"))
        match = _TARGET.fullmatch(target)
        if match is None:
            if target == b"*" and method == b"OPTIONS":
                return "OPTIONS", "*", "", minor
            raise malformed("The request target must be an absolute path of unreserved and percent-encoded characters.")
        path, query = match.groups(b"")
        known = (method.decode("latin-1"), path.decode(), query.decode(), minor)
        if len(self._lines) < _REMEMBERED and len(line) <= _SHORT:
            self._lines[line] = known
        return known

    def _check_host(self, host: bytes | None, minor: int) -> None:
        if host is None:
            if minor:
                raise malformed("An HTTP/1.1 request must name its host.")
        elif _HOST.fullmatch(host) is None:
            raise malformed("The Host header is not a host name with an optional port.")
        elif len(self._hosts) < _REMEMBERED:
            self._hosts.add(host)


def _repeated(lines: list[bytes]) -> tuple[dict[bytes, bytes], dict[bytes, list[bytes]]]:
    """The fields of a head in which a name comes more than once: joined, and each by itself."""
    several: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        several.setdefault(name.lower(), []).append(value.strip())
    for name in _SINGLE:
        if len(several.get(name, ())) > 1:
            raise malformed(f"The {name.decode()} header is given more than once.")
    return {name: b", ".join(values) for name, values in several.items()}, several


def _credentials(headers: dict[bytes, bytes], several: dict[bytes, list[bytes]]) -> tuple[bytes, ...]:
    """Every distinct key offered; see `wire.credentials`."""
    authorization = headers.get(b"authorization")
    api_key = headers.get(b"x-api-key")
    if api_key is None and authorization is not None and not several:
        key = bearer(authorization)
        return (key,) if key else ()
    return offered(
        several.get(b"authorization", () if authorization is None else (authorization,)),
        several.get(b"x-api-key", () if api_key is None else (api_key,)),
    )


def _length(headers: dict[bytes, bytes], minor: int) -> int:
    """How the body is framed; llhttp has refused both headers at once and a length that is not a number."""
    announced = headers.get(b"content-length")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if announced is not None or not minor:
            raise malformed("A chunked body has no Content-Length and needs HTTP/1.1.")
        if coding.lower() != b"chunked":
            raise malformed("The only transfer coding spoken here is chunked.", status=501)
        return CHUNKED
    if announced is None:
        return 0
    if not announced.isdigit() or len(announced) > _LONGEST_LENGTH:
        raise malformed("The Content-Length is not a number of bytes.")
    return int(announced)


def _says_close(connection: bytes) -> bool:
    return any(token.strip(b" \t") == b"close" for token in connection.lower().split(b","))
