"""Processes and cores: start, pin, measure from /proc, stop by process id."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[1]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KILO: Final = 1024


class Cores(msgspec.Struct, frozen=True):
    """Who runs where. On two cores everything but the measured process shares the second one."""

    measured: int
    upstream: int
    load: int
    rest: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """The first cores that we may use."""
        cores = sorted(os.sched_getaffinity(0))
        pick = [cores[min(place, len(cores) - 1)] for place in range(4)]
        return cls(*pick)


class Memory(msgspec.Struct, frozen=True):
    """Of one process, in megabytes; pss shares what several processes map."""

    rss: float
    pss: float


class NotStarted(RuntimeError):
    """A process that did not come up; the text ends with its log."""


def pin(pid: int, core: int) -> None:
    """Keep a process with all its threads on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_seconds() -> float:
    """Processor time that everything on this machine has used, and what other machines took from it."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def memory(pid: int) -> Memory:
    """What a process holds now."""
    found = {"Rss": 0, "Pss": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0])
    return Memory(found["Rss"] / _KILO, found["Pss"] / _KILO)


def load_average() -> float:
    """Over the last minute."""
    return os.getloadavg()[0]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A child on a core of its own (None: on any), with its output in a file; it runs the sources of the checkout at `root`."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        log: Path,
        core: int | None,
        *,
        environment: dict[str, str] | None = None,
        piped: bool = False,
        root: Path = ROOT,
    ) -> None:
        self.name = name
        self.log = log

        def prepare() -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        with log.open("ab") as output:
            self._child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                cwd=root,
                env=os.environ | {"PYTHONPATH": "src"} | (environment or {}),
                preexec_fn=prepare,  # noqa: PLW1509 - nothing else runs in this process yet
                start_new_session=True,
            )
        self.pid = self._child.pid

    def read_port(self) -> int:
        """The port that the child prints first (it was started `piped`)."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self.complaint("ended before it listened")
        return int(line)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll until `ready`.

        Raises:
            NotStarted: it ended, or the time is over.
        """
        until = time.monotonic() + seconds
        while not ready():
            if self._child.poll() is not None:
                raise self.complaint(f"ended with {self._child.returncode}")
            if time.monotonic() > until:
                raise self.complaint(f"was not ready in {seconds:.0f} s")
            time.sleep(0.005)

    def complaint(self, what: str) -> NotStarted:
        """An error that says what happened and shows the end of the log."""
        return NotStarted(f"{self.name} {what}\n{self.log.read_text(errors='replace')[-2000:]}")

    def children(self) -> Iterator[tuple[int, str]]:
        """Living children: process id and command line."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == self.pid and fields[0] != "Z":
                    yield int(path.parent.name), (path.parent / "cmdline").read_text().replace("\0", " ")

    def stop(self, seconds: float = 45.0) -> None:
        """End it politely, then not; with it what it started."""
        if self._child.poll() is None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._child.wait(10)
        if self._child.stdout is not None:
            self._child.stdout.close()

    def wait(self, seconds: float) -> int:
        """Its exit status, when it ends by itself."""
        return self._child.wait(seconds)
