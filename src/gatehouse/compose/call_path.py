"""The way of a call through one process: the nine stages over leases, keys and a journal, and the models they lead to.

A server's worker and the library build it with the same class, so that there is one policy and one order. What serves calls
(sockets here, a Python program there) and where leases and keys come from (the steward's socket, or its parts in the same
process) is handed in.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from gatehouse.adapters.engines.client import EngineModel
from gatehouse.adapters.fetching.web import FetchOptions, WebFetcher
from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.system import TaskSpawner
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.compose.plans import passthroughs
from gatehouse.compose.providers import build_model
from gatehouse.core.attribution import AttributionPolicy
from gatehouse.core.calls import Call
from gatehouse.core.identity import Principal
from gatehouse.core.keys import KeyChecker
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Clock, LeaseOffice, Model, Rng, Slotted, TokenCounter, Turn
from gatehouse.core.responses import Ended, Owner, ResponseStore
from gatehouse.core.secrets import decode_custom
from gatehouse.core.targets import TargetState
from gatehouse.pipeline.attributing import Attributor
from gatehouse.pipeline.bookkeeping import Bookkeeper, Commitments
from gatehouse.pipeline.forwarding import Forwarding
from gatehouse.pipeline.health_checks import Check, HealthChecks
from gatehouse.pipeline.key_cache import Fetch, KeyCache
from gatehouse.pipeline.lease_book import LeaseBook
from gatehouse.pipeline.order import ORDER, in_order
from gatehouse.pipeline.reliability import Reliability
from gatehouse.pipeline.remote_content import RemoteContent
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.pipeline.stages.identify import Identify, identify
from gatehouse.pipeline.stages.limit import Limit
from gatehouse.pipeline.stages.read import Read
from gatehouse.pipeline.stages.record import Record
from gatehouse.pipeline.stages.route import FindPlan, Route, RouteTable
from gatehouse.pipeline.target_health import TargetHealth, reachable
from gatehouse.pipeline.target_loads import TargetLoads
from gatehouse.pipeline.turns import Cancel, KeepPolicy, Turns
from gatehouse.pipeline.turnstile import Turnstile
from gatehouse.processes.protocol import Configure
from gatehouse.settings import FetchSettings, Settings, read_environment

T = TypeVar("T")

OLD_MODEL_SECONDS = 600.0
"""How long a model that a reload replaced is kept for the calls it still answers."""


class Models:
    """The models that targets name, by provider. A reload keeps what has not changed and makes what has, everything or nothing."""

    def __init__(self) -> None:
        self.by_provider: dict[str, Model] = {}
        self.slotted: dict[str, Slotted] = {}
        self._counters: dict[str, TokenCounter] = {}
        """Those of them that can count, as above those with slots; asked once, because asking a Protocol costs more than most stages."""
        self._made_from: dict[str, object] = {}

    def replace(self, wanted: dict[str, tuple[object, Callable[[], Model]]]) -> list[Model]:
        """Put `wanted` (name -> what it is made from, how to make it) in force; returns the models that are not needed any more."""
        made = {name: self.by_provider[name] if self._made_from.get(name) == source else make() for name, (source, make) in wanted.items()}
        left = [model for name, model in self.by_provider.items() if made.get(name) is not model]
        self.by_provider.clear()
        self.by_provider.update(made)
        self._made_from = {name: source for name, (source, _) in wanted.items()}
        self._counters = {name: model for name, model in made.items() if isinstance(model, TokenCounter)}
        self.slotted.clear()
        self.slotted.update({name: model for name, model in made.items() if isinstance(model, Slotted)})
        return left

    def counts(self, plan: Plan) -> bool:
        """Whether every model of the plan can count. See `PromptCounter`."""
        counters = self._counters
        return bool(counters) and all(target.provider in counters for target in plan.everywhere)

    async def count_input(self, call: Call, plan: Plan) -> int | None:
        """The prompt's exact tokens, when every model of the plan can count and does so now; the most of several. Else None."""
        most = 0
        for provider in dict.fromkeys(target.provider for target in plan.everywhere):
            counter = self._counters.get(provider)
            tokens = None if counter is None else await counter.count_tokens(call)
            if tokens is None:
                return None
            most = max(most, tokens)
        return most


class Behind(msgspec.Struct, frozen=True):
    """What stands behind every process that carries calls: leases, keys, where responses are kept, and plans of unlisted models.

    `cancel` ends a call elsewhere.
    """

    office: LeaseOffice
    find_key: Fetch
    responses: ResponseStore | None = None
    cancel: Cancel | None = None
    find_plan: FindPlan | None = None


class CallPath:
    """What carries calls. `message` is the configuration in force; `checker` checks keys; what calls record and send leaves at the
    end of a `turn` of the loop, when there is one.

    Owns `journal` and `spawn`, and closes them.
    """

    def __init__(
        self,
        message: Configure,
        behind: Behind,
        checker: KeyChecker,
        journal: JournalWriter,
        clock: Clock,
        rng: Rng,
        spawn: TaskSpawner,
        turn: Turn | None = None,
    ) -> None:
        self.settings = settings = msgspec.msgpack.decode(message.settings, type=Settings, dec_hook=decode_custom)
        self.tally = ProcessTally()
        self.table = RouteTable(make=behind.find_plan)
        self.keys = KeyCache(behind.find_key, clock, spawn)
        self._checker = checker
        self._clock = clock
        self._spawn = spawn
        self._journal = journal
        journal.turn = self._turn = turn
        self._environment = read_environment()
        self._targets: tuple[Target, ...] = ()
        """Everything that may be asked."""
        self._threads = ThreadPoolExecutor(1, "offload")
        self._models = Models()
        self._book = LeaseBook(behind.office, clock, spawn)
        http = settings.listen.http
        kept = settings.responses
        policy = KeepPolicy(kept.store, kept.scope, kept.days * 86_400, kept.max_bytes)
        self.turns = Turns(policy, clock, behind.responses, behind.cancel, self.offload)
        self._read = Read(http.max_body_bytes, self.offload, http.max_body_bytes_by_role, self.turns)
        scanner = SecretScanner()
        self._pack = scanner.version
        names = tuple(stage.name for stage in ORDER)
        self._remote: RemoteContent | None = None
        self._attributor = attributor = Attributor(message.keys.end_user, scanner)
        commitments = Commitments(message.keys.commitment)
        self._books = books = Bookkeeper(journal, clock, self.tally, commitments, "", self.offload, attributor)
        limit = Limit(self._book, clock, self._models)
        cache = Cache(MemoryCache(clock, settings.cache.max_bytes), commitments.of_encoded)
        self.health = TargetHealth(clock, rng, self.tally)
        self.loads = TargetLoads(clock)
        self._checks = HealthChecks(self._models.by_provider, self.health, clock, rng, spawn)
        reliability = Reliability(self.health, self.loads, cache.stale, spawn, limit.hold_again, Forwarding(message.keys.end_user_forward))
        turnstile = Turnstile(self._models.slotted, clock, self.tally)
        self.runner = Runner(
            in_order(
                Record(books, self.tally, names),
                Identify(self.keys, checker, clock),
                self._read,
                Authorise(self.table.canonical),
                Route(self.table),
                limit,
                Guard(scanner, clock, flag_only=scanner.flag_only, fetch=self._fetched),
                cache,
                Dispatch(self._models.by_provider, books, clock, rng, self.tally, turnstile, reliability),
            ),
            clock,
            turn,
        )
        self._take(settings, message)

    def configure(self, message: Configure) -> None:
        """Put a configuration in force for calls that begin from now on, everything or nothing."""
        left = self._take(msgspec.msgpack.decode(message.settings, type=Settings, dec_hook=decode_custom), message)
        for model in left:
            self._spawn(self._close_later(model), name="close-model")

    async def identify(self, credentials: tuple[bytes, ...]) -> Principal:
        """Who offers these keys; the same answer as Identify's."""
        return await identify(credentials, self.keys, self._checker, self._clock.now())

    def body_limit(self, principal: Principal) -> int:
        """Bytes of body that a caller may send; the same bound as Read's."""
        return self._read.limit_of(principal)

    async def count_input(self, call: Call, plan: Plan) -> int | None:
        """The prompt's exact tokens, where every model of the plan can count; else None."""
        return await self._models.count_input(call, plan)

    def end_response(self, owner: Owner, response_id: str) -> Ended | None:
        """End the call that makes this response, if it runs here."""
        return self.turns.end(self.runner.running, owner, response_id)

    def recall(self, meters: tuple[str, ...]) -> None:
        """Give back what lies idle of these meters."""
        self._book.recall(meters)

    def tick(self) -> None:
        """Once a second: give back what lies idle."""
        self._book.tick()
        self.health.tick()

    def target_states(self) -> tuple[TargetState, ...]:
        """What this process has to say of its targets: those with something against them, and those whose work is counted."""
        states = self.health.states()
        for name, load in self.loads.states().items():
            known = states.get(name)
            states[name] = (
                load
                if known is None
                else replace(load, condition=known.condition, seconds=known.seconds, reason=known.reason, own=known.own)
            )
        return tuple(states.values())

    def heard(self, origin: str, states: tuple[TargetState, ...], *, everything: bool) -> None:
        """Another process tells of its targets: `everything` that it has there now, or else what has just changed."""
        if everything:
            self.loads.heard(origin, states)
        else:
            self.health.heard(states, self._targets)

    def shut(self) -> None:
        """No call runs any more: give back everything that is held."""
        self._book.shut()

    async def close(self) -> None:
        """Disconnect, and let go of the journal: from here on it counts as that of a dead process."""
        self._checks.stop()
        for model in self._models.by_provider.values():
            await model.close()
        await self._spawn.close()
        await self._journal.close()
        self._threads.shutdown()

    def _take(self, settings: Settings, message: Configure) -> list[Model]:
        wanted: dict[str, tuple[object, Callable[[], Model]]] = {}
        proxy = (self._environment.https_proxy, self._environment.no_proxy)
        for provider in settings.providers:
            made = partial(build_model, provider, self._environment, self.tally, self._turn)
            wanted[provider.name] = ((provider, proxy), made)
        for name, path in message.engines.items():
            wanted[name] = (path, lambda path=path: EngineModel(Path(path)))  # type: ignore[misc]
        left = self._models.replace(wanted)
        self.table.replace(message.plans, passthroughs(settings))
        if any(plan.remote_urls == "fetch" for plan in message.plans):
            self._remote = self._remote_content(settings.fetch)
        self._attributor.configure(AttributionPolicy(frozenset(settings.tags.allow), settings.attribution.user, settings.attribution.peer))
        self._targets = reachable(message.plans)
        self.health.forgive()
        intervals = {provider.name: provider.health for provider in settings.providers if provider.health.interval}
        self._checks.want(
            {
                name: Check(said.interval, said.failures, tuple(target for target in self._targets if target.provider == name))
                for name, said in intervals.items()
            }
        )
        self.settings = settings
        self._books.policy = f"{message.version}/{self._pack}"
        return left

    @staticmethod
    def _remote_content(settings: FetchSettings) -> RemoteContent:
        options = FetchOptions(
            http=settings.http,
            ports=frozenset(settings.ports or (80, 443)),
            hosts=tuple(settings.hosts),
            networks=tuple(settings.networks),
            max_bytes=settings.max_bytes,
            seconds=settings.seconds,
            ca_bundle=settings.ca_bundle,
        )
        return RemoteContent(WebFetcher(options), settings.max_per_call)

    async def _fetched(self, call: Call) -> Call:
        assert self._remote is not None, "a plan that fetches was put in force without its fetcher"
        return await self._remote.fetched(call)

    async def _close_later(self, model: Model) -> None:
        await self._clock.sleep(OLD_MODEL_SECONDS)
        await model.close()

    async def offload(self, work: Callable[[], T]) -> T:
        """Run `work` away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
