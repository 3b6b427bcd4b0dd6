"""What stands behind the data port: which path is whose, how a request becomes an exchange, and how its answer leaves.

A whole answer is written when the runner has settled the call, so its headers tell what it cost. A stream's head leaves
with its first event, its closing bytes after settling: whoever holds a complete answer is in the ledger. A broken stream
ends with an error frame and a closed connection, never like a finished one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from gatehouse.core.calls import Call, Operation
from gatehouse.core.collect import collected
from gatehouse.core.errors import GatehouseError, InvalidRequest, NotFound, Unauthenticated
from gatehouse.core.events import Answer, Events
from gatehouse.core.money import format_usd
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Dialect, StreamWriter
from gatehouse.core.request_ids import RequestIds
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Asker, Deliver
from gatehouse.wire.http import response
from gatehouse.wire.http.body import Body
from gatehouse.wire.http.comments import COMMENT, Comments
from gatehouse.wire.http.endpoints import Arrived, Endpoint, Endpoints, Errand
from gatehouse.wire.http.forwarded import TrustedProxies
from gatehouse.wire.http.head import RequestHead
from gatehouse.wire.http.once import HEADER as ONCE_HEADER
from gatehouse.wire.http.once import Once, Outlet, Replier, Rules
from gatehouse.wire.http.protocol import Connection
from gatehouse.wire.http.refusals import advice, shutting_down

logger = logging.getLogger("gatehouse.wire.http")

_LIVE_PATH: Final = "/livez"
_READY_PATH: Final = "/readyz"
_MOST_NAMES: Final = 1_000
_LIVE: Final = b'{"status":"ok"}'


class Carrier(Protocol):
    """Carries an exchange through the stages: the runner."""

    def begin(self, x: Exchange, asker: Asker) -> None:
        """See `gatehouse.pipeline.runner.Runner.begin`."""

    def stopped(self, x: Exchange) -> None:
        """See `gatehouse.pipeline.runner.Runner.stopped`."""

    async def carry(self, x: Exchange, deliver: Deliver) -> None:
        """See `gatehouse.pipeline.runner.Runner.carry`."""


Readiness = Callable[[], tuple[bool, Mapping[str, str]]]
"""Whether this process can serve, and what is degraded: part and what is wrong with it."""


class Route(msgspec.Struct, frozen=True):
    """Whose format a path speaks, and what it asks for."""

    dialect: Dialect
    operation: Operation
    id_header: str = ""
    """Where clients of this format look for the request's id, beside our own header."""


class Manners(msgspec.Struct, frozen=True, kw_only=True):
    """How the operator wants clients to be met. `base` stands before every path; health answers without it too."""

    base: str = ""
    proxies: TrustedProxies | None = None
    """Whose word counts about where a request comes from."""
    comments: Comments | None = None
    """What is said in a silent stream; None says nothing."""
    once: Rules | None = None
    """How requests with an idempotency key are told apart; None passes over the header."""


class DataPlane:
    """Serves the requests of every connection of a process.

    `routes` maps a path to its route (POST) and `endpoints` knows what is no call. `dialect` words what neither claims, or that of
    `speakers` whose header the request carries. A client's own request id is never ours.
    """

    def __init__(
        self,
        runner: Carrier,
        routes: Mapping[str, Route],
        dialect: Dialect,
        *,
        ready: Readiness,
        ids: RequestIds,
        endpoints: Endpoints | None = None,
        speakers: Mapping[bytes, Dialect] | None = None,
        manners: Manners | None = None,
    ) -> None:
        manners = manners or Manners()
        base = manners.base
        self.runner = runner
        self._routes = {base + path: route for path, route in routes.items()}
        self._health = {before + path: path for path in (_LIVE_PATH, _READY_PATH) for before in ("", base)}
        self._proxies = manners.proxies
        self._once = manners.once
        self.comments = manners.comments
        self._endpoints = endpoints
        self._speakers = dict(speakers or {})
        self._dialect = dialect
        self._ready = ready
        self._new_id = ids.new
        self.running: dict[Exchange | Errand | Once, asyncio.Task[None] | None] = {}
        """The calls (and errands) whose answer is not out yet, and what carries them, unless that is their target's answer."""
        self._targets: dict[str, str] = {}
        """Targets that answered, and the header line that names each."""
        self.draining = False
        self.emptied: Callable[[], object] = lambda: None
        """Called when the last running exchange has ended while draining."""

    def serve(self, connection: Connection, head: RequestHead, body: Body) -> None:
        """Start the call the request asks for, or answer at once what is no call."""
        route = self._routes.get(head.path)
        if route is None:
            self._serve_other(connection, head, body)
        elif head.method != "POST":
            self._wrong_method(connection, head, route.dialect, "POST")
        elif self.draining:
            self._refuse(connection, shutting_down(), route.dialect, close=True)
        elif self._once is not None and ONCE_HEADER in head.headers:
            self._serve_once(self._once, connection, self._exchange(connection, head, body, route))
        else:
            x = self._exchange(connection, head, body, route)
            connection.exchange = x
            self.running[x] = None
            self.runner.begin(x, _Reply(self, connection, x, connection.loop))

    def _exchange(self, connection: Connection, head: RequestHead, body: Body, route: Route) -> Exchange:
        """The call that a request asks for."""
        met = connection.met
        if met is not None and met[0] is head:
            known = cast("Head", met[1])
        else:
            peer = connection.peer
            if self._proxies is not None:
                peer = self._proxies.client(peer, head.headers.get(b"x-forwarded-for"))
            known = Head(head.method, head.path, head.headers, head.credentials, peer, head.seen)
            connection.met = head, known
        x = Exchange(self._new_id(), known, body, route.dialect)
        if route.id_header:
            x.headers[route.id_header] = x.request_id
        return x

    def _serve_once(self, rules: Rules, connection: Connection, x: Exchange) -> None:
        """Start what answers a request that may have been asked before."""

        def carry(replier: Replier, x: Exchange) -> Coroutine[Any, Any, None]:
            return _Reply(self, replier, x, connection.loop).carry()

        def refuse(error: GatehouseError, status: int | None) -> None:
            self._refuse(connection, error, x.dialect, status=status)

        async def run() -> None:
            try:
                await once.run()
            finally:
                self.ended(once)

        once = Once(rules, connection, x, carry, refuse)
        connection.exchange = once
        once.task = self.running[once] = connection.loop.create_task(run(), name="call")

    def refusal(self, error: GatehouseError) -> tuple[bytes, bytes]:
        """Header lines and body for a request too malformed to have a path."""
        request_id = self._new_id()
        _, payload = self._dialect.encode_error(error, request_id)
        return response.JSON + response.field_lines({"x-gatehouse-request-id": request_id}), payload

    def ended(self, x: Exchange | Errand | Once) -> None:
        """An exchange is over, its answer written."""
        self.running.pop(x, None)
        if self.draining and not self.running:
            self.emptied()

    def fields(self, x: Exchange, cost: str | None) -> bytes:
        """The header lines an exchange's answer carries."""
        # Id, cache, cost and `lines` are our own words; what configuration and stages say is looked at before it becomes a line.
        target = ""
        if x.target is not None:
            name = x.target.id
            target = self._targets.get(name) or self._named(name)
        said = "" if cost is None else f"x-gatehouse-cost-usd: {cost}\r\n"
        lines = f"x-gatehouse-request-id: {x.request_id}\r\nx-gatehouse-cache: {x.cache}\r\n{said}{target}{x.lines}".encode()
        return lines + response.field_lines(x.headers) if x.headers else lines

    def _named(self, target: str) -> str:
        if len(self._targets) >= _MOST_NAMES:
            self._targets.clear()
        line = self._targets[target] = response.field_lines({"x-gatehouse-target": target}).decode()
        return line

    def _serve_other(self, connection: Connection, head: RequestHead, body: Body) -> None:
        """Health, what is no call, and what is not here."""
        health = self._health.get(head.path)
        if health is not None:
            self._tell_health(connection, head, health)
            return
        dialect = self._speaker(head)
        found = self._endpoints.find(head.path) if self._endpoints is not None else None
        if found is not None:
            methods, name = found
            self._errand(connection, head, body, methods, name)
        elif head.path == "*":
            self._wrong_method(connection, head, dialect, "GET, HEAD, POST")
        else:
            error = NotFound(f"There is nothing at {head.path[:100]} here. This port serves {self._known()}.", code="unknown_path")
            self._refuse(connection, error, dialect)

    def _errand(self, connection: Connection, head: RequestHead, body: Body, methods: Mapping[str, Endpoint], name: str) -> None:
        """Start what answers a request that is no call."""
        endpoint = methods.get("GET" if head.method == "HEAD" else head.method)
        dialect = next(iter(methods.values())).dialect if endpoint is None else endpoint.dialect
        dialect = dialect or self._speaker(head)
        if endpoint is None:
            self._wrong_method(connection, head, dialect, ", ".join([*methods, "HEAD"] if "GET" in methods else methods))
        elif self.draining:
            self._refuse(connection, shutting_down(), dialect, close=True)
        else:
            assert self._endpoints is not None
            errand = Errand(self, self._endpoints, endpoint, connection, Arrived(head, name, dialect, self._new_id(), body))
            connection.exchange = errand
            task = self.running[errand] = connection.loop.create_task(errand.carry(), name="errand")
            errand.task = task

    def _speaker(self, head: RequestHead) -> Dialect:
        """Who words the answer where the path does not decide it."""
        return next((dialect for field, dialect in self._speakers.items() if field in head.headers), self._dialect)

    def _known(self) -> str:
        """What can be asked for, for who asked for something else."""
        others = () if self._endpoints is None else self._endpoints.table
        base = "" if self._endpoints is None else self._endpoints.base
        return ", ".join([*(f"POST {path}" for path in self._routes), *(f"{each.method} {base}{each.path}" for each in others)])

    def _tell_health(self, connection: Connection, head: RequestHead, path: str) -> None:
        if head.method not in ("GET", "HEAD"):
            self._wrong_method(connection, head, self._dialect, "GET, HEAD")
        elif path == _LIVE_PATH:
            connection.answer(200, response.JSON, _LIVE)
        else:
            ready, degraded = self._ready()
            ready = ready and not self.draining
            connection.answer(200 if ready else 503, response.JSON, msgspec.json.encode({"ready": ready, "degraded": dict(degraded)}))

    def _wrong_method(self, connection: Connection, head: RequestHead, dialect: Dialect, allow: str) -> None:
        error = InvalidRequest(f"{head.method} is not possible here; allowed: {allow}.", code="method_not_allowed")
        self._refuse(connection, error, dialect, status=405, fields={"allow": allow})

    def _refuse(
        self,
        connection: Connection,
        error: GatehouseError,
        dialect: Dialect,
        *,
        status: int | None = None,
        fields: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        """Answer a request that becomes no call."""
        request_id = self._new_id()
        said, payload = dialect.encode_error(error, request_id)
        lines = {"x-gatehouse-request-id": request_id, **(fields or {}), **advice(said, error)}
        connection.answer(status or said, response.JSON + response.field_lines(lines), payload, close=close or said in (408, 413))


class _Reply(msgspec.Struct, eq=False):
    """One call on its way: from the runner's events to the client's bytes. Implements `pipeline.runner.Asker`."""

    _plane: DataPlane
    _connection: Replier
    _x: Exchange
    _loop: asyncio.AbstractEventLoop
    _payload: bytes = b""
    _stream: Outlet | None = None
    _writer: StreamWriter | None = None
    _written: int = 0
    """How often the stream had something to write at the last beat."""

    # Without a task, as long as nothing but the target's answer is waited for.

    def take(self, answer: Answer) -> bool:
        """See `Asker`."""
        x = self._x
        call = x.call
        if call is None or call.stream:
            return False
        x.answer = answer
        self._payload = x.dialect.encode_answer(answer, call)
        return True

    def ended(self, error: GatehouseError | None) -> None:
        """See `Asker`."""
        x = self._x
        try:
            if error is not None:
                self._fail(error)
            elif x.outcome is Outcome.COMPLETED:
                self._connection.answer(200, response.JSON + self._plane.fields(x, format_usd(x.charge)), self._payload)
            else:
                self._stopped()
        except Exception:
            logger.exception("call %s: its answer could not be written", x.request_id)
            self._connection.abort()
        finally:
            plane = self._plane
            plane.running.pop(x, None)
            if plane.draining:
                plane.ended(x)

    def stop(self) -> None:
        """See `Asker`."""
        self._loop.call_soon(self._plane.runner.stopped, self._x)

    def wait(self) -> None:
        """See `Asker`."""
        # Spawn would keep a second reference and log what `carry` never raises.
        self._x.task = self._plane.running[self._x] = self._loop.create_task(self.carry(), name="call")

    # In a task, when something has to be waited for.

    async def carry(self) -> None:
        """Run the call, or the rest of it, and answer it, whatever becomes of it."""
        x = self._x
        comments = self._plane.comments
        pulse = None if comments is None else comments.watch(self._beat)
        try:
            await self._plane.runner.carry(x, self._deliver)
            self._complete()
        except GatehouseError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._stopped()
        except Exception:
            logger.exception("call %s: its answer could not be written", x.request_id)
            self._connection.abort()
        finally:
            if pulse is not None:
                pulse.stop()
            self._plane.ended(x)

    def _deliver(self, x: Exchange, events: Events) -> Awaitable[None] | None:
        call = x.call
        if call is not None and call.stream:
            return self._play(x, call, events)
        if type(events) is Single and isinstance(whole := events.event, Answer):
            self._take(x, whole)
            return None
        return self._collect(x, events)

    async def _collect(self, x: Exchange, events: Events) -> None:
        self._take(x, await collected(events))

    async def _play(self, x: Exchange, call: Call, events: Events) -> None:
        writer = self._writer = x.dialect.open_stream(call, x.request_id)
        encode = writer.event
        stream: Outlet | None = None
        async for event in events:
            frame = encode(event, None if event.usage is None else format_usd(x.charge))
            if not frame:
                continue
            if stream is None:
                stream = self._stream or self._open(x)
            if stream.send(frame):
                await stream.give_way()

    def _take(self, x: Exchange, answer: Answer) -> None:
        if x.call is None:
            raise RuntimeError("a call was answered without having been decoded")
        if x.answer is None:
            x.answer = answer
        self._payload = x.dialect.encode_answer(answer, x.call)

    def _open(self, x: Exchange) -> Outlet:
        stream = self._stream = self._connection.stream(response.EVENT_STREAM + self._plane.fields(x, None))
        return stream

    def _beat(self) -> None:
        """A stream that said nothing since the last beat says a comment; one that has not begun begins with it."""
        connection, stream, x = self._connection, self._stream, self._x
        if connection.gone or connection.clogged:
            return
        if stream is None:
            if x.call is None or not x.call.stream or x.plan is None:
                return
            # Which target will answer is not known yet, nor whether a cache: the head says only what will stay true.
            lines = response.field_lines({"x-gatehouse-request-id": x.request_id, **x.headers}) + x.lines.encode()
            stream = self._stream = self._connection.stream(response.EVENT_STREAM + lines)
        elif stream.writes != self._written:
            self._written = stream.writes
            return
        stream.send(COMMENT)
        self._written = stream.writes + 1

    def _complete(self) -> None:
        """The call is settled: now the client may have the end of its answer."""
        x = self._x
        call = x.call
        if call is not None and call.stream:
            writer = self._writer or x.dialect.open_stream(call, x.request_id)
            (self._stream or self._open(x)).end(writer.end())
        else:
            self._connection.answer(200, response.JSON + self._plane.fields(x, format_usd(x.charge)), self._payload)

    def _stopped(self) -> None:
        """The call was ended from outside. Who still listens is told why."""
        outcome = self._x.outcome
        if outcome is Outcome.REVOKED:
            self._fail(Unauthenticated("The key of this call was revoked."))
        elif outcome is not Outcome.CLIENT:
            self._fail(shutting_down())
        elif self._x.error is not None:
            # Its caller ended it with another request, and may still be reading this one.
            self._fail(self._x.error)

    def _fail(self, error: GatehouseError) -> None:
        x = self._x
        if self._stream is not None and x.call is not None:
            writer = self._writer or x.dialect.open_stream(x.call, x.request_id)
            self._stream.end(writer.error(error), broken=True)
            return
        status, payload = x.dialect.encode_error(error, x.request_id)
        lines = self._plane.fields(x, None) + response.field_lines(advice(status, error))
        self._connection.answer(status, response.JSON + lines, payload, close=status in (408, 413))
