"""The steward's parts: database, root key, books, leases, audit log, keys, reports and the admin port, tied together."""

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from gatehouse import __version__
from gatehouse.adapters.engines.client import NOT_RUNNING, EngineModel
from gatehouse.adapters.storage._schema import SchemaRefused
from gatehouse.adapters.storage.audit_log import AuditAppender, SqlAuditLog
from gatehouse.adapters.storage.books import SqlBooks
from gatehouse.adapters.storage.facts import FIRST_KEY, ROOT_FINGERPRINT, fact, keep_fact
from gatehouse.adapters.storage.keys import SqlKeyStore
from gatehouse.adapters.storage.leases import SqlLeaseStore
from gatehouse.adapters.storage.ledger import SqlLedger, SqlPriceBook
from gatehouse.adapters.storage.responses import SqlResponseStore
from gatehouse.adapters.storage.shelf import FileJournalShelf
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.adapters.telemetry.exposition import Exposition, Number
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.adapters.vault.root import Purpose, RootKey, RootKeyRefused, check_fingerprint, open_root
from gatehouse.adapters.vault.sealing import Sealer
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.compose.launch import engine_specs
from gatehouse.compose.plans import Found, build_plans, unlisted_plan
from gatehouse.compose.start import StartError
from gatehouse.compose.state import encrypted, host_of, is_loopback, open_broadcast, places, shared
from gatehouse.control.audit import AuditAdministration
from gatehouse.control.drain import Drain
from gatehouse.control.keys import KeyAdministration, KeySpec, system_principal
from gatehouse.control.lease_office import Office
from gatehouse.control.replays import Replays
from gatehouse.control.reports import Reports
from gatehouse.core.audit import AuditEvent
from gatehouse.core.errors import Unavailable
from gatehouse.core.identity import KeyRecord, Principal
from gatehouse.core.keys import KeyChecker
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Broadcast
from gatehouse.core.secrets import Secret, encode_custom
from gatehouse.core.targets import TargetState
from gatehouse.operator_file import SettingsError
from gatehouse.pipeline.stages.identify import identify
from gatehouse.processes.engine_hosts import EngineHosts
from gatehouse.processes.protocol import Configure, WorkerKeys
from gatehouse.processes.steward import Parts, Steward
from gatehouse.settings import Environment, Settings

if TYPE_CHECKING:
    from gatehouse.compose.admin_port import AdminPort

logger = logging.getLogger("gatehouse.steward")

ENGINE_SECONDS = 5.0
"""How often embedded models are asked how they are."""
KEY_FILE = "admin.key"
"""Where the operator of this machine finds the administrator's key, readable by its owner only."""


class _Directory:
    """Keys straight from the store, for the admin port."""

    def __init__(self, store: SqlKeyStore) -> None:
        self._store = store

    async def find(self, key_id: str) -> KeyRecord | None:
        """See `KeyDirectory`."""
        stored = await self._store.find(key_id)
        return None if stored is None else stored.record


def root_source(settings: Settings, environment: Environment) -> tuple[str, str | None]:
    """Where the root key is: the setting, or GATEHOUSE_ROOT_KEY; and the variable's value when it is in one."""
    source = settings.secrets.root
    if not source and environment.root_key is not None:
        return "env:GATEHOUSE_ROOT_KEY", environment.root_key.reveal()
    if source.startswith("env:"):
        secret = environment.secret(source.removeprefix("env:"))
        return source, secret.reveal() if secret is not None else None
    return source, None


def open_root_key(settings: Settings, environment: Environment, data_dir: Path) -> RootKey:
    """The root key that the settings or GATEHOUSE_ROOT_KEY name."""
    source, value = root_source(settings, environment)
    # A database without its key is a lost key, not a new installation.
    fresh = not (data_dir / "gatehouse.db").exists()
    return open_root(source, data_dir, value, create=fresh)


def checker_of(root: RootKey, bootstrap: Secret | None) -> tuple[KeyChecker, bytes | None]:
    """What checks keys, and the digest of the bootstrap key if there is one."""
    pepper = root.derive(Purpose.API_KEY_PEPPER)
    if bootstrap is None:
        return KeyChecker(pepper), None
    try:
        digest = KeyChecker(pepper).bootstrap_digest(bootstrap.reveal())
    except ValueError as error:
        raise SettingsError(f"GATEHOUSE_BOOTSTRAP_KEY: {error}") from None
    return KeyChecker(pepper, digest), digest


class StewardParts:
    """Everything of the steward that is built once. Made with `open`."""

    def __init__(self, database: Database, root: RootKey, steward: Steward, engines: EngineHosts) -> None:
        self.database = database
        self.steward = steward
        self._engines = engines
        self._root = root
        self._replays: Replays
        self._admin: AdminPort | None = None
        self._admin_task: asyncio.Task[Any] | None = None
        self._exposition = Exposition()
        self._broadcast: Broadcast
        self._shares = False
        """Whether other servers are told anything."""
        self.first: str | None = None

    @classmethod
    async def open(
        cls,
        settings: Settings,
        environment: Environment,
        data_dir: Path,
        steward: Steward,
        engines: EngineHosts,
        clock: SystemClock,
        rng: SystemRng,
        spawn: TaskSpawner,
    ) -> Self:
        """Open storage and build everything on it. Raises SettingsError."""
        broadcast = open_broadcast(settings.state, clock, rng, spawn)
        try:
            root = open_root_key(settings, environment, data_dir)
            database = await Database.open(settings.storage.url.reveal(), data_dir, sole=True)
            try:
                stored = await database.run(lambda connection: keep_fact(connection, ROOT_FINGERPRINT, root.fingerprint()))
                check_fingerprint(stored, root)
                parts = cls(database, root, steward, engines)
                parts._settings = settings
                parts._broadcast = broadcast
                parts._shares = shared(settings.state)
                if parts._shares and not encrypted(settings.state) and not is_loopback(host_of(settings.state)):
                    logger.warning("state.url is not encrypted: whoever is on the way can read and change it; use valkeys://")
                parts._replays = Replays(clock, 60 * settings.idempotency.minutes, settings.idempotency.max_bytes)
                await parts._build(environment, data_dir, clock, rng, spawn)
            except BaseException:
                await database.close()
                raise
        except (SchemaRefused, RootKeyRefused, ValueError) as error:
            raise StartError(str(error)) from None
        except Unavailable as error:
            raise StartError(f"the database cannot be used: {error.detail or error.message}") from None
        return parts

    async def _build(self, environment: Environment, data_dir: Path, clock: SystemClock, rng: SystemRng, spawn: TaskSpawner) -> None:
        database, root = self.database, self._root
        self._clock, self._spawn = clock, spawn
        seal = root.derive(Purpose.AUDIT_SEAL)
        appender = AuditAppender(seal)
        signer = AuditSigner(root.derive(Purpose.AUDIT_SIGNING), root.fingerprint())
        self.log = SqlAuditLog(database.run, database.read, appender, signer, seal)
        self.checker, bootstrap_digest = checker_of(root, environment.bootstrap_key)
        self._worker_keys = WorkerKeys(
            root.derive(Purpose.API_KEY_PEPPER),
            root.derive(Purpose.AUDIT_COMMITMENT),
            bootstrap_digest,
            root.derive(Purpose.END_USER),
            root.derive(Purpose.END_USER_FORWARD),
        )
        store = SqlKeyStore(database.run, appender.append)
        self.directory = _Directory(store)
        self.office = Office(SqlLeaseStore(database.run), clock)
        await self.office.open()
        self.books = books = SqlBooks(database.run, appender.append, _server_id(data_dir))
        tally = ProcessTally()
        self.drain = Drain(FileJournalShelf(data_dir / "journals"), books, self.office, clock, tally)
        self.reports = Reports(SqlLedger(database.read), self.drain.drain_now, lambda: self._settings.tags.allow)
        self._prices = SqlPriceBook(database.run)
        self.keys = KeyAdministration(store, self.checker, self.log, self._key_changed, clock, rng)
        self._rng = rng
        self.responses = SqlResponseStore(database.run, database.read, Sealer(root.derive(Purpose.RESPONSES)), clock)
        # What a dead process left behind stays in doubt, and counts, until the drain has been through it.
        self.steward.equip(
            Parts(
                office=self.office,
                books=self.drain,
                find_key=self.directory.find,
                find_plan=self.find_plan,
                checkpoint=lambda: self.log.checkpoint(clock.now()),
                take_metrics=self._exposition.take,
                metrics_ended=self._exposition.ended,
                register=books.register,
                responses=self.responses,
                sweep=self.responses.sweep,
                target_alarm=self.target_alarm,
                replays=self._replays,
                broadcast=self._broadcast,
            )
        )
        await self._first_start(database, data_dir / KEY_FILE)

    async def _first_start(self, database: Database, key_file: Path) -> None:
        """A new installation gets one administrator's key, which may also call models so that the first call is one command away.

        The key is in its file before the database remembers that it was made: a crash between the two makes another one.
        """
        if await database.read(lambda connection: fact(connection, FIRST_KEY)) is not None:
            return
        minted = await self.keys.create(system_principal(), KeySpec(name="administrator", roles=("admin", "developer")))
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(minted.key + "\n")
            file.flush()
            os.fsync(file.fileno())
        await database.run(lambda connection: keep_fact(connection, FIRST_KEY, minted.stored.id))
        self.first = minted.key

    async def first_key(self) -> str | None:
        """The administrator's key when it was made in this run; afterwards None for ever."""
        key, self.first = self.first, None
        return key

    def _key_changed(self, key_id: str, *, revoked: bool) -> None:
        self.steward.key_changed(key_id, revoked=revoked)

    # -- configuration ---------------------------------------------------------------------------------------------

    async def configure(self, settings: Settings) -> dict[str, str]:
        """Freeze the settings and put them in force; returns what workers say who could not."""
        return await self.steward.configure(await self.freeze(settings))

    async def freeze(self, settings: Settings) -> Configure:
        """Settings as those take them who carry calls, plans and all. The engines that they name are started, others stopped."""
        plans = await asyncio.to_thread(build_plans, settings, lookup)
        self._settings = settings
        self.steward.share(places(settings, plans))
        self._engines.want(engine_specs(settings))
        await self._prices.keep([target.price for plan in plans for target in plan.everywhere if target.price is not None])
        encoded = msgspec.msgpack.encode(settings, enc_hook=encode_custom)
        version = hashlib.blake2b(encoded + b"".join(plan.digest for plan in plans), digest_size=6).hexdigest()
        return Configure(version, encoded, plans, self._worker_keys, self._engines.sockets)

    async def find_plan(self, name: str) -> Plan | None:
        """The plan of a model that is not listed, under the settings in force; its price is kept like those of listed ones."""
        plan = await asyncio.to_thread(unlisted_plan, self._settings, name, lookup)
        if plan is not None:
            await self._prices.keep([target.price for target in plan.targets if target.price is not None])
        return plan

    async def reload(self, before: Settings, after: Settings) -> dict[str, str]:
        """Swap the configuration; the old one stays when it cannot be built. Either way it is audited with what changed."""
        old = self.steward.version
        try:
            problems = await self.configure(after)
        except Exception as error:
            logger.exception("the new configuration cannot be put in force; the old one stays")
            problems = {"steward": type(error).__name__}
        if problems:
            await self.configure(before)
            words = "; ".join(f"{part}: {problem}" for part, problem in problems.items())
            await self.reload_refused(words)
            return problems
        self.steward.problems.pop("configuration", None)
        changed = _difference(before, after)
        logger.info("configuration %s is in force (was %s): %s", self.steward.version, old, changed or "nothing changed")
        await self._audit("config.reload", "ok", {"before": old, "after": self.steward.version, "changed": changed})
        return {}

    async def reload_refused(self, reason: str) -> None:
        """A configuration that cannot be taken: said in the log, in /readyz and in the audit log; the old one stays in force."""
        logger.error("the configuration was not reloaded, the old one stays: %s", reason)
        self.steward.problems["configuration"] = reason[:500]
        await self._audit("config.reload", "refused", {"before": self.steward.version, "reason": reason})

    async def target_alarm(self, state: TargetState) -> None:
        """A target refuses our credentials: in the audit log, where somebody looks who can mend it."""
        detail = {"reason": state.reason, "left_alone_seconds": f"{state.seconds:.0f}"}
        event = AuditEvent(self._clock.now(), "system", "target.quarantined", "system", "default", state.target, "refused", detail)
        await self.log.record((event,))

    async def _audit(self, action: str, outcome: str, detail: dict[str, str]) -> None:
        event = AuditEvent(self._clock.now(), "system", action, "system", "default", "configuration", outcome, detail)
        await self.log.record((event,))

    # -- embedded engines ------------------------------------------------------------------------------------------

    async def engines_ready(self, seconds: float) -> None:
        """Wait until every embedded model answers or is known not to, or `seconds` are over; go on watching them afterwards."""
        deadline = self._clock.monotonic() + seconds
        while await self._ask_engines() and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.05)
        self._spawn(self._watch_engines(), name="watch-engines")

    async def _watch_engines(self) -> None:
        while True:
            await self._clock.sleep(ENGINE_SECONDS)
            await self._ask_engines()

    async def _ask_engines(self) -> bool:
        """Put what embedded models say of themselves among the problems; whether one of them does not run yet."""
        waiting = False
        sockets = self._engines.sockets
        for part in [part for part in self.steward.problems if part.startswith("engine ") and part.removeprefix("engine ") not in sockets]:
            del self.steward.problems[part]
        for name, path in sockets.items():
            model = EngineModel(Path(path))
            problem = await model.ping()
            waiting |= problem == NOT_RUNNING
            await model.close()
            if problem:
                self.steward.problems[f"engine {name}"] = problem
            else:
                self.steward.problems.pop(f"engine {name}", None)
        return waiting

    # -- the admin port --------------------------------------------------------------------------------------------

    async def serve_admin(self, listener: socket.socket) -> None:
        """Answer the admin port from now on."""
        from gatehouse.compose.admin_port import admin_port
        from gatehouse.wire.admin.endpoints import Services

        services = Services(
            keys=self.keys,
            reports=self.reports,
            audit=AuditAdministration(self.log, self._clock),
            statement=self.office.statement,
            plans=lambda: (self.steward.version, self.steward.plans),
            targets=self._targets,
            metrics=self._metrics,
            readiness=lambda: (self.steward.serving, dict(self.steward.problems)),
            version=__version__,
        )
        self._admin = admin_port(services, self.identify, self.refused, self._rng)
        self._admin_task = self._spawn(self._admin.serve([listener]), name="admin")

    async def identify(self, credentials: tuple[bytes, ...]) -> Principal:
        """Who calls, beside the data plane; see `gatehouse.pipeline.stages.identify.identify`."""
        return await identify(credentials, self.directory, self.checker, self._clock.now())

    async def refused(self, principal: Principal, permission: str, asked: str) -> None:
        """Write down that `principal` asked for what it has no permission for."""
        detail = {"actor_name": principal.name, "lacks": permission}
        event = AuditEvent(self._clock.now(), "admin", "admin.refused", principal.key_id, principal.tenant, asked, "refused", detail)
        await self.log.record((event,))

    async def _targets(self) -> dict[str, tuple[TargetState, ...]]:
        await self.steward.collect()
        return self.steward.targets()

    async def _metrics(self) -> bytes:
        await self.steward.collect()
        figures: list[Number] = [("gatehouse_worker_restarts_total", (), self.steward.restarts)]
        neighbours = self.steward.neighbours
        if self._shares and neighbours is not None:
            figures += [("gatehouse_state_connected", (), int(not neighbours.problem)), ("gatehouse_state_servers", (), neighbours.servers)]
            figures += [("gatehouse_state_messages_total", (result,), number) for result, number in neighbours.counts.items()]
        return self._exposition.render(figures)

    async def close(self) -> None:
        """Stop answering, write down what came back, disconnect."""
        if self._admin is not None and self._admin_task is not None:
            self._admin.should_exit = True
            await asyncio.wait({self._admin_task}, timeout=3.0)
        await self._broadcast.close()
        with contextlib.suppress(Exception):
            await self.office.tidy()
        await self.database.close()


def lookup(kind: str, base_url: str | None, model: str) -> Found | None:
    """The price catalogue's listing in force now. Imported late: most installations never need it."""
    from gatehouse.adapters.prices.catalogue import PriceCatalogue

    return PriceCatalogue().find(kind, base_url, model, datetime.now(UTC))


def _server_id(data_dir: Path) -> str:
    """The name under which this data directory's journals stand in the books.

    Made from host and path when the directory is new, so that one that was lost and made again at the same place is the
    same server: the books then see that its journals are gone, and charge what they held.
    """
    path = data_dir / "server.id"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            place = f"{socket.gethostname()}\0{data_dir.resolve()}"
            file.write(f"srv-{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}")
            file.flush()
            os.fsync(file.fileno())
    return path.read_text().strip()


def _difference(before: Settings, after: Settings) -> str:
    """Which parts changed, by name; values are not repeated, they may be secrets."""
    parts: list[str] = []
    for field in before.__struct_fields__:
        old, new = getattr(before, field), getattr(after, field)
        if old == new:
            continue
        if isinstance(old, list):
            was, now = {entry.name: entry for entry in old}, {entry.name: entry for entry in new}
            parts += [f"{field}: +{name}" for name in now.keys() - was.keys()]
            parts += [f"{field}: -{name}" for name in was.keys() - now.keys()]
            parts += [f"{field}: ~{name}" for name in was.keys() & now.keys() if was[name] != now[name]]
        else:
            parts.append(field)
    return ", ".join(sorted(parts))
