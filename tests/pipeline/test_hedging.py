"""Hedged requests in virtual time: when a second target is asked, who wins, what the loser costs, and what is never spent."""

import asyncio

import pytest

from gatehouse.core.errors import GatehouseError, UpstreamFailed
from gatehouse.core.events import Event, Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Hedge, Plan
from gatehouse.core.ports import Attempt, Clock
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.hedging import ENOUGH, Hedging
from gatehouse.testing.fakes import FakeModel, settle_loop
from tests.pipeline.dispatching import PRICE, ROLE, USAGE, Answering, Bench, failed, piece, target

HALF = Hedge(after=1.0, share=0.5)


class Paced:
    """Begins after `seconds`; then `script`. `cut` counts attempts that were cancelled, `model.open` streams nobody closed."""

    def __init__(self, clock: Clock, seconds: float, *script: Event | GatehouseError, sent: bool = True) -> None:
        self.clock = clock
        self.seconds = seconds
        self.model = FakeModel(*(script or (ROLE, piece("Hi"), USAGE)))
        self.sent = sent
        self.asked = 0
        self.cut = 0

    async def __call__(self, attempt: Attempt) -> Events:
        self.asked += 1
        attempt.sent = self.sent
        try:
            await self.clock.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        if self.model.script and isinstance(self.model.script[0], UpstreamFailed):
            raise self.model.script[0]
        return self.model.play()


class Track:
    """Two targets and one hedged route over them."""

    def __init__(self, hedge: Hedge = HALF, **fields: object) -> None:
        self.bench = Bench()
        self.a = Paced(self.bench.clock, 0.1)
        self.b = Paced(self.bench.clock, 0.1)
        models = Bench(a=Answering(self._ask_a), b=Answering(self._ask_b)).models
        for name, model in models.items():
            model.log = self.bench.log
            self.bench.models[name] = model
        # a is always drawn first.
        self.plan = Plan("m", (target("a", weight=1), target("b", weight=0)), hedge=hedge, **fields)  # type: ignore[arg-type]

    async def _ask_a(self, attempt: Attempt) -> Events:
        return await self.a(attempt)

    async def _ask_b(self, attempt: Attempt) -> Events:
        return await self.b(attempt)

    async def call(self, seconds: float = 100.0) -> Exchange:
        """Carry one call to its end."""
        x = self.bench.exchange(self.plan)
        task = asyncio.ensure_future(self.bench.carry(x))
        await settle_loop()
        while not task.done() and seconds > 0:
            await self.bench.clock.run_for(0.1)
            seconds -= 0.1
        await task
        return x

    async def warm(self) -> None:
        """Calls that make room in the share."""
        for _ in range(4):
            await self.call()
        self.a.asked = self.b.asked = 0
        self.bench.log.clear()

    def clean(self) -> bool:
        """Whether nothing is left of any call."""
        return self.bench.clean() and not self.bench.spawn.tasks and not self.a.model.open and not self.b.model.open


async def test_a_quick_answer_is_not_hedged() -> None:
    """Before the time is over nobody else is asked."""
    track = Track()
    await track.warm()
    x = await track.call()
    assert (track.b.asked, x.attempts, x.target) == (0, 1, target("a"))
    assert track.clean()


async def test_the_second_wins_when_it_begins_first() -> None:
    """The first is cancelled in the same moment, in the journal under its own number, and its prompt is paid at its own price."""
    track = Track()
    await track.warm()
    track.a.seconds = 50.0
    x = await track.call()
    assert (track.a.cut, track.b.asked) == (1, 1)
    assert x.target == target("b", weight=0)
    assert (x.attempts, x.attempt, x.opened) == (2, 2, True)
    assert track.bench.log == ["opened a/m", "asked a", "opened b/m", "asked b", "overtaken a/m 6 6"]
    assert x.lost is not None
    assert (x.lost.usage, x.lost.charge) == (Usage(input=6), 6)
    assert (x.usage, x.charge) == (Usage(input=13, output=2), 27 + 6)
    assert x.headers["x-gatehouse-attempts"] == "2"
    assert 1.0 <= x.first_event <= 1.3
    assert track.bench.tally.counts["gatehouse_hedges_total", ("m", "won")] == 1
    assert track.clean()


async def test_the_first_wins_when_it_begins_after_all() -> None:
    """The record of the call is that of attempt one again; the second is the one that was overtaken."""
    track = Track()
    await track.warm()
    track.a.seconds, track.b.seconds = 1.5, 50.0
    x = await track.call()
    assert (track.a.cut, track.b.cut) == (0, 1)
    assert (x.attempt, x.attempts, x.target) == (1, 2, target("a"))
    assert track.bench.log[-1] == "overtaken b/m 6 6"
    assert track.bench.tally.counts["gatehouse_hedges_total", ("m", "lost")] == 1
    assert track.clean()


async def test_a_loser_to_which_nothing_was_sent_costs_nothing() -> None:
    """It waited for a connection: a row, and no charge."""
    track = Track()
    await track.warm()
    track.a.seconds, track.a.sent = 50.0, False
    x = await track.call()
    assert track.bench.log[-1] == "overtaken a/m 0 0"
    assert x.charge == 27


async def test_both_at_once_is_one_answer() -> None:
    """When both begin in the same moment one answers and the other's stream is closed."""
    track = Track()
    await track.warm()
    track.a.seconds, track.b.seconds = 2.0, 1.0
    x = await track.call()
    assert x.outcome is Outcome.COMPLETED
    assert len([line for line in track.bench.log if line.startswith("overtaken")]) == 1
    assert track.clean()


async def test_one_fails_while_the_other_runs() -> None:
    """The failure of the first is written and counted, and the second answers; and the other way round."""
    for first in (True, False):
        track = Track()
        await track.warm()
        if first:
            track.a, track.b = Paced(track.bench.clock, 2.0, failed("upstream_timeout")), Paced(track.bench.clock, 3.0)
        else:
            track.a, track.b = Paced(track.bench.clock, 5.0), Paced(track.bench.clock, 1.0, failed("upstream_timeout"))
        x = await track.call()
        assert x.outcome is Outcome.COMPLETED
        assert x.target == (target("b", weight=0) if first else target("a"))
        assert x.attempt == (2 if first else 1)
        assert [line for line in track.bench.log if line.startswith(("failed", "over"))] == ["failed upstream_timeout"]
        assert track.bench.tally.counts["gatehouse_attempts_failed_total", ("a/m" if first else "b/m", "upstream_timeout")] == 1
        assert track.clean()


async def test_both_fail() -> None:
    """The last failure is told, its attempt is left for Record, the other's is closed; then a fallback would be next."""
    track = Track()
    await track.warm()
    track.a = Paced(track.bench.clock, 3.0, failed("upstream_timeout"))
    track.b = Paced(track.bench.clock, 1.0, failed("upstream_invalid"))
    with pytest.raises(UpstreamFailed) as caught:
        await track.call()
    assert caught.value.code == "upstream_timeout"
    assert track.bench.log == ["opened a/m", "asked a", "opened b/m", "asked b", "failed upstream_invalid"]
    assert track.clean()


async def test_a_request_at_fault_ends_the_race() -> None:
    """What one target refuses as the caller's fault the other need not answer."""
    track = Track()
    await track.warm()
    track.a = Paced(track.bench.clock, 50.0)
    track.b = Paced(track.bench.clock, 1.0, failed("upstream_rejected", caller_fault=True))
    with pytest.raises(UpstreamFailed) as caught:
        await track.call()
    assert caught.value.caller_fault
    assert track.a.cut == 1
    assert track.clean()


async def test_no_more_than_the_share_is_hedged() -> None:
    """A tenth of a hundred slow calls: ten are hedged, ninety wait."""
    track = Track(Hedge(after=1.0, share=0.1))
    track.a.seconds = 3.0
    for _ in range(100):
        await track.call()
    assert 8 <= track.b.asked <= 10
    assert track.clean()


async def test_without_money_for_two_there_is_no_second() -> None:
    """What cannot be held is not spent."""
    track = Track()
    await track.warm()
    track.bench.money = False
    track.a.seconds = 5.0
    x = await track.call()
    assert (track.b.asked, x.attempts) == (0, 1)


async def test_a_target_with_something_against_it_is_no_second() -> None:
    """Nobody is hedged with a target that failed lately."""
    track = Track()
    await track.warm()
    track.bench.health.failed(target("b"), failed("upstream_timeout"), probe=False)
    track.a.seconds = 5.0
    await track.call()
    assert track.b.asked == 0


async def test_the_quantile_waits_as_long_as_most_calls_do() -> None:
    """Nothing before enough was seen; then what 90 % of the calls did not need."""
    hedging = Hedging()
    plan = Plan("m", (target("a"), target("b")), hedge=Hedge(quantile=0.9))
    for number in range(ENOUGH):
        assert hedging.after(plan) is None
        hedging.began(plan, number / 10)
    assert hedging.after(plan) == pytest.approx(0.9 * ENOUGH / 10)
    for _ in range(1000):
        hedging.began(plan, 5.0)
    assert hedging.after(plan) == 5.0, "and what was long ago does not count"


@pytest.mark.parametrize("when", [0.05, 0.5, 1.05, 2.0])
async def test_a_caller_who_leaves_takes_both_with_it(when: float) -> None:
    """Before or in the race: both attempts are cancelled, nothing runs on, what was read is paid once for each."""
    track = Track()
    await track.warm()
    track.a.seconds = track.b.seconds = 50.0
    x = track.bench.exchange(track.plan)
    call = asyncio.ensure_future(track.bench.carry(x))
    await settle_loop()
    await track.bench.clock.run_for(when)
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await call
    raced = when > 1
    assert track.a.cut == 1
    assert track.b.cut == (1 if raced else 0)
    assert (x.charge, x.usage.input) == ((12, 12) if raced else (6, 6))
    assert (x.attempt, x.target) == (1, target("a"))
    assert track.clean()


async def test_hedging_off_starts_no_task() -> None:
    """Off unless the route asks for it."""
    track = Track()
    track.plan = Plan("m", (target("a"), target("b")))
    track.a.seconds = track.b.seconds = 5.0
    await track.call()
    assert track.a.asked + track.b.asked == 1


async def test_a_failed_first_attempt_is_failed_over_before_the_time() -> None:
    """A race of one that fails is an ordinary failure: the next target is asked at once, out of the budget."""
    track = Track()
    track.a = Paced(track.bench.clock, 0.1, failed("upstream_unreachable"))
    x = await track.call()
    assert x.outcome is Outcome.COMPLETED
    assert (x.attempts, x.lost) == (2, None)
    assert track.bench.log == ["opened a/m", "asked a", "failed upstream_unreachable", "opened b/m", "asked b"]
    assert PRICE.charge(Usage(input=7, output=2)) == x.charge
