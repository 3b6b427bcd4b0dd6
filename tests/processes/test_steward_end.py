"""The steward's end: the books are closed once, and nothing comes after that."""

import asyncio
from typing import Any

from gatehouse.adapters.state.memory_broadcast import MemoryBroadcast
from gatehouse.control.replays import Replays
from gatehouse.processes.steward import DRAIN_SECONDS, SWEEP_SECONDS, Parts, Steward
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeSpawn


class Desk:
    """Notes what the steward has done, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def drain_now(self) -> int:
        self.log.append("drain")
        return 0

    async def checkpoint(self) -> None:
        self.log.append("checkpoint")

    async def sweep(self) -> None:
        self.log.append("sweep")


async def test_nothing_repeats_after_the_end() -> None:
    """The last drain and its checkpoint are the last: the database is closed next, and what came later would find it so."""
    clock, desk, spawn = FakeClock(), Desk(), FakeSpawn()
    steward = Steward(clock, FakeRng(), spawn)
    absent: Any = None
    steward.equip(
        Parts(
            office=absent,
            books=desk,
            find_key=absent,
            find_plan=absent,
            checkpoint=desk.checkpoint,
            take_metrics=absent,
            metrics_ended=absent,
            register=absent,
            responses=absent,
            sweep=desk.sweep,
            target_alarm=absent,
            replays=Replays(clock, 600, 1000),
            broadcast=MemoryBroadcast(),
        )
    )
    await asyncio.sleep(0)
    clock.advance(DRAIN_SECONDS)
    await _settled()
    assert desk.log == ["drain"]
    await steward.stop(0.0)
    assert desk.log == ["drain", "drain", "checkpoint"]
    clock.advance(DRAIN_SECONDS + SWEEP_SECONDS)
    await _settled()
    assert desk.log == ["drain", "drain", "checkpoint"]
    assert not steward.problems


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
