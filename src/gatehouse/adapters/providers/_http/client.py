"""The front of the client: one origin, requests in, replies out.

Redirects are not followed, nothing of a caller's request but its body goes out, and a request is sent a second time only
when it is certain that the first copy was never read to its end.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from gatehouse.adapters.providers._http.connection import Request
from gatehouse.adapters.providers._http.dialing import Dialler
from gatehouse.adapters.providers._http.origin import BaseUrl, Credentials, check_header, check_path
from gatehouse.adapters.providers._http.pool import Pool, PoolOptions
from gatehouse.adapters.providers._http.reply import Reply
from gatehouse.adapters.providers._http.tunnel import ProxyServer
from gatehouse.core.ports import Attempt, Turn
from gatehouse.core.secrets import Secret

_MAX_ANSWER: Final = 32 * 1024 * 1024


class HttpOptions(msgspec.Struct, frozen=True):
    """`label` names the provider in logs. `headers` go out with each request. `max_answer` bounds a whole answer in bytes.

    `stream_type` is the content type, in lower case, of answers that are handed over as they come.
    """

    label: str
    base: BaseUrl
    headers: dict[str, Secret] = {}
    plaintext: bool = False
    ca_bundle: str | None = None
    proxy: ProxyServer | None = None
    pool: PoolOptions = PoolOptions()
    max_answer: int = _MAX_ANSWER
    stream_type: bytes = b"text/event-stream"


class Prefix:
    """The part of a request's head that is the same each time. It holds the credentials, so what prints it prints its line only."""

    __slots__ = ("head", "line")

    def __init__(self, line: str, rest: bytes) -> None:
        self.line = line
        self.head = b"%b HTTP/1.1\r\n%b" % (line.encode(), rest)

    def __repr__(self) -> str:
        return f"Prefix({self.line})"


class HttpClient:
    """Sends requests to one origin."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        dialler = Dialler(
            options.base.origin,
            label=options.label,
            ca_bundle=options.ca_bundle,
            proxy=options.proxy,
            plaintext=options.plaintext,
        )
        self.pool = Pool(dialler, options.pool, label=options.label)
        for name, value in options.headers.items():
            check_header(name, value.reveal())

    def __repr__(self) -> str:
        return f"HttpClient({self._options.label}, {self._options.base.origin.authority})"

    def prefix(
        self, method: str, path: str, *, accept: str, credentials: Credentials | None = None, content_type: str = "application/json"
    ) -> Prefix:
        """What every request of this kind begins with. `path` follows that of the base URL and may end in a query."""
        base = self._options.base
        check_path(path)
        headers = [(b"host", base.origin.authority.encode()), (b"user-agent", b"gatehouse"), (b"accept", accept.encode())]
        headers.append((b"accept-encoding", b"identity"))
        if method == "POST":
            headers.append((b"content-type", content_type.encode()))
        headers += [check_header(name, value.reveal()) for name, value in self._options.headers.items()]
        if credentials is not None:
            headers.append(credentials.header_for(base.origin))
        return Prefix(f"{method} {base.path + path or '/'}", b"".join(b"%b: %b\r\n" % header for header in headers))

    async def send(self, prefix: Prefix, body: bytes, attempt: Attempt, *, streams: bool, first_byte: float, more: bytes = b"") -> Reply:
        """Send a request and return its reply as soon as it is whole or, when it `streams`, has its first bytes.

        `more` are further headers, as `written` gives them.

        Cancelling closes the connection at once. Whoever got a reply calls its `abandon` on every exit.

        Raises:
            UpstreamFailed: no connection, no answer in time, or none that is proper HTTP.
        """
        head = _head(prefix, more, attempt, len(body))
        deadlines = attempt.deadlines
        request = Request(head, body, first_byte, deadlines)
        connection = self.pool.at_hand()
        if connection is None:
            connection = await self.pool.acquire(deadlines.connect)
        attempt.sent = True
        options = self._options
        reply = Reply(streams=streams, limit=options.max_answer, stream_type=options.stream_type)
        connection.begin(reply, request)
        try:
            if reply.failure is None:
                await reply.news()
            if reply.failure is not None:
                reply.check()
        except BaseException:
            reply.abandon()
            if not reply.stale:
                raise
        else:
            return reply
        connection = await self.pool.acquire(deadlines.connect, fresh=True)
        reply = Reply(streams=streams, limit=self._options.max_answer, stream_type=self._options.stream_type)
        connection.begin(reply, request)
        try:
            await reply.ready()
        except BaseException:
            reply.abandon()
            raise
        return reply

    def ask(
        self, prefix: Prefix, body: bytes, attempt: Attempt, turn: Turn, told: Callable[[Reply], None], *, first_byte: float
    ) -> Reply | None:
        """Send a request at the end of `turn`; `told` is called with its reply when that is whole or has failed.

        A reply that failed and is `stale` was never read, and may be asked again. None, with nothing done, when no connection is free.
        """
        whole = _head(prefix, b"", attempt, len(body), body)  # first: what it refuses must not take a connection along
        connection = self.pool.at_hand()
        if connection is None:
            return None
        options = self._options
        reply = Reply(False, options.max_answer, options.stream_type, told)
        connection.begin(reply, Request(whole, b"", first_byte, attempt.deadlines, attempt), turn)
        return reply

    async def close(self) -> None:
        """Close every connection, those in use too."""
        self.pool.close()


def _head(prefix: Prefix, more: bytes, attempt: Attempt, size: int, body: bytes = b"") -> bytes:
    """A whole head before a body of `size` bytes, and `body` itself where it is to follow in one piece."""
    request_id = attempt.request_id
    if not (request_id.isascii() and request_id.isprintable()):
        raise ValueError("a request id must be printable ASCII")
    if attempt.traceparent:
        more = b"%btraceparent: %b\r\n" % (more, attempt.traceparent.encode())
    return b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (prefix.head, more, request_id.encode(), size, body)


def written(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as they stand in a head. Raises ValueError when one is not proper; its value is never quoted."""
    return b"".join([b"%b: %b\r\n" % check_header(name, value) for name, value in headers])
