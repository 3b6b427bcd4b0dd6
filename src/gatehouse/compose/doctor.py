"""What can be wrong with an installation, found by looking and never by changing: nothing here writes, migrates or creates.

Each check answers with findings: how bad it is, what was seen, and what to do about it.
"""

import asyncio
import contextlib
import errno
import fcntl
import http.client
import json
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from sqlalchemy.exc import SQLAlchemyError

import gatehouse
from gatehouse.adapters.engines.gguf import ModelFileRefused, read_header
from gatehouse.adapters.storage._schema import REVISIONS
from gatehouse.adapters.storage.facts import ROOT_FINGERPRINT
from gatehouse.adapters.storage.shelf import ASIDE, FileJournalShelf
from gatehouse.adapters.storage.sql import engine_for
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.adapters.vault.root import RootKeyRefused, check_fingerprint, open_root
from gatehouse.compose.offline import check_providers, check_settings, check_state
from gatehouse.compose.providers import address
from gatehouse.compose.start import StartError
from gatehouse.compose.state import encrypted, host_of, is_loopback, open_broadcast, shared
from gatehouse.compose.steward import root_source
from gatehouse.core.errors import Unavailable
from gatehouse.models import builtin_path
from gatehouse.operator_file import SettingsError, load
from gatehouse.settings import Environment, ModelSettings, ProviderSettings, Settings, StateSettings, TargetSettings

OLDEST_PYTHON: Final = (3, 11)
LOW_DISK: Final = 1024**3
NO_DISK: Final = 100 * 1024**2
FEW_FILES: Final = 4096
PROBE_SECONDS: Final = 5.0
CLOCK_SLACK: Final = 120.0
"""Seconds by which two clocks may differ before it is worth a word."""

State = Literal["ok", "warn", "bad"]


class Finding(msgspec.Struct, frozen=True):
    """What one look found. `remedy` is empty where nothing is to be done."""

    part: str
    state: State
    words: str
    remedy: str = ""


class ServerSeen(msgspec.Struct, frozen=True):
    """A running server as its data directory tells."""

    url: str
    admin_url: str
    pid: int


class Patient(msgspec.Struct, frozen=True):
    """What is looked at. `settings` is None when the operator's file cannot be used; `server` when none runs here."""

    data_dir: Path
    environment: Environment
    settings: Settings | None
    server: ServerSeen | None


def examine(data_dir: Path, environment: Environment, config: Path | None, *, probe: bool) -> list[Finding]:
    """Every check in order. `probe` opens a connection to each provider, which is the only thing that leaves this machine."""
    findings: list[Finding] = []
    settings: Settings | None = None
    try:
        settings = load(config) if config is not None else Settings()
        if config is not None:
            count = len(check_settings(settings)["models"])
            check_providers(settings, environment)
            check_state(settings)
            findings.append(Finding("configuration", "ok", f"{config}: {count} models, {len(settings.providers)} providers"))
    except SettingsError as error:
        findings.append(Finding("configuration", "bad", str(error), f"mend the file; then: gatehouse config check {config}"))
    if settings is not None and not settings.models:
        tiny = ModelSettings(name="tiny", targets=[TargetSettings(engine="llamacpp", path="builtin")])
        settings = msgspec.structs.replace(settings, models=[tiny])
    patient = Patient(data_dir, environment, settings, _server(data_dir))
    checks: list[Callable[[Patient], Iterator[Finding]]] = [
        _python, _directory, _disk, _root_key, _database, _state, _journals, _engines, _files, _clock, _ports, _serving,
    ]  # fmt: skip
    if probe:
        checks.append(_providers)
    for check in checks:
        try:
            findings += check(patient)
        except OSError as error:
            part = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(part, "bad", f"could not be looked at: {error}", "run this as the user that runs the server"))
    return findings


def _server(data_dir: Path) -> ServerSeen | None:
    """The server that holds the data directory's lock."""
    if not running(data_dir):
        return None
    try:
        return msgspec.json.decode((data_dir / "run" / "server.json").read_bytes(), type=ServerSeen)
    except (OSError, msgspec.DecodeError):
        return ServerSeen("", "", 0)


def running(data_dir: Path) -> bool:
    """Whether a server holds this data directory."""
    try:
        lock = os.open(data_dir / "run" / "steward.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


# -- the machine -----------------------------------------------------------------------------------------------------------


def _python(_patient: Patient) -> Iterator[Finding]:
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Finding("python", "bad", f"Python {shown}", "install Python 3.11 or newer")
    else:
        yield Finding("python", "ok", f"Python {shown}, Gatehouse {gatehouse.__version__}")


def _disk(patient: Patient) -> Iterator[Finding]:
    place = patient.data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    words = f"{free / 1024**3:.1f} GiB free"
    if free < NO_DISK:
        yield Finding("disk", "bad", words, "make room now: a full disk stops every call before a provider is asked")
    elif free < LOW_DISK:
        yield Finding("disk", "warn", words, "make room: journals and database need some")
    else:
        yield Finding("disk", "ok", words)


def _files(patient: Patient) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        words = f"a process may open {soft} files; each connection is one"
        yield Finding(
            "file descriptors", "warn", words, f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}, or LimitNOFILE=65536 in the unit"
        )
    else:
        yield Finding("file descriptors", "ok", f"a process may open {soft} files")


def _clock(patient: Patient) -> Iterator[Finding]:
    now = time.time()
    made = Path(gatehouse.__file__).stat().st_mtime
    database = patient.data_dir / "gatehouse.db"
    newest = database.stat().st_mtime if database.exists() else 0.0
    remedy = "set the clock, and keep it with NTP: budgets, expiry and the audit log go by it"
    if now < max(made, newest) - CLOCK_SLACK:
        yield Finding("clock", "bad", "the clock is behind what this machine wrote earlier", remedy)
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


# -- the data directory ----------------------------------------------------------------------------------------------------


def _directory(patient: Patient) -> Iterator[Finding]:
    place = patient.data_dir
    if not place.exists():
        yield Finding("data directory", "warn", f"{place} is not there yet", "gatehouse serve makes it; or name another with --data-dir")
        return
    about = place.stat()
    if not place.is_dir():
        yield Finding("data directory", "bad", f"{place} is not a directory", "name another with --data-dir")
    elif about.st_uid != os.geteuid():
        yield Finding(
            "data directory", "bad", f"{place} belongs to user {about.st_uid}", f"run as that user, or: chown -R {os.geteuid()} {place}"
        )
    elif not os.access(place, os.W_OK | os.X_OK):
        yield Finding("data directory", "bad", f"{place} cannot be written", f"chmod 700 {place}")
    elif about.st_mode & 0o077:
        yield Finding("data directory", "warn", f"{place} is open to others on this machine", f"chmod 700 {place}")
    else:
        yield Finding("data directory", "ok", str(place))
    for name in ("admin.key", "root.key"):
        path = place / name
        if path.exists() and path.stat().st_mode & 0o077:
            yield Finding(name, "bad", f"{path} can be read by others", f"chmod 600 {path}; who may have read it has the key: rotate it")


def _root_key(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None:
        return
    if not (patient.data_dir / "root.key").exists() and not patient.settings.secrets.root and patient.environment.root_key is None:
        if (patient.data_dir / "gatehouse.db").exists():
            words = f"there is no root key in {patient.data_dir}, and its database was made with one"
            yield Finding(
                "root key", "bad", words, "bring root.key back, or set GATEHOUSE_ROOT_KEY; without it keys and audit cannot be used"
            )
        return
    try:
        source, value = root_source(patient.settings, patient.environment)
        root = open_root(source, patient.data_dir, value, create=False)
        # What is wrong with a database that cannot be asked, the next check says.
        with contextlib.suppress(sqlite3.Error, SQLAlchemyError, ValueError, ImportError):
            check_fingerprint(_fact(patient, ROOT_FINGERPRINT), root)
    except RootKeyRefused as error:
        yield Finding("root key", "bad", str(error), "do as it says; never make a new one for a database that exists")
    else:
        yield Finding("root key", "ok", f"{source or 'root.key'}, fingerprint {root.fingerprint()[:8]}…")


def _fact(patient: Patient, name: str) -> str | None:
    rows = _rows(patient, f"SELECT value FROM facts WHERE name = '{name}'")  # noqa: S608 - a constant of ours
    return str(rows[0][0]) if rows else None


def _database(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None:
        return
    path = database_path(patient.settings, patient.data_dir)
    if path is not None and not path.exists():
        yield Finding("database", "ok", f"{path.name} is not there yet; the first start makes it")
        return
    where = path.name if path is not None else "PostgreSQL"
    try:
        revision = str(_rows(patient, "SELECT version_num FROM alembic_version")[0][0])
        damage = [] if path is None else [str(row[0]) for row in _rows(patient, "PRAGMA quick_check(5)") if row[0] != "ok"]
    except (sqlite3.Error, SQLAlchemyError, ValueError, IndexError, ImportError) as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()
        yield Finding("database", "bad", f"{where} cannot be read: {why[0] if why else type(error).__name__}", _DATABASE_REMEDY)
        return
    if damage:
        yield Finding("database", "bad", f"{where} is damaged: {damage[0]}", _DATABASE_REMEDY)
    elif revision not in REVISIONS:
        yield Finding("database", "bad", f"{where} has revision {revision}, which this version does not know", "start the newer version")
    elif revision != REVISIONS[-1]:
        yield Finding(
            "database",
            "warn",
            f"{where} has revision {revision}, this version {REVISIONS[-1]}",
            "the next start migrates it; back it up before",
        )
    else:
        yield Finding("database", "ok", f"{where}, revision {revision}" + (", quick_check ok" if path is not None else ", answers"))


_DATABASE_REMEDY: Final = "stop the server, keep the files, and restore a backup: gatehouse restore FILE --data-dir NEW"


def database_path(settings: Settings, data_dir: Path) -> Path | None:
    """SQLite's file, or None for PostgreSQL."""
    url = settings.storage.url.reveal()
    return data_dir / url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None


def _rows(patient: Patient, query: str) -> list[Any]:
    """What a query answers, on a connection that cannot write."""
    assert patient.settings is not None
    path = database_path(patient.settings, patient.data_dir)
    if path is not None:
        if not path.exists():
            return []
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
    engine = engine_for(patient.settings.storage.url.reveal(), patient.data_dir)
    try:
        with engine.connect() as opened:
            return list(opened.exec_driver_sql(query))
    finally:
        engine.dispose()


def _state(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None or not shared(patient.settings.state):
        return
    state = patient.settings.state
    try:
        problem = asyncio.run(_tried(state))
    except StartError:
        # The configuration's own finding says it.
        return
    if problem:
        yield Finding("state", "bad", problem, "see to it; calls go on meanwhile, and each server goes by what it finds out itself")
    elif not encrypted(state) and not is_loopback(host_of(state)):
        yield Finding("state", "warn", f"{host_of(state)} answers, and what is said is not encrypted", "use valkeys:// in state.url")
    else:
        yield Finding("state", "ok", f"{host_of(state)} passes on what servers tell each other")


async def _tried(state: StateSettings) -> str:
    """Connect as a server would; what is wrong, or "" as soon as what is published comes back."""
    clock, spawn = SystemClock(), TaskSpawner()
    broadcast = open_broadcast(state, clock, SystemRng(), spawn)
    broadcast.listen(lambda message: None)
    deadline = clock.monotonic() + state.connect_seconds + state.answer_seconds
    while broadcast.problem and clock.monotonic() < deadline:
        await clock.sleep(0.02)
    problem = broadcast.problem
    await broadcast.close()
    await spawn.close()
    return problem


def _journals(patient: Patient) -> Iterator[Finding]:
    aside = patient.data_dir / f"journals-{ASIDE}"
    if aside.is_dir() and (count := len(list(aside.iterdir()))):
        words = f"{count} damaged journals were set aside in {aside}"
        yield Finding(
            "journals", "bad", words, "calls in them may be missing from usage; keep them, find out what damaged the disk, then remove them"
        )
    try:
        journals = asyncio.run(FileJournalShelf(patient.data_dir / "journals").survey())
    except Unavailable as error:
        yield Finding("journals", "bad", f"the journals cannot be read: {error.detail}", "run this as the user that runs the server")
        return
    dead = sum(not journal.alive for journal in journals)
    if dead and patient.server is None:
        yield Finding(
            "journals", "warn", f"of processes that ended, waiting to be booked: {dead}", "gatehouse serve books them when it starts"
        )
    elif dead:
        yield Finding("journals", "ok", f"of processes that ended, being booked: {dead}")
    else:
        yield Finding("journals", "ok", f"all of living processes: {len(journals)}" if journals else "nothing waits to be booked")


# -- what is served --------------------------------------------------------------------------------------------------------


def _engines(patient: Patient) -> Iterator[Finding]:
    models = patient.settings.models if patient.settings is not None else []
    for path in dict.fromkeys(target.path for model in models for target in model.targets if target.engine is not None):
        file = builtin_path() if path == "builtin" else Path(path or "")
        try:
            header = read_header(file)
        except ModelFileRefused as error:
            yield Finding("model file", "bad", f"{file}: {error}", "fetch the file again, or name another")
        else:
            size = f"{header.size / 1024**2:,.0f} MiB"
            yield Finding("model file", "ok", f"{file.name}: {header.architecture}, {header.context_length:,} tokens of context, {size}")


def _ports(patient: Patient) -> Iterator[Finding]:
    if patient.settings is None or patient.server is not None:
        return
    listen = patient.settings.listen
    for name, host, port in (("port", listen.host, listen.port), ("admin port", listen.admin_host, listen.admin_port)):
        problem = _taken(host, port)
        if problem:
            option = "--port" if name == "port" else "--admin-port"
            words = f"{host} port {port}: {problem}"
            yield Finding(name, "warn", words, f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another with {option}")
        else:
            yield Finding(name, "ok", f"{host} port {port} is free")


def _taken(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return "something else listens there" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    return ""


def _serving(patient: Patient) -> Iterator[Finding]:
    server = patient.server
    if server is None:
        yield Finding("server", "ok", "no server runs on this data directory")
        return
    if not server.admin_url:
        yield Finding("server", "warn", "a server holds this data directory and is not ready", "wait for it, or read its log")
        return
    try:
        said = _ready(server.admin_url)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        words = f"the server (process {server.pid}) does not answer at {server.admin_url}: {type(error).__name__}"
        yield Finding("server", "bad", words, "read its log; restart it when it stays so")
        return
    if said["status"] == "ok":
        yield Finding("server", "ok", f"serves {server.url} (process {server.pid})")
    else:
        yield Finding("server", "bad", "the server says that it cannot serve", "read its log")
    if said["version"] != gatehouse.__version__:
        words = f"the server is version {said['version']}, this command {gatehouse.__version__}"
        yield Finding("server", "warn", words, "restart the server to finish the upgrade")
    for part, problem in said.get("degraded", {}).items():
        yield Finding(str(part), "bad", str(problem), "read the server's log; /readyz tells when it is well again")


def _ready(admin_url: str) -> dict[str, Any]:
    base = urlsplit(admin_url)
    connection = http.client.HTTPConnection(base.hostname or "", base.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        said = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if not isinstance(said, dict):
        raise TypeError
    return said


def _providers(patient: Patient) -> Iterator[Finding]:
    for provider in patient.settings.providers if patient.settings is not None else []:
        if _by_proxy(provider, patient.environment):
            yield Finding(f"provider {provider.name}", "ok", "is reached through a proxy; not tried")
            continue
        where, problem = _reach(provider)
        if problem:
            remedy = "check the address, the firewall and, for TLS, ca_bundle; calls fall back to other targets meanwhile"
            yield Finding(f"provider {provider.name}", "bad", f"{where}: {problem}", remedy)
        else:
            yield Finding(f"provider {provider.name}", "ok", f"{where} takes connections")


def _by_proxy(provider: ProviderSettings, environment: Environment) -> bool:
    if provider.proxy is not None:
        return provider.proxy.reveal() != "none"
    return environment.https_proxy is not None and not (provider.base_url or "").startswith("http://")


def _reach(provider: ProviderSettings) -> tuple[str, str]:
    """Where a provider is, and why no connection (TLS included) can be made to it; "" when one can."""
    base = urlsplit(address(provider))
    port = base.port or (443 if base.scheme == "https" else 80)
    where = f"{base.hostname}:{port}"
    try:
        with socket.create_connection((base.hostname or "", port), PROBE_SECONDS) as connection:
            if base.scheme == "https":
                context = ssl.create_default_context(cafile=provider.ca_bundle)
                context.wrap_socket(connection, server_hostname=base.hostname).close()
    except ssl.SSLCertVerificationError as error:
        return where, f"its certificate is not trusted: {error.verify_message}"
    except OSError as error:
        return where, str(error.strerror or error)
    return where, ""
