"""The steward's view of engine hosts: one supervised process for each embedded model, started and stopped with the configuration."""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gatehouse.core.ports import Clock, Spawn
from gatehouse.processes.supervisor import Child, Launch

logger = logging.getLogger("gatehouse.steward")

LONGEST_SOCKET: Final = 100
"""Bytes of a Unix socket's path that every system takes."""
STOP_SECONDS: Final = 3.0


class EngineSpec(msgspec.Struct, frozen=True):
    """What a host is to load. `slots` and `context` 0 leave it to the engine; one that `embeds` does nothing else."""

    file: str
    slots: int = 0
    context: int = 0
    embeds: bool = False


EngineCommand = Callable[[Path, EngineSpec], Launch]
"""(socket, what to load) -> how to start a host."""


class _Host(msgspec.Struct):
    spec: EngineSpec
    socket: Path
    child: Child


class EngineHosts:
    """Keeps exactly the wanted hosts running."""

    def __init__(self, command: EngineCommand, folder: Path, clock: Clock, spawn: Spawn) -> None:
        self._command = command
        self._clock = clock
        self._spawn = spawn
        self._hosts: dict[str, _Host] = {}
        self._temporary: Path | None = None
        if len(str(folder)) > LONGEST_SOCKET - 40:
            folder = self._temporary = Path(tempfile.mkdtemp(prefix="gatehouse-"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    @property
    def sockets(self) -> dict[str, str]:
        """Where each host listens, by name."""
        return {name: str(host.socket) for name, host in self._hosts.items()}

    @property
    def pids(self) -> dict[str, int]:
        """The hosts' processes, by name."""
        return {name: host.child.pid for name, host in self._hosts.items() if host.child.pid is not None}

    def want(self, specs: Mapping[str, EngineSpec]) -> None:
        """Start what is new, stop what is not wanted any more. A host whose spec changed is another host."""
        for name in [name for name, host in self._hosts.items() if specs.get(name) != host.spec]:
            host = self._hosts.pop(name)
            host.child.stopping()
            self._spawn(host.child.stop(STOP_SECONDS), name=f"stop-engine-{name}")
        for name, spec in specs.items():
            if name not in self._hosts:
                self._hosts[name] = self._start(name, spec)

    def _start(self, name: str, spec: EngineSpec) -> _Host:
        digest = hashlib.blake2b(repr((name, spec)).encode(), digest_size=6).hexdigest()
        socket = self._folder / f"{digest}.sock"

        async def ended(status: int) -> None:
            if status:
                logger.error("the host of engine %s ended with status %d", name, status)

        child = Child(f"engine {name}", lambda: self._command(socket, spec), ended, self._clock)
        self._spawn(child.run(), name=f"supervise-engine-{name}")
        return _Host(spec, socket, child)

    async def stop(self) -> None:
        """End every host."""
        await asyncio.gather(*(host.child.stop(STOP_SECONDS) for host in self._hosts.values()))
        self._hosts.clear()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._temporary)
