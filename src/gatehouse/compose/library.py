"""The library: Gatehouse inside another program, with everything a server has but its ports.

A call goes through the same nine stages, under the same policy and limits, into the same ledger and audit log; embedded
models run in the same supervised hosts. What is a steward's and what is a worker's stands in this one process, and the
data directory's lock says that nobody else, server or library, has the same directory open.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.compose.call_path import Behind, CallPath
from gatehouse.compose.launch import engine_command, engine_specs
from gatehouse.compose.reply import Carrying, Reply
from gatehouse.compose.start import StartError, locked, read_settings, with_a_model
from gatehouse.compose.steward import StewardParts
from gatehouse.control.keys import KeySpec
from gatehouse.control.lease_office import LocalOffice
from gatehouse.core.errors import Forbidden, InvalidRequest, TooLarge, Unavailable
from gatehouse.core.events import Answer
from gatehouse.core.identity import Permission, Principal, Role
from gatehouse.core.keys import KeyChecker
from gatehouse.core.ledger import UsageRow
from gatehouse.core.ports import Clock, Rng
from gatehouse.core.request_ids import RequestIds
from gatehouse.core.targets import TargetState
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.operator_file import check
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.identify import identify
from gatehouse.processes.engine_hosts import EngineHosts
from gatehouse.processes.protocol import TargetsTold
from gatehouse.processes.steward import Steward
from gatehouse.settings import Environment, Settings, read_environment

logger = logging.getLogger("gatehouse.library")

ENGINE_SECONDS: Final = 20.0
"""How long opening waits for embedded models; a large one goes on loading behind it."""
BEAT_SECONDS: Final = 1.0
OPERATOR: Final = "local-operator"
"""Under this id stand calls and acts of a program to which the data directory's files belong."""
_PATH: Final = "/v1/chat/completions"

Messages = str | Sequence[Mapping[str, Any]]
"""A prompt, or messages as in the OpenAI API."""


class Completion(msgspec.Struct, frozen=True):
    """A whole answer and what it took.

    `text` is that of the first choice; `answer` has all of it, tool calls included. `cost_usd` is a decimal string. `target`
    is None when no target was asked; `cache` is hit, miss or bypass.
    """

    text: str
    answer: Answer
    usage: Usage
    cost_usd: str
    request_id: str
    target: str | None
    cache: str


class Gatehouse:
    """An open Gatehouse, made with `open`. Belongs to the event loop it was opened on."""

    def __init__(
        self, path: CallPath, parts: StewardParts, credential: bytes, checker: KeyChecker, clock: Clock, rng: Rng, calls: TaskSpawner
    ) -> None:
        self._path = path
        self._parts = parts
        self._credential = credential
        self._checker = checker
        self._clock = clock
        self._ids = RequestIds(rng, clock)
        self._calls = calls
        self._dialect = OpenAIDialect()
        self._shut = ""
        """Why no call is taken any more."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, config: str | Path | Settings | None = None, *, data_dir: str | Path | None = None, key: str | None = None
    ) -> AsyncIterator[Self]:
        """Open a data directory for the time of an `async with`.

        Args:
            config: the operator's file, or settings; None is the built-in model alone.
            data_dir: None is GATEHOUSE_DATA_DIR, or `gatehouse-data` in the working directory. Made when it is missing.
            key: the API key under which calls are made; None is the local operator, to whom the directory must belong.

        Raises:
            SettingsError: the configuration or the data directory cannot be used.
            StartError: among others, another process has the directory open.
            Unauthenticated: the key is no good.
        """
        environment = read_environment()
        settings = await asyncio.to_thread(_settings, config)
        directory = Path(data_dir or environment.data_dir).absolute()
        if key is None:
            _owned(directory)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(locked(directory))
            house = await cls._build(stack, settings, environment, directory, key)
            if key is not None:
                await house._principal()
            try:
                yield house
            finally:
                house._shut = "it is closed"

    @classmethod
    async def _build(
        cls, stack: contextlib.AsyncExitStack, settings: Settings, environment: Environment, directory: Path, key: str | None
    ) -> Self:
        """Put the parts together; `stack` takes them apart again, last first, so that the books are complete and signed."""
        clock, rng, spawn = SystemClock(), SystemRng(), TaskSpawner()
        stack.push_async_callback(spawn.close)
        engines = EngineHosts(engine_command(), directory / "run" / "engines", clock, spawn)
        stack.push_async_callback(engines.stop)
        engines.want(engine_specs(settings))
        steward = Steward(clock, rng, spawn)
        parts = await StewardParts.open(settings, environment, directory, steward, engines, clock, rng, spawn)
        stack.push_async_callback(parts.close)
        # Here too: nothing that repeats may come upon a closed database.
        stack.push_async_callback(spawn.close)
        stack.push_async_callback(engines.stop)
        stack.push_async_callback(steward.stop, 0.0)
        message = await parts.freeze(settings)
        incarnation = f"l-{os.getpid()}-{rng.token(6).hex()}"
        stack.callback(parts.office.incarnation_died, incarnation)
        await parts.books.register(incarnation)
        journal = JournalWriter.open(directory / "journals", incarnation)
        credential, checker = _operator(message.keys.pepper, rng) if key is None else (key.encode(), parts.checker)
        office = LocalOffice(parts.office, incarnation)
        path = CallPath(
            message, Behind(office, parts.directory.find, find_plan=parts.find_plan), checker, journal, clock, rng, TaskSpawner()
        )
        path.health.news = _News(steward, incarnation)
        steward.join(lambda told: path.heard(told.origin, told.states, everything=told.everything))
        stack.push_async_callback(path.close)
        stack.callback(path.shut)
        calls = TaskSpawner()
        stack.push_async_callback(calls.close)
        house = cls(path, parts, credential, checker, clock, rng, calls)
        spawn(house._beat(journal, incarnation), name="library-beat")
        await parts.engines_ready(ENGINE_SECONDS)
        return house

    # -- calls -----------------------------------------------------------------------------------------------------

    def chat(self, *, model: str, messages: Messages, **fields: Any) -> Reply:
        """Ask a model; the answer's events are read from what this returns:

            async for event in gh.chat(model="tiny", messages="Who are you?"):
                print(event.text, end="")

        `fields` are those of an OpenAI chat completion. Nothing happens before the first event is asked for; what the first
        or a later one may raise stands under `complete`. To leave the loop is to stop the model: what it said so far is paid.
        """
        return self._call(model, messages, fields, stream=True)

    async def complete(self, messages: Messages, *, model: str, **fields: Any) -> Completion:
        """Ask a model and wait for the whole answer. To cancel is to stop the model: what it said so far is paid.

        Raises:
            InvalidRequest: a field is at fault; ContextTooLong and TooLarge are among these.
            Unauthenticated, Forbidden: the key was revoked or expired, or has no grant for the model.
            NotFound: there is no such model.
            Blocked: a guard refused the prompt or the answer.
            LimitExceeded: a rate, concurrency or budget limit; `retry_after` tells when to come back.
            UpstreamFailed: the model failed.
            Unavailable: the call cannot be taken now, or this Gatehouse is closing.
        """
        reply = self._call(model, messages, fields, stream=False)
        answer: Answer | None = None
        async for event in reply:
            assert isinstance(event, Answer)
            answer = event
        assert answer is not None
        return Completion(answer.text, answer, reply.usage, reply.cost_usd, reply.request_id, reply.target, reply.cache)

    def _call(self, model: str, messages: Messages, fields: Mapping[str, Any], *, stream: bool) -> Reply:
        if self._shut:
            raise Unavailable(f"This Gatehouse takes no calls: {self._shut}.", code="shutting_down")
        if "stream" in fields:
            raise InvalidRequest("Whether to stream is not a field here: `chat` does, `complete` does not.", param="stream")
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        try:
            body = msgspec.json.encode({"model": model, "messages": asked, **fields, "stream": stream})
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"The call cannot be written as JSON: {error}"[:400], code="invalid_json") from None
        head = Head("POST", _PATH, {}, (self._credential,), "library")
        x = Exchange(self._ids.new(), head, _Body(body), self._dialect)
        return Reply(Carrying(x, self._path.runner, self._calls))

    # -- what was, and who may -------------------------------------------------------------------------------------

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that can be asked for, whether or not the key has a grant for it."""
        return self._path.table.models

    @property
    def problems(self) -> dict[str, str]:
        """What is degraded, by part: an embedded model that does not load, a ledger that cannot be written."""
        return dict(self._parts.steward.problems)

    async def usage(self, group_by: Sequence[str] = (), *, start: float | None = None, end: float | None = None) -> list[UsageRow]:
        """Requests, tokens and cost of the tenant's calls that ended in [start, end), seconds since the epoch.

        `group_by` names any of key, model, team, target, day and outcome; without it there is one row, or none. Every call
        that has ended is in it.

        Raises:
            Forbidden: the key may not read usage.
            InvalidRequest: a group that is not one, or a range that ends before it begins.
        """
        principal = await self._principal()
        if not principal.may(Permission.USAGE_READ):
            await self._parts.refused(principal, Permission.USAGE_READ, "library usage")
            raise Forbidden(f"This needs the permission {Permission.USAGE_READ}, which your role does not have.", code="permission_denied")
        return await self._parts.reports.usage(principal.tenant, group_by, start, end)

    async def create_key(self, name: str, **fields: Any) -> str:
        """Make an API key and return its text, which nobody can ask for again. `fields` are those of `KeySpec`.

        Raises:
            Forbidden: whoever opened this may not write keys, or would give away more than it has.
            InvalidRequest: a field is at fault; `param` names it.
        """
        try:
            spec = msgspec.convert({"name": name, **fields}, KeySpec)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"{error}."[:400]) from None
        minted = await self._parts.keys.create(await self._principal(), spec)
        return minted.key

    async def _principal(self) -> Principal:
        return await identify((self._credential,), self._path.keys, self._checker, self._clock.now())

    async def _beat(self, journal: JournalWriter, name: str) -> None:
        while not self._shut:
            await self._clock.sleep(BEAT_SECONDS)
            self._path.tick()
            self._parts.steward.targets_told(name, TargetsTold(self._path.target_states()))
            if not journal.in_place:
                logger.critical("the journal of this process is gone from the disk: calls could not be recorded and are refused")
                self._shut = "its journal is gone from the disk"


class _News:
    """The steward of this very process is told, for the audit log and for other servers. Implements `TargetNews`."""

    def __init__(self, steward: Steward, name: str) -> None:
        self._steward = steward
        self._name = name

    def tell(self, states: tuple[TargetState, ...]) -> None:
        """See `TargetNews`."""
        self._steward.targets_told(self._name, TargetsTold(states, everything=False))


class _Body:
    """A call's body that is here already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def at_hand(self, limit: int) -> bytes | None:
        """See `Body`."""
        return self._content if len(self._content) <= limit else None

    async def read(self, limit: int) -> bytes:
        """See `Body`."""
        if len(self._content) > limit:
            raise TooLarge(f"The call is larger than the {limit} bytes that are accepted.", param="body")
        return self._content


def _settings(config: str | Path | Settings | None) -> Settings:
    settings = check(config) if isinstance(config, Settings) else read_settings(None if config is None else Path(config))
    return with_a_model(settings)


def _operator(pepper: bytes, rng: Rng) -> tuple[bytes, KeyChecker]:
    """A key for the local operator, made for this process and known to nobody else: its calls too are identified like any other."""
    key = rng.token(32).hex().encode()
    operator = Principal(OPERATOR, OPERATOR, frozenset({Role.ADMIN, Role.DEVELOPER}))
    return key, KeyChecker(pepper, KeyChecker(pepper).digest(key), operator)


def _owned(directory: Path) -> None:
    """Make sure that the directory and what decides in it belong to who runs this. Raises StartError."""
    for path in (directory, directory / "root.key", directory / "gatehouse.db"):
        try:
            owner = path.stat().st_uid
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StartError(f"{path} cannot be looked at: {error.strerror}") from None
        if owner != os.geteuid():
            raise StartError(f"{path} belongs to another user; open it with an API key: Gatehouse.open(..., key=...)")
