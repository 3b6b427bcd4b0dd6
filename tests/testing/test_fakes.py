"""The fakes keep their ports' promises: other tests stand on them."""

import asyncio

import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Chunk
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Clock, Journal, KeyDirectory, Model, Rng, Spawn, Tally
from gatehouse.testing.fakes import NOON, FakeClock, FakeJournal, FakeKeys, FakeModel, FakeRng, FakeSpawn, FakeTally, settle_loop

TARGET = Target("lab/a", "lab", "a")


class Attempt:
    request_id = "r"
    tenant = "default"
    deadlines = Deadlines()
    sent = False
    traceparent = ""

    def vacated(self) -> None:
        """Nobody waits."""


def ports() -> tuple[Clock, Rng, Spawn, Tally, Journal, KeyDirectory, Model]:
    """Type-checked: each fake is its port."""
    return FakeClock(), FakeRng(), FakeSpawn(), FakeTally(), FakeJournal(), FakeKeys(), FakeModel()


def test_timers_fire_in_order_at_their_own_moment() -> None:
    """Callbacks see the time they were due, whatever the size of the step; a cancelled one and a later one stay silent."""
    clock = FakeClock()
    fired: list[tuple[str, float]] = []

    def note(name: str) -> None:
        fired.append((name, clock.now() - NOON))

    clock.call_later(2, note, "b")
    clock.call_later(1, note, "a")
    clock.call_later(1.5, note, "never").cancel()
    clock.call_later(9, note, "later")
    clock.advance(5)
    assert fired == [("a", 1.0), ("b", 2.0)]
    assert (clock.now(), clock.pending, clock.next_due()) == (NOON + 5, 1, clock.monotonic() + 4)


def test_a_timer_set_by_a_timer_fires_in_the_same_step() -> None:
    """A callback that re-arms itself runs at each of its moments within one advance."""
    clock = FakeClock()
    moments: list[float] = []

    def again() -> None:
        moments.append(clock.now() - NOON)
        clock.call_later(1, again)

    clock.call_later(1, again)
    clock.advance(3.5)
    assert moments == [1, 2, 3]


async def test_sleepers_run_at_their_own_time() -> None:
    """run_for lets a task that sleeps in a loop see every moment."""
    clock = FakeClock()
    seen: list[float] = []

    async def work() -> None:
        for _ in range(3):
            await clock.sleep(1)
            seen.append(clock.now() - NOON)

    task = asyncio.ensure_future(work())
    await clock.run_for(10)
    await task
    assert seen == [1, 2, 3]


async def test_a_cancelled_sleeper_leaves_no_timer() -> None:
    """Nothing stays behind in the clock."""
    clock = FakeClock()
    task = asyncio.ensure_future(clock.sleep(5))
    await settle_loop()
    task.cancel()
    await settle_loop()
    assert (task.cancelled(), clock.pending) == (True, 0)


def test_a_jump_moves_only_the_wall_clock() -> None:
    """Durations do not notice when somebody sets the time."""
    clock = FakeClock()
    before = clock.monotonic()
    clock.jump(-3600)
    assert (clock.now(), clock.monotonic()) == (NOON - 3600, before)


def test_chance_repeats() -> None:
    """The same seed says the same."""
    one, two = FakeRng(7), FakeRng(7)
    assert (one.random(), one.token(8)) == (two.random(), two.token(8))


async def test_a_model_counts_streams_that_nobody_closed() -> None:
    """A stream that was opened and never iterated still counts as open until it is closed."""
    model = FakeModel(Chunk(), UpstreamFailed("died", code="upstream_broken"))
    call = Call(model="a")
    idle = await model.answer(call, TARGET, Attempt())
    assert model.open == 1
    await idle.aclose()
    broken = await model.answer(call, TARGET, Attempt())
    assert await anext(broken) == Chunk()
    with pytest.raises(UpstreamFailed):
        await anext(broken)
    assert (model.open, len(model.calls)) == (0, 2)
