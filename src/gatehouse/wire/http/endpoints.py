"""What the data port serves beside model calls: lists, look-ups, counting, stored answers.

An endpoint is a row of a table: a method, a path, the permission it asks for, and a handler that answers whole. It goes through
the doors a call goes through (the same identification, the same permission table, the caller's own bound of the body) and is
spared the rest: nothing is held, routed or charged, so whatever reaches a model must be a call instead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from gatehouse.core.errors import Forbidden, GatehouseError, Internal, InvalidRequest
from gatehouse.core.identity import Permission, Principal
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Dialect
from gatehouse.wire.http import response
from gatehouse.wire.http.body import Body
from gatehouse.wire.http.head import RequestHead
from gatehouse.wire.http.protocol import Connection
from gatehouse.wire.http.refusals import advice, shutting_down

logger = logging.getLogger("gatehouse.wire.http")

_ID: Final = "{id}"
_DEEP_ID: Final = "{id:path}"

Identify = Callable[[tuple[bytes, ...]], Awaitable[Principal]]
"""The pipeline's own function: the distinct keys a request offered -> its caller, or Unauthenticated."""


class Asked(msgspec.Struct, frozen=True):
    """What a handler gets: who asks, for what, and in which words."""

    principal: Principal
    head: RequestHead
    id: str
    """The path's id segment, decoded; "" where the path has none."""
    dialect: Dialect
    request_id: str
    body: Body
    limit: int
    """Bytes of body that this caller may send."""

    async def read(self) -> bytes:
        """The whole body, under the caller's bound.

        Raises:
            TooLarge, Timeout, InvalidRequest: as for a call.
        """
        return await self.body.read(self.limit)

    def query(self, *known: str) -> dict[str, str]:
        """The query's parameters, each once, none but `known`.

        Raises:
            InvalidRequest: another one, or one that comes twice.
        """
        if not self.head.query:
            return {}
        found: dict[str, str] = {}
        for name, value in parse_qsl(self.head.query, keep_blank_values=True):
            if name not in known or name in found:
                what = "is given twice" if name in found else f"is not known here; known: {', '.join(known) or 'none'}"
                raise InvalidRequest(f"The query parameter {name[:64]!r} {what}.", code="invalid_query", param=name[:64])
            found[name] = value
        return found


class Answered(msgspec.Struct, frozen=True):
    """A whole answer: JSON, a status, and further headers."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}


Handler = Callable[[Asked], Awaitable[Answered]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `path` may hold one `{id}` segment; `{id:path}`, only at its end, also takes slashes.

    `dialect` words its errors; None leaves that to the request's headers, where formats share a path.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    permission: Permission
    summary: str
    """For the reference."""
    handler: Handler
    dialect: Dialect | None = None


class _Pattern(msgspec.Struct, frozen=True):
    """Endpoints of one path that holds an id."""

    before: str
    after: str
    deep: bool
    methods: dict[str, Endpoint]

    def id_in(self, path: str) -> str | None:
        """The id a path names, or None when it is another path."""
        if not path.startswith(self.before) or not path.endswith(self.after):
            return None
        found = path[len(self.before) : len(path) - len(self.after)]
        if not found or ("/" in found and not self.deep):
            return None
        try:
            return unquote(found, errors="strict")
        except UnicodeDecodeError:
            return None


class Endpoints:
    """The table, and the doors before it. `limit_of` tells a caller's bound of the body; `base` stands before every path.

    `told` hears of each that was answered: its path as declared, and the status.
    """

    def __init__(
        self,
        table: Sequence[Endpoint],
        identify: Identify,
        limit_of: Callable[[Principal], int],
        told: Callable[[str, int], object] = lambda path, status: None,
        *,
        base: str = "",
    ) -> None:
        self.table = tuple(table)
        self.identify = identify
        self.limit_of = limit_of
        self.told = told
        self.base = base
        self._exact: dict[str, dict[str, Endpoint]] = {}
        patterns: dict[str, _Pattern] = {}
        for endpoint in self.table:
            path = base + endpoint.path
            mark = _DEEP_ID if path.endswith(_DEEP_ID) else _ID
            before, found, after = path.partition(mark)
            if not found:
                self._exact.setdefault(path, {})[endpoint.method] = endpoint
            else:
                patterns.setdefault(path, _Pattern(before, after, mark == _DEEP_ID, {})).methods[endpoint.method] = endpoint
        # What says more about a path comes first: "/v1/responses/{id}/cancel" before "/v1/responses/{id:path}".
        self._patterns = sorted(patterns.values(), key=lambda each: (each.deep, -len(each.before) - len(each.after)))

    def find(self, path: str) -> tuple[Mapping[str, Endpoint], str] | None:
        """The endpoints at `path` by method, and the id it names."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact, ""
        for pattern in self._patterns:
            found = pattern.id_in(path)
            if found is not None:
                return pattern.methods, found
        return None


class Owner(Protocol):
    """What an errand asks of the plane it runs on."""

    def ended(self, x: "Errand") -> None:
        """It is over, its answer written."""


class Errand:
    """One request to an endpoint, from its first byte to its answer. It can be ended from outside, as a call can."""

    __slots__ = ("_asked", "_begun", "_connection", "_endpoint", "_outcome", "_owner", "_status", "_table", "task")

    def __init__(self, owner: Owner, table: Endpoints, endpoint: Endpoint, connection: Connection, asked: "Arrived") -> None:
        self._owner = owner
        self._table = table
        self._endpoint = endpoint
        self._connection = connection
        self._asked = asked
        self._outcome: Outcome | None = None
        self._begun = False
        self._status = 0
        self.task: asyncio.Task[None] | None = None
        """What carries it; set by whoever started that."""

    def end(self, outcome: Outcome) -> None:
        """Stop it from outside: the client has gone, or the server ends. The first word counts."""
        if self._outcome is None:
            self._outcome = outcome
            # A task that is cancelled before its first step runs none of its lines, so nobody would hear that it is over.
            if self._begun and self.task is not None:
                self.task.cancel()

    async def carry(self) -> None:
        """Answer, whatever becomes of it."""
        self._begun = True
        try:
            if self._outcome is not None:
                raise asyncio.CancelledError
            self._answer(await self._run())
        except GatehouseError as error:
            self._fail(error)
        except asyncio.CancelledError:
            if self._outcome is not Outcome.CLIENT:
                self._fail(shutting_down())
        except Exception as fault:
            logger.exception("request %s: %s failed", self._asked.request_id, self._endpoint.path)
            internal = Internal("Something went wrong on our side. Quote the request id when you report it.", detail=type(fault).__name__)
            self._fail(internal)
        finally:
            self._owner.ended(self)
            self._table.told(self._endpoint.path, self._status)

    async def _run(self) -> Answered:
        principal = await self._table.identify(self._asked.head.credentials)
        if not principal.may(self._endpoint.permission):
            raise Forbidden(f"The role of this API key does not allow this ({self._endpoint.permission}).", code="permission_denied")
        arrived = self._asked
        limit = self._table.limit_of(principal)
        asked = Asked(principal, arrived.head, arrived.id, arrived.dialect, arrived.request_id, arrived.body, limit)
        return await self._endpoint.handler(asked)

    def _answer(self, answered: Answered) -> None:
        self._send(answered.status, answered.body, answered.headers)

    def _fail(self, error: GatehouseError) -> None:
        status, payload = self._asked.dialect.encode_error(error, self._asked.request_id)
        self._send(status, payload, advice(status, error))

    def _send(self, status: int, payload: bytes, headers: Mapping[str, str]) -> None:
        self._status = status
        lines = response.JSON + response.field_lines({"x-gatehouse-request-id": self._asked.request_id, **headers})
        self._connection.answer(status, lines, payload, close=status in (408, 413))


class Arrived(msgspec.Struct, frozen=True):
    """A request to an endpoint before anybody knows whose it is."""

    head: RequestHead
    id: str
    dialect: Dialect
    request_id: str
    body: Body
