"""A worker's parts: the path of a call over leases and keys from the steward, and one HTTP server before it."""

import gc
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.system import LoopTurn, SystemClock, SystemRng, TaskSpawner
from gatehouse.compose.call_path import Behind, CallPath
from gatehouse.control.replays import SHARE
from gatehouse.core.keys import KeyChecker
from gatehouse.core.ports import Clock
from gatehouse.core.replays import ReplayDesk
from gatehouse.core.request_ids import RequestIds
from gatehouse.core.responses import Ended, Owner
from gatehouse.core.targets import TargetState
from gatehouse.dialects.anthropic import AnthropicDialect
from gatehouse.dialects.openai import OpenAICompletionsDialect, OpenAIDialect, OpenAIEmbeddingsDialect
from gatehouse.dialects.openai.responses import ResponsesDialect
from gatehouse.processes.protocol import Configure, TargetsTold
from gatehouse.processes.steward_client import StewardClient
from gatehouse.processes.worker import Worker
from gatehouse.settings import Settings
from gatehouse.wire.http.comments import Comments
from gatehouse.wire.http.counting import counting_endpoints
from gatehouse.wire.http.data_plane import DataPlane, Manners, Route
from gatehouse.wire.http.endpoints import Endpoints
from gatehouse.wire.http.forwarded import TrustedProxies
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.models import model_endpoints
from gatehouse.wire.http.responses import response_endpoints
from gatehouse.wire.http.server import DataServer
from gatehouse.wire.http.tls import Tls, tls_context

logger = logging.getLogger("gatehouse.worker")

_YOUNG_OBJECTS = 20_000
"""How many more objects there have to be before the collector looks for circles among them: some megabytes."""


class WorkerPlane:
    """Implements `processes.worker.Plane`."""

    def __init__(self, client: StewardClient, message: Configure, incarnation: str, data_dir: Path) -> None:
        clock, rng, spawn, turn = SystemClock(), SystemRng(), TaskSpawner(), LoopTurn()
        self._journal = journal = JournalWriter.open(data_dir / "journals", incarnation)
        checker = KeyChecker(message.keys.pepper, message.keys.bootstrap)
        self._path = path = CallPath(
            message,
            Behind(client, client.fetch_key, client, client.cancel_response, client.find_plan),
            checker,
            journal,
            clock,
            rng,
            spawn,
            turn,
        )
        path.health.news = client
        self.runner = path.runner
        self._tls: Tls | None = None
        dialect = OpenAIDialect()
        responses = ResponsesDialect()
        messages = AnthropicDialect()
        routes = {
            "/v1/chat/completions": Route(dialect, "chat"),
            "/v1/responses": Route(responses, "chat"),
            "/v1/messages": Route(messages, "chat", "request-id"),
            "/v1/completions": Route(OpenAICompletionsDialect(), "completion"),
            "/v1/embeddings": Route(OpenAIEmbeddingsDialect(), "embedding"),
        }
        table = (
            *model_endpoints(path.table),
            *response_endpoints(path.turns, responses),
            *counting_endpoints(messages, path.table, path.count_input, path.offload),
        )
        endpoints = Endpoints(table, path.identify, path.body_limit, self._answered, base=path.settings.listen.base_path)
        plane = DataPlane(
            self.runner,
            routes,
            dialect,
            ready=self._ready,
            ids=RequestIds(rng, clock),
            endpoints=endpoints,
            speakers={b"anthropic-version": messages},
            manners=manners(path, client, clock),
        )
        self._server = DataServer(plane, http_limits(path.settings), clock, spawn, turn)
        self._server.on_refused(lambda code: path.tally.count("gatehouse_bad_requests_total", (code,)))

    async def start(self, listener: socket.socket) -> None:
        """See `Plane`."""
        tls = self._path.settings.listen.tls
        if tls is not None:
            self._tls = tls_context(Path(tls.cert), Path(tls.key))
        await self._server.start([listener], self._tls)

    async def configure(self, message: Configure) -> None:
        """See `Plane`."""
        self._path.configure(message)
        if self._tls is not None:
            self._tls.reload()

    def forget_key(self, key_id: str) -> None:
        """See `Plane`."""
        if key_id:
            self._path.keys.forget(key_id)
        else:
            self._path.keys.forget_all()

    def recall(self, meters: tuple[str, ...]) -> None:
        """See `Plane`."""
        self._path.recall(meters)

    def end_response(self, owner: Owner, response_id: str) -> Ended | None:
        """See `Plane`."""
        return self._path.end_response(owner, response_id)

    def tick(self) -> bool:
        """See `Plane`."""
        self._path.tick()
        tally = self._path.tally
        moved = self._server.open_connections - tally.value("gatehouse_connections")
        if moved:
            tally.gauge("gatehouse_connections", (), moved)
        return self._journal.in_place

    def snapshot(self) -> bytes:
        """See `Plane`."""
        return self._path.tally.snapshot()

    def target_states(self) -> tuple[TargetState, ...]:
        """See `Plane`."""
        return self._path.target_states()

    def heard(self, told: TargetsTold) -> None:
        """See `Plane`."""
        self._path.heard(told.origin, told.states, everything=told.everything)

    async def drain(self, grace: float) -> None:
        """See `Plane`."""
        await self._server.drain(grace)
        self._path.shut()

    async def close(self) -> None:
        """See `Plane`."""
        await self._server.close()
        await self._path.close()

    def _answered(self, path: str, status: int) -> None:
        self._path.tally.count("gatehouse_errands_total", (path, str(status)))

    def _ready(self) -> tuple[bool, dict[str, str]]:
        # Ready all the same: whether the disk takes records again is found out by the next call.
        problem = self._journal.problem
        return bool(self._path.table.models), {"journal": problem} if problem else {}


class _OnceRules:
    """Implements `wire.http.once.Rules`."""

    def __init__(self, path: CallPath, desk: ReplayDesk, clock: Clock) -> None:
        self.desk = desk
        self.clock = clock
        self.largest = path.settings.idempotency.max_bytes // SHARE
        self.identify = path.identify
        self.limit_of = path.body_limit


def manners(path: CallPath, desk: ReplayDesk, clock: Clock) -> Manners:
    """How the operator wants clients to be met."""
    listen = path.settings.listen
    silence = listen.http.stream_comment_seconds
    return Manners(
        base=listen.base_path,
        proxies=TrustedProxies(listen.trusted_proxies) if listen.trusted_proxies else None,
        comments=None if silence is None else Comments(clock, silence),
        once=_OnceRules(path, desk, clock) if path.settings.idempotency.minutes else None,
    )


def http_limits(settings: Settings) -> HttpLimits:
    """The operator's bounds of connections and requests."""
    http = settings.listen.http
    return HttpLimits(
        head_seconds=http.head_seconds,
        body_idle_seconds=http.body_idle_seconds,
        keep_alive_seconds=http.keep_alive_seconds,
        slow_client_seconds=http.slow_client_seconds,
        max_connections=http.max_connections,
    )


def worker_main(words: list[str]) -> None:
    """`python -m gatehouse _worker INCARNATION STEWARD-FD LISTENER-FD DATA-DIR`."""
    incarnation, steward, listener, data_dir = words[0], int(words[1]), int(words[2]), Path(words[3])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s %(levelname)s %(name)s[{os.getpid()}]: %(message)s")
    # What was imported lives as long as the process: keep the collector from walking it again and again.
    gc.collect()
    gc.freeze()
    # What a call leaves behind goes with its last reference. At the usual threshold each turn of some calls would begin a collection.
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)

    async def build(client: StewardClient, message: Configure) -> WorkerPlane:
        return WorkerPlane(client, message, incarnation, data_dir)

    async def serve() -> None:
        steward_socket, listening = socket.socket(fileno=steward), socket.socket(fileno=listener)
        steward_socket.setblocking(False)
        listening.setblocking(False)
        worker = Worker(build, SystemClock(), TaskSpawner())
        await worker.run(steward_socket, listening)

    uvloop.run(serve())
