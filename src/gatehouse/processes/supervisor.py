"""Children that are kept alive: started, watched, restarted with back-off, and stopped without being forgotten."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from gatehouse.core.ports import Clock

logger = logging.getLogger("gatehouse.processes")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
STABLE_SECONDS: Final = 30.0


class Launch(msgspec.Struct, frozen=True):
    """How to start a child: its command line, its whole environment, and descriptors it inherits (closed here after the start)."""

    command: tuple[str, ...]
    environment: dict[str, str]
    keep: tuple[int, ...] = ()
    """Descriptors inherited but not ours to close."""
    hand_over: tuple[int, ...] = ()
    """Descriptors inherited and closed here once the child has them."""


class Child:
    """One supervised process. `prepare` is asked before every start, `ended` told after every end (with the exit status)."""

    def __init__(self, name: str, prepare: Callable[[], Launch], ended: Callable[[int], Awaitable[None]], clock: Clock) -> None:
        self.name = name
        self._prepare = prepare
        self._ended = ended
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.started = asyncio.Event()
        """Set when the first process exists."""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the child running until `stop`. A child that dies at once is started again ever more slowly."""
        pause = FIRST_PAUSE
        while True:
            started = self._clock.monotonic()
            status = await self._live()
            await self._ended(status)
            if self._stopping:
                return
            pause = FIRST_PAUSE if self._clock.monotonic() - started > STABLE_SECONDS else min(pause * 2, LONGEST_PAUSE)
            self.restarts += 1
            logger.warning("%s ended with status %d; starting it again in %.1f s", self.name, status, pause)
            await self._clock.sleep(pause)

    async def _live(self) -> int:
        launch = self._prepare()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *launch.command,
                env=launch.environment,
                pass_fds=launch.keep + launch.hand_over,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=False,
            )
            self.started.set()
        finally:
            for descriptor in launch.hand_over:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        try:
            return await self._process.wait()
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            raise

    def stopping(self) -> None:
        """From now on the end of the child is the end of it."""
        self._stopping = True

    async def stop(self, grace: float) -> None:
        """Ask the child to end, and after `grace` seconds end it."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        waiting = asyncio.ensure_future(process.wait())
        done, _ = await asyncio.wait({waiting}, timeout=grace)
        if not done:
            logger.warning("%s did not end within %.0f s; ending it", self.name, grace)
            self._signal(signal.SIGKILL)
            await waiting

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
