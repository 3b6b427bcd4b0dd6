"""`gatehouse serve`: from options to a running server and back. Start, tell, reload, stop."""

import asyncio
import contextlib
import gc
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop
from rich.console import Console

from gatehouse.adapters.engines.gguf import ModelFileRefused, read_header
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.compose.launch import engine_command, engine_specs, worker_command
from gatehouse.compose.start import StartError, locked, read_settings, with_a_model
from gatehouse.operator_file import SettingsError
from gatehouse.processes.engine_hosts import EngineHosts
from gatehouse.processes.steward import Steward
from gatehouse.settings import Environment, ListenSettings, ModelSettings, Settings, TargetSettings

if TYPE_CHECKING:
    from gatehouse.compose.steward import StewardParts

logger = logging.getLogger("gatehouse.serve")

READY_SECONDS: Final = 30.0
ENGINE_SECONDS: Final = 20.0
"""How long the ready message waits for embedded models; a large one goes on loading behind it."""
WATCH_SECONDS: Final = 1.0
GARBAGE_AT: Final = 50_000
"""Objects made and not gone, before the collector looks for cycles: a few megabytes."""
RESTART_ONLY: Final = ("listen", "workers", "storage", "state", "secrets", "cache", "responses")
"""Settings that are read once; a reload that changes them says that a restart is needed."""


class Options(msgspec.Struct, frozen=True):
    """The command line of `serve`; None is "not said"."""

    config: Path | None = None
    host: str | None = None
    port: int | None = None
    admin_port: int | None = None
    workers: int | None = None
    data_dir: Path | None = None
    model: Path | None = None


def run(options: Options, environment: Environment) -> int:
    """Serve until a signal; the process's exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    started = time.monotonic()
    settings = effective(options)
    data_dir = (options.data_dir or environment.data_dir).absolute()
    listen = settings.listen
    with (
        locked(data_dir),
        listening(listen.host, listen.port) as data_socket,
        listening(listen.admin_host, listen.admin_port) as admin_socket,
    ):
        server = Server(options, environment, settings, data_dir, data_socket, admin_socket, started)
        # What was imported lives as long as the process, and the records of a batch hold no cycles: the collector, as it comes,
        # would walk both many times a second.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_AT, 10, 10)
        return uvloop.run(server.run())


def effective(options: Options) -> Settings:
    """The operator's file (or the built-in model alone) with what the command line overrides."""
    settings = read_settings(options.config)
    changes: dict[str, object] = {}
    listen = {
        field: value
        for field, value in (("host", options.host), ("port", options.port), ("admin_port", options.admin_port))
        if value is not None
    }
    if listen:
        for option, number in (("--port", options.port), ("--admin-port", options.admin_port)):
            if number is not None and not 0 <= number <= 65535:
                raise StartError(f"{option} must be between 0 and 65535")
        changes["listen"] = msgspec.convert({**msgspec.structs.asdict(settings.listen), **listen}, ListenSettings, from_attributes=True)
    if options.workers is not None:
        if not 1 <= options.workers <= 256:
            raise StartError("--workers must be between 1 and 256")
        changes["workers"] = options.workers
    if options.model is not None:
        changes["models"] = [*settings.models, _file_model(options.model, settings)]
    return with_a_model(msgspec.structs.replace(settings, **changes))


def _file_model(path: Path, settings: Settings) -> ModelSettings:
    if not path.is_file():
        raise StartError(f"--model {path}: {'that is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        read_header(path)
    except ModelFileRefused as error:
        raise StartError(f"--model {path}: {error}") from None
    if any(model.name == path.stem for model in settings.models):
        raise StartError(f"--model {path}: the file already defines a model named {path.stem!r}")
    return ModelSettings(name=path.stem, targets=[TargetSettings(engine="llamacpp", path=str(path.absolute()))])


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket that workers may inherit."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {host}: {error.strerror}") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(4096)
        except OSError as error:
            raise StartError(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port or --admin-port") from None
        listener.setblocking(False)
        yield listener


class Server:
    """One run of `serve`."""

    def __init__(
        self,
        options: Options,
        environment: Environment,
        settings: Settings,
        data_dir: Path,
        data_socket: socket.socket,
        admin_socket: socket.socket,
        started: float,
    ) -> None:
        self._options = options
        self._environment = environment
        self._settings = settings
        self._data_dir = data_dir
        self._data_socket = data_socket
        self._admin_socket = admin_socket
        self._started = started
        self._clock = SystemClock()
        self._rng = SystemRng()
        self._spawn = TaskSpawner()
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> int:
        """Start, serve, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        steward = Steward(self._clock, self._rng, self._spawn)
        engines = EngineHosts(engine_command(), self._data_dir / "run" / "engines", self._clock, self._spawn)
        # Engines load and workers import at once; the steward's own imports and the database come meanwhile.
        engines.want(engine_specs(self._settings))
        await steward.start(self._settings.workers, worker_command(self._data_dir), self._data_socket)
        from gatehouse.compose.steward import StewardParts

        parts: StewardParts | None = None
        try:
            parts = await StewardParts.open(
                self._settings, self._environment, self._data_dir, steward, engines, self._clock, self._rng, self._spawn
            )
            await parts.serve_admin(self._admin_socket)
            problems = await parts.configure(self._settings)
            if problems or not await steward.ready(READY_SECONDS):
                raise StartError(
                    "the server did not become ready: " + ("; ".join(f"{k}: {v}" for k, v in problems.items()) or "workers do not serve")
                )
            await parts.engines_ready(ENGINE_SECONDS)
            await self._tell(parts)
            self._spawn(self._watch(parts), name="watch-configuration")
            await self._stopping.wait()
            logger.info("stopping: running calls may take %.0f s to finish", self._settings.drain_seconds)
            return 0
        finally:
            await steward.stop(self._settings.drain_seconds)
            await engines.stop()
            if parts is not None:
                await parts.close()
            await self._spawn.close()
            with contextlib.suppress(FileNotFoundError):
                (self._data_dir / "run" / "server.json").unlink()

    # -- telling ---------------------------------------------------------------------------------------------------

    async def _tell(self, parts: "StewardParts") -> None:
        listen = self._settings.listen
        scheme = "https" if listen.tls else "http"
        url = f"{scheme}://{_address(self._data_socket)}{listen.base_path}"
        admin_url = f"http://{_address(self._admin_socket)}"
        where = self._data_dir / "run" / "server.json"
        draft = where.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode({"url": url, "admin_url": admin_url, "pid": os.getpid()}))
        draft.rename(where)
        if listen.tls is None and not _loopback(self._data_socket):
            logger.warning("serving %s without TLS: keys and prompts cross the network in the clear; set listen.tls", url)
        if not _loopback(self._admin_socket):
            logger.warning("the admin port %s is not on loopback: anybody who reaches it may try keys", admin_url)
        first_key = await parts.first_key()
        key_file = self._data_dir / "admin.key"
        seconds = time.monotonic() - self._started
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold green]Gatehouse is ready[/] after {seconds:.1f} s: {url}  (admin: {admin_url}, data: {self._data_dir})")
        if first_key is not None and sys.stderr.isatty():
            console.print(f"Administrator key, shown this once: [bold]{first_key}[/]")
        elif first_key is not None:
            console.print(f"The administrator key is in {key_file}")
        model = self._settings.models[0].name
        key_path = shlex.quote(str(key_file))
        console.print("Try:")
        console.print(
            f"  curl {url}/v1/chat/completions -H \"authorization: Bearer $(cat {key_path})\" -H 'content-type: application/json' \\",
            markup=False,
        )
        console.print(f"""    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'""", markup=False)
        console.print(f"  {_command()} usage --data-dir {shlex.quote(str(self._data_dir))}", markup=False)

    # -- reloading -------------------------------------------------------------------------------------------------

    async def _watch(self, parts: "StewardParts") -> None:
        """Reload on SIGHUP and when the file or a certificate changes."""
        seen = self._stamp()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), WATCH_SECONDS)
            stamp = self._stamp()
            if not self._reload.is_set() and stamp == seen:
                continue
            self._reload.clear()
            if stamp != seen:
                # A file that is being written is read when it has come to rest.
                await asyncio.sleep(0.1)
                if self._stamp() != stamp:
                    continue
            seen = stamp
            await self._load_again(parts)

    async def _load_again(self, parts: "StewardParts") -> None:
        try:
            wanted = await asyncio.to_thread(effective, self._options)
        except SettingsError as error:
            await parts.reload_refused(str(error))
            return
        kept = {field: getattr(self._settings, field) for field in RESTART_ONLY if getattr(self._settings, field) != getattr(wanted, field)}
        if kept:
            logger.warning("these settings need a restart to change: %s", ", ".join(kept))
            wanted = msgspec.structs.replace(wanted, **kept)
        problems = await parts.reload(self._settings, wanted)
        if not problems:
            self._settings = wanted

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        tls = self._settings.listen.tls
        paths = [self._options.config, *((Path(tls.cert), Path(tls.key)) if tls else ())]
        return tuple(_stamp_of(path) for path in paths if path is not None)


def _command() -> str:
    """How a shell finds this program: its name where that is found, else the path it was started by."""
    started = Path(sys.argv[0])
    if started.name != "gatehouse":
        return f"{shlex.quote(sys.executable)} -m gatehouse"
    found = shutil.which("gatehouse")
    return "gatehouse" if found is not None and Path(found).resolve() == started.resolve() else shlex.quote(str(started.absolute()))


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _loopback(listener: socket.socket) -> bool:
    host = str(listener.getsockname()[0])
    return host.startswith("127.") or host == "::1"
