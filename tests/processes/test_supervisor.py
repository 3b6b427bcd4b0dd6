"""Children are kept alive, told to stop, and ended when they will not."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from gatehouse.adapters.system import SystemClock
from gatehouse.processes.supervisor import Child, Launch
from gatehouse.testing.fakes import FakeClock


class Kept:
    """A child with what became of it."""

    def __init__(self, code: str, clock: SystemClock | FakeClock) -> None:
        self.launches = 0
        self.ends: list[int] = []
        self.changed = asyncio.Condition()
        self.child = Child("child", self._prepare, self._ended, clock)
        self._code = code

    def _prepare(self) -> Launch:
        self.launches += 1
        return Launch((sys.executable, "-c", self._code), {"PATH": os.defpath})

    async def _ended(self, status: int) -> None:
        async with self.changed:
            self.ends.append(status)
            self.changed.notify_all()

    async def until_ended(self, times: int) -> None:
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: len(self.ends) >= times), 20)


async def settled() -> None:
    """Let what is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_child_that_dies_is_started_again_ever_more_slowly() -> None:
    """The pause doubles while it keeps dying at once; the end status is told each time."""
    clock = FakeClock()
    kept = Kept("raise SystemExit(3)", clock)
    task = asyncio.create_task(kept.child.run())
    for times, pause in ((1, 0.2), (2, 0.4), (3, 0.8)):
        await kept.until_ended(times)
        await settled()
        clock.advance(pause * 0.9)
        await settled()
        assert kept.launches == times
        clock.advance(pause * 0.2)
        await settled()
    await kept.until_ended(4)
    assert kept.ends == [3, 3, 3, 3]
    assert kept.child.restarts >= 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_killed_child_comes_back() -> None:
    """SIGKILL from outside: told as -9, and another process takes the place."""
    kept = Kept("import time; time.sleep(60)", SystemClock())
    task = asyncio.create_task(kept.child.run())
    await asyncio.wait_for(kept.child.started.wait(), 10)
    first = kept.child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await kept.until_ended(1)
    while kept.child.pid in {None, first}:
        await asyncio.sleep(0.01)
    assert kept.ends == [-9]
    await kept.child.stop(5)
    await asyncio.wait_for(task, 10)
    assert kept.ends == [-9, -signal.SIGTERM]
    assert kept.child.pid is None


async def test_a_child_that_will_not_end_is_ended(tmp_path: Path) -> None:
    """SIGTERM first; SIGKILL when the grace is over."""
    sign = tmp_path / "ready"
    kept = Kept(
        f"import signal, time, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(sign)!r}).touch(); time.sleep(60)",
        SystemClock(),
    )
    task = asyncio.create_task(kept.child.run())
    while not sign.exists():
        await asyncio.sleep(0.01)
    await kept.child.stop(0.1)
    await asyncio.wait_for(task, 10)
    assert kept.ends == [-9]


async def test_descriptors_are_handed_over(tmp_path: Path) -> None:
    """The child has the descriptor under its number, and we have closed ours."""
    read, write = os.pipe()
    kept = Kept("", SystemClock())
    code = f"import os; os.write({write}, b'here')"
    child = Child(
        "child", lambda: Launch((sys.executable, "-c", code), {"PATH": os.defpath}, hand_over=(write,)), kept._ended, SystemClock()
    )
    task = asyncio.create_task(child.run())
    await kept.until_ended(1)
    child.stopping()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert os.read(read, 100) == b"here"
    assert os.read(read, 100) == b""
    os.close(read)
