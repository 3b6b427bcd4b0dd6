"""A worker's parts: the nine stages over leases and keys from the steward, the models of providers and engines, one HTTP server."""

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from gatehouse.adapters.engines.client import EngineModel
from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.adapters.providers.openai import OpenAIModel, OpenAIOptions
from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.core.calls import Call
from gatehouse.core.keys import KeyChecker
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Model, TokenCounter
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.pipeline.bookkeeping import Bookkeeper, Commitments
from gatehouse.pipeline.key_cache import KeyCache
from gatehouse.pipeline.lease_book import LeaseBook
from gatehouse.pipeline.order import ORDER, in_order
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.pipeline.stages.identify import Identify
from gatehouse.pipeline.stages.limit import Limit
from gatehouse.pipeline.stages.read import Read
from gatehouse.pipeline.stages.record import Record
from gatehouse.pipeline.stages.route import Route as RouteStage
from gatehouse.pipeline.stages.route import RouteTable
from gatehouse.processes.protocol import Configure
from gatehouse.processes.steward_client import StewardClient
from gatehouse.processes.worker import Worker
from gatehouse.settings import ProviderSettings, Settings, decode_custom, read_environment
from gatehouse.wire.http.data_plane import DataPlane, Route
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.server import DataServer
from gatehouse.wire.http.tls import Tls, tls_context

logger = logging.getLogger("gatehouse.worker")

T = TypeVar("T")

OLD_MODEL_SECONDS = 600.0
"""How long a model that a reload replaced is kept for the calls it still answers."""


class Models:
    """The models that targets name, by provider. A reload keeps what has not changed and makes what has, everything or nothing."""

    def __init__(self) -> None:
        self.by_provider: dict[str, Model] = {}
        self._counters: dict[str, TokenCounter] = {}
        """Those of them that can count; asked here once, because asking a Protocol costs more than most stages."""
        self._made_from: dict[str, object] = {}

    def replace(self, wanted: dict[str, tuple[object, Callable[[], Model]]]) -> list[Model]:
        """Put `wanted` (name -> what it is made from, how to make it) in force; returns the models that are not needed any more."""
        made = {name: self.by_provider[name] if self._made_from.get(name) == source else make() for name, (source, make) in wanted.items()}
        left = [model for name, model in self.by_provider.items() if made.get(name) is not model]
        self.by_provider.clear()
        self.by_provider.update(made)
        self._made_from = {name: source for name, (source, _) in wanted.items()}
        self._counters = {name: model for name, model in made.items() if isinstance(model, TokenCounter)}
        return left

    def count_input(self, call: Call, plan: Plan) -> int | None:
        """The prompt's exact tokens, when every model of the plan can count; else None."""
        counters = self._counters
        if not counters:
            return None
        most = 0
        for target in plan.everywhere:
            counter = counters.get(target.provider)
            if counter is None:
                return None
            most = max(most, counter.count_tokens(call))
        return most


class WorkerPlane:
    """Implements `processes.worker.Plane`."""

    def __init__(self, client: StewardClient, message: Configure, incarnation: str, data_dir: Path) -> None:
        settings = msgspec.msgpack.decode(message.settings, type=Settings, dec_hook=decode_custom)
        self._clock = clock = SystemClock()
        self._spawn = spawn = TaskSpawner()
        rng = SystemRng()
        self._settings = settings
        self._environment = read_environment()
        self._policy = ""
        """Configuration and rule pack that decide now; in every record."""
        self._tally = ProcessTally()
        self._threads = ThreadPoolExecutor(1, "offload")
        self._journal = JournalWriter.open(data_dir / "journals", incarnation)
        self._models = Models()
        self._table = RouteTable()
        self._keys = KeyCache(client.fetch_key, clock, spawn)
        self._book = LeaseBook(client, clock, spawn)
        self._tls: Tls | None = None
        scanner = SecretScanner()
        self._pack = scanner.version
        names = tuple(stage.name for stage in ORDER)
        books = Bookkeeper(
            self._journal, clock, self._tally, Commitments(message.keys.commitment), lambda: self._policy, names, self._offload
        )
        guard = Guard(scanner, clock, flag_only=scanner.flag_only)
        self.runner = Runner(
            in_order(
                Record(books, self._tally, names),
                Identify(self._keys, KeyChecker(message.keys.pepper, message.keys.bootstrap), clock),
                Read(settings.listen.http.max_body_bytes, self._offload),
                Authorise(),
                RouteStage(self._table),
                Limit(self._book, clock, self._models.count_input),
                guard,
                Cache(MemoryCache(clock, settings.cache.max_bytes)),
                Dispatch(self._models.by_provider, books, clock, rng, self._tally),
            ),
            clock,
        )
        dialect = OpenAIDialect()
        routes = {"/v1/chat/completions": Route(dialect, "chat")}
        plane = DataPlane(self.runner, routes, dialect, ready=self._ready, rng=rng)
        self._server = DataServer(plane, http_limits(settings), clock, spawn)
        self._take(settings, message)

    # -- Plane -----------------------------------------------------------------------------------------------------

    async def start(self, listener: socket.socket) -> None:
        """See `Plane`."""
        tls = self._settings.listen.tls
        if tls is not None:
            self._tls = tls_context(Path(tls.cert), Path(tls.key))
        await self._server.start([listener], self._tls)

    async def configure(self, message: Configure) -> None:
        """See `Plane`."""
        settings = msgspec.msgpack.decode(message.settings, type=Settings, dec_hook=decode_custom)
        left = self._take(settings, message)
        if self._tls is not None:
            self._tls.reload()
        for model in left:
            self._spawn(self._close_later(model), name="close-model")

    def forget_key(self, key_id: str) -> None:
        """See `Plane`."""
        if key_id:
            self._keys.forget(key_id)
        else:
            self._keys.forget_all()

    def recall(self, meters: tuple[str, ...]) -> None:
        """See `Plane`."""
        self._book.recall(meters)

    def tick(self) -> None:
        """See `Plane`."""
        self._book.tick()
        moved = self._server.open_connections - self._tally.value("gatehouse_connections")
        if moved:
            self._tally.gauge("gatehouse_connections", (), moved)

    def snapshot(self) -> bytes:
        """See `Plane`."""
        return self._tally.snapshot()

    async def drain(self, grace: float) -> None:
        """See `Plane`."""
        await self._server.drain(grace)
        self._book.shut()

    async def close(self) -> None:
        """See `Plane`."""
        await self._server.close()
        for model in self._models.by_provider.values():
            await model.close()
        await self._spawn.close()
        await self._journal.close()
        self._threads.shutdown()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _take(self, settings: Settings, message: Configure) -> list[Model]:
        wanted: dict[str, tuple[object, Callable[[], Model]]] = {}
        proxy = (self._environment.https_proxy, self._environment.no_proxy)
        for provider in settings.providers:
            wanted[provider.name] = ((provider, proxy), lambda provider=provider: self._provider(provider))  # type: ignore[misc]
        for name, path in message.engines.items():
            wanted[name] = (path, lambda path=path: EngineModel(Path(path)))  # type: ignore[misc]
        left = self._models.replace(wanted)
        self._table.replace(message.plans)
        self._settings = settings
        self._policy = f"{message.version}/{self._pack}"
        return left

    def _provider(self, settings: ProviderSettings) -> OpenAIModel:
        proxy = settings.proxy or self._environment.https_proxy
        if proxy is not None and proxy.reveal() == "none":
            proxy = None
        return OpenAIModel(
            OpenAIOptions(
                name=settings.name,
                kind=settings.kind,
                base_url=settings.base_url or "",
                api_key=settings.api_key or None,
                plaintext=settings.plaintext,
                ca_bundle=settings.ca_bundle,
                proxy=proxy,
                no_proxy=tuple(name.strip() for name in self._environment.no_proxy.split(",") if name.strip()),
                max_connections=settings.max_connections,
                max_waiting=settings.max_waiting,
                headers=settings.headers,
            )
        )

    async def _close_later(self, model: Model) -> None:
        await self._clock.sleep(OLD_MODEL_SECONDS)
        await model.close()

    async def _offload(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _ready(self) -> tuple[bool, dict[str, str]]:
        return bool(self._table.models), {}


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

    async def build(client: StewardClient, message: Configure) -> WorkerPlane:
        return WorkerPlane(client, message, incarnation, data_dir)

    async def serve() -> None:
        steward_socket, listening = socket.socket(fileno=steward), socket.socket(fileno=listener)
        steward_socket.setblocking(False)
        listening.setblocking(False)
        worker = Worker(build, SystemClock(), TaskSpawner())
        await worker.run(steward_socket, listening)

    uvloop.run(serve())
