"""The turnstile in virtual time: who is let through when, who is told to come back when, and that every slot comes back."""

import asyncio
import random
import statistics
from collections import Counter

import pytest

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Deadlines, Plan
from gatehouse.pipeline.turnstile import LINE_FACTOR
from gatehouse.testing.fakes import FakeModel
from tests.pipeline.turning import Caller, Crowd, House, target

WAITED = ("gatehouse_target_wait_seconds", ("engine/m",))


def turned_away(house: House) -> dict[str, int]:
    """How many were turned away, by reason."""
    return {
        labels[1]: count for (name, labels), count in house.tally.counts.items() if name == "gatehouse_target_turned_away_total" and count
    }


async def learn(house: House, seconds: float = 1.0) -> None:
    """Let the turnstile see how long a call takes."""
    house.call(seconds)
    await house.run_dry()


async def test_no_more_than_slots() -> None:
    """Calls beyond the slots wait and come in order; who had to wait is measured; nothing is left."""
    house = House(2)
    callers = [house.call(1.0) for _ in range(5)]
    await house.run_for(0)
    assert (house.model.running, house.waiting) == (2, 3)
    await house.run_dry()
    assert [caller.wait for caller in callers] == [0, 0, 1, 1, 2]
    assert house.model.most == 2
    assert house.tally.values[WAITED] == [1, 1, 2]
    assert house.clean()


@pytest.mark.parametrize("slots", [None, 2])
async def test_where_slots_are_not_known_nobody_waits(slots: int | None) -> None:
    """A model that does not say, and one whose provider is not among those with slots, is given what comes."""
    house = House(slots)
    if slots is not None:
        house.slotted.clear()
    callers = [house.call(1.0) for _ in range(5)]
    await house.run_dry()
    assert [caller.wait for caller in callers] == [0] * 5
    assert house.model.most == 5
    assert house.clean()


async def test_choices_take_a_slot_each() -> None:
    """n takes n slots: it waits until they are free together, and nobody slips past it meanwhile."""
    house = House(4)
    for seconds in (1.0, 1.5, 2.0, 2.0):
        house.call(seconds)
    three = house.call(1.0, key="three", n=3)
    await house.run_for(1.25)
    small = house.call(1.0, key="small", tenant="other")
    await house.run_dry()
    assert (three.wait, small.wait) == (2.0, 0.75)
    assert house.model.most == 4
    assert house.clean()


async def test_more_choices_than_slots_are_for_the_engine_to_refuse() -> None:
    """Such a call is not made to wait for what cannot come: the engine says why it will not."""
    house = House(2)
    house.call(1.0)
    await house.run_for(0)
    assert house.call(0.5, n=3).wait != 0
    await house.run_for(0.5)
    assert len(house.model.order) == 2
    await house.run_dry()
    assert house.clean()


async def test_keys_take_turns() -> None:
    """One key's backlog is not in another's way: whoever holds fewest slots is next."""
    house = House(2)
    flood = [house.call(1.0, key="flood") for _ in range(10)]
    other = [house.call(1.0, key="other") for _ in range(2)]
    await house.run_dry()
    assert [caller.wait for caller in other] == [1, 2]
    assert flood[-1].wait == 5
    assert house.clean()


async def test_tenants_take_turns_whatever_the_number_of_their_keys() -> None:
    """A hundred keys of one tenant have together what the one key of another has."""
    house = House(1)
    many = [house.call(1.0, tenant="big", key=f"k{number}") for number in range(20)]
    one = [house.call(1.0, tenant="small") for _ in range(5)]
    await house.run_dry()
    assert [caller.wait for caller in one] == [1, 3, 5, 7, 9]
    assert many[-1].wait == 24


async def test_long_calls_do_not_buy_more_of_one_slot() -> None:
    """Turns are evened out by time: calls four times as long come a quarter as often."""
    house = House(1)
    long = [house.call(4.0, key="long") for _ in range(6)]
    short = [house.call(1.0, key="short") for _ in range(24)]
    await house.run_for(24.0)
    assert sum(caller.ended > 0 for caller in long) == 3
    assert sum(caller.ended > 0 for caller in short) == 12
    await house.run_dry()
    assert house.clean()


async def test_classes_go_by_weight() -> None:
    """While all three wait, live has most of the time, batch an eighth of that, shadow a little: nobody starves."""
    house = House(4)
    for _ in range(120):
        for kind in ("shadow", "batch", "live"):
            house.call(1.0, traffic=kind)
    await house.run_for(29.5)
    through = Counter(house.callers[name].x.traffic for name in house.model.order)
    assert through["live"] > 90
    assert 8 <= through["batch"] <= 20
    assert 1 <= through["shadow"] <= 8
    await house.run_dry()
    assert house.clean()


async def test_a_class_alone_has_everything_and_live_comes_before_what_waits() -> None:
    """Batch uses every slot while nobody else asks; a live call, canary and probe too, takes the next one."""
    house = House(2)
    for _ in range(20):
        house.call(1.0, traffic="batch", key="b")
    await house.run_for(2.5)
    assert house.model.running == 2
    callers = [house.call(1.0, traffic=kind, key=kind) for kind in ("live", "canary", "probe")]
    await house.run_dry()
    assert [caller.wait for caller in callers] == [0.5, 0.5, 1.5]


async def test_who_leaves_makes_room_at_once() -> None:
    """A caller gone while waiting leaves the line; one gone while running gives its slot to the next in the same moment."""
    house = House(1)
    running, leaving, staying = house.call(10.0), house.call(1.0), house.call(1.0)
    await house.run_for(1.0)
    leaving.x.end(Outcome.CLIENT)
    await house.run_for(0.0)
    assert house.waiting == 1
    running.x.end(Outcome.CLIENT)
    await house.run_dry()
    assert staying.wait == 1.0
    assert house.model.order == ["req_0", "req_2"]
    assert house.clean()


async def test_a_caller_who_leaves_in_the_moment_of_its_turn_gives_the_slot_on() -> None:
    """The slot was granted, its task had not run yet, the client went: nothing is lost."""
    house = House(1)
    house.call(1.0)
    granted, following = house.call(1.0), house.call(1.0)
    await house.run_for(0.0)
    house.model.clock.call_later(1.0, lambda: None)
    house.callers["req_0"].x.end(Outcome.CLIENT)
    while house.waiting == 2:
        await asyncio.sleep(0)
    granted.x.end(Outcome.CLIENT)
    await house.run_dry()
    assert following.error is None
    assert following.x.outcome is Outcome.COMPLETED
    assert house.clean()


async def test_an_engine_that_is_done_has_a_free_slot_however_slowly_its_answer_is_read() -> None:
    """What the model says with `vacated` counts, not the reader."""
    house = House(1)
    slow = house.call(100.0, stream=True)
    following = house.call(1.0)
    await house.run_for(2.0)
    house.model.attempts[0].vacated()
    await house.run_for(0.5)
    assert house.model.order == ["req_0", "req_1"]
    house.model.attempts[0].vacated()
    await house.run_dry()
    assert following.wait == 2.0
    assert slow.x.outcome is Outcome.COMPLETED
    assert house.clean()


# --- deadlines and bounds ---------------------------------------------------------------------------------------------


def brief(first_byte: float = 1e6, total: float = 1e6) -> Plan:
    return Plan("m", (target(deadlines=Deadlines(first_byte=first_byte, total=total)),))


async def test_who_cannot_be_answered_in_time_is_told_at_once_and_when_to_come_back() -> None:
    """Two slots, six calls of two seconds before it: a call with seven seconds in all is refused now; after the advice it is not."""
    house = House(2)
    await learn(house, 2.0)
    for _ in range(6):
        house.call(2.0)
    await house.run_for(0.0)
    refused = house.call(2.0, plan=brief(total=7.0))
    await house.run_for(0.0)
    assert isinstance(refused.error, UpstreamFailed)
    assert (refused.error.code, refused.error.sent, refused.x.attempts) == ("upstream_overloaded", False, 0)
    assert refused.error.retry_after == 1.0
    assert turned_away(house) == {"deadline": 1}
    await house.run_for(refused.error.retry_after + 0.1)
    again = house.call(2.0, plan=brief(total=7.0))
    await house.run_dry()
    assert again.error is None
    assert again.ended - again.came == pytest.approx(6.9)
    assert house.clean()


async def test_a_stream_waits_no_longer_than_its_first_byte_may_take() -> None:
    """The first-byte deadline counts the wait: what is left of it is what the model is given."""
    house = House(1)
    await learn(house, 2.0)
    for _ in range(2):
        house.call(2.0, stream=True)
    await house.run_for(0.0)
    refused = house.call(2.0, stream=True, plan=brief(first_byte=3.0))
    taken = house.call(2.0, stream=True, plan=brief(first_byte=7.0))
    await house.run_dry()
    assert refused.error is not None
    assert refused.error.retry_after == 1.0
    assert taken.error is None
    assert house.model.attempts[-1].deadlines.first_byte == 3.0
    assert house.clean()


async def test_a_wait_that_turns_out_too_long_ends_before_the_deadline() -> None:
    """Predictions can be wrong: when calls take longer than ever before, who waits is told when its time is up, not later."""
    house = House(1)
    await learn(house, 1.0)
    house.call(100.0)
    await house.run_for(0.0)
    late = house.call(1.0, plan=brief(total=10.0))
    await house.run_for(9.0)
    assert late.error is not None
    assert (late.error.code, late.ended - late.came) == ("upstream_overloaded", 9.0)
    assert turned_away(house) == {"late": 1}
    # By now it is known that calls take long: who comes does not begin to wait.
    await house.run_for(1.0)
    at_once = house.call(1.0, plan=brief(total=10.0))
    await house.run_for(0.0)
    assert at_once.error is not None
    await house.run_dry()
    assert house.clean()


async def test_the_deadline_of_the_whole_call_holds_in_the_line() -> None:
    """A call whose time is over while it waits is ended as any other."""
    house = House(1)
    house.call(100.0)
    waiting = house.call(0.0)
    await house.run_for(1.0)
    waiting.x.end(Outcome.DEADLINE)
    await house.run_for(0.0)
    assert waiting.error is not None
    assert (waiting.error.code, house.waiting) == ("upstream_timeout", 0)
    await house.run_dry()
    assert house.clean()


async def test_the_line_is_bounded_and_makes_room_for_who_has_less_in_it() -> None:
    """A full line refuses the flood itself; a caller with fewer calls in it takes the place of the flood's newest."""
    house = House(1)
    flood = [house.call(1.0, key="flood") for _ in range(LINE_FACTOR + 2)]
    await house.run_for(0.0)
    assert house.waiting == LINE_FACTOR
    assert [caller for caller in flood if caller.error is not None] == [flood[-1]]
    other = house.call(1.0, key="other", tenant="other")
    await house.run_for(0.0)
    assert house.waiting == LINE_FACTOR
    assert flood[-2].error is not None
    assert turned_away(house) == {"full": 1, "displaced": 1}
    batch = house.call(1.0, traffic="batch")
    await house.run_dry()
    assert (other.wait, other.error, batch.error) == (1.0, None, None)
    assert house.clean()


async def test_a_fallback_is_tried_before_the_caller_is_refused() -> None:
    """A target that turns the call away costs no attempt; the next group answers."""
    spare = FakeModel(Chunk((ChoiceDelta(text="hi", finish="stop"),)))
    house = House(1, spare=spare)
    await learn(house, 5.0)
    house.call(5.0)
    house.call(5.0)
    await house.run_for(0.0)
    plan = Plan("m", brief(total=8.0).targets, ((target("spare"),),))
    caller = house.call(5.0, plan=plan)
    await house.run_for(0.0)
    assert caller.x.outcome is Outcome.COMPLETED
    assert (caller.x.attempts, len(spare.calls)) == (1, 1)
    assert not house.tally.counts["gatehouse_attempts_failed_total", ("engine/m", "upstream_overloaded")]
    await house.run_dry()
    assert house.clean()


async def test_slots_that_an_engine_gained_or_lost_count_from_the_next_call_on() -> None:
    """The model says how many there are, each time; a call that no longer fits is not stuck."""
    house = House(1)
    callers = [house.call(1.0, n=1) for _ in range(4)]
    await house.run_for(0.5)
    house.model.slots = 3
    await house.run_for(0.6)
    assert house.model.running == 3
    two = house.call(1.0, n=2)
    await house.run_for(0.0)
    house.model.slots = 1
    await house.run_dry()
    assert all(caller.error is None for caller in (*callers, two))
    assert house.clean()


# --- the flood ----------------------------------------------------------------------------------------------------------

SLOTS = 4


def mean(callers: list[Caller]) -> float:
    return statistics.fmean(caller.wait for caller in callers)


async def beside_a_flood(seed: int, users: int, *, one_key: bool = False) -> list[Caller]:
    """Three tenants call now and then (an eighth of the engine each) beside one whose `users` ask again at once, always."""
    house = House(SLOTS)
    crowd = Crowd(house, seed, lambda chance: chance.expovariate(1.0))
    others: list[Caller] = []
    names = [("flood", "flood") if one_key else (f"t{number}", f"k{number}") for number in range(3)]
    await crowd.run(
        150.0,
        *(crowd.closed("flood", "flood", number, []) for number in range(users)),
        *(crowd.open(tenant, key, 0.5, others) for tenant, key in names),
    )
    assert house.clean()
    assert house.model.most == SLOTS
    assert all(caller.error is None for caller in others)
    return others


@pytest.mark.parametrize("seed", range(3))
async def test_the_backlog_of_a_flood_is_the_floods_own(seed: int) -> None:
    """The same calls of others, beside a tenant that keeps the engine busy with one call waiting, and beside its backlog of a hundred.

    Others' mean wait is at most 1.5 times as long. Had they to stand in one line with it, it would be more than ten times.
    """
    without = mean(await beside_a_flood(seed, SLOTS + 1))
    assert mean(await beside_a_flood(seed, 100)) <= 1.5 * without
    if seed == 0:
        assert mean(await beside_a_flood(seed, 60, one_key=True)) > 10 * without


async def among_equals(seed: int, users: int, keys: int) -> list[Caller]:
    """Three tenants of six busy users each, and a fourth with `users` users over `keys` keys."""
    house = House(SLOTS)
    crowd = Crowd(house, seed, lambda chance: chance.uniform(0.5, 1.5))
    others: list[Caller] = []
    await crowd.run(
        100.0,
        *(crowd.closed("flood", f"k{number % keys}", number, []) for number in range(users)),
        *(crowd.closed(f"t{tenant}", "k", number, others) for tenant in range(3) for number in range(6)),
    )
    assert house.clean()
    return others


@pytest.mark.parametrize("keys", [1, 30])
async def test_a_flood_has_no_more_than_a_tenant_like_the_others(keys: int) -> None:
    """Ninety users in place of six, over one key or thirty: the others wait at most 1.5 times as long as before."""
    assert mean(await among_equals(7, 90, keys)) <= 1.5 * mean(await among_equals(7, 6, 1))


@pytest.mark.parametrize("seed", range(3))
async def test_predictions_hold(seed: int) -> None:
    """Among many callers with twelve seconds each, far too many, nearly all who were let into the line were answered in time.

    Not all: nobody knows who will come and have a better claim.
    """
    house = House(SLOTS)
    chance = random.Random(seed)
    await learn(house)
    plan = brief(total=12.0)
    callers = []
    for _ in range(600):
        tenant = chance.choice("abbcccc")
        callers.append(house.call(chance.uniform(0.5, 1.5), tenant=tenant, key=chance.choice("xyz"), plan=plan))
        await house.run_for(chance.expovariate(6.0))
    await house.run_dry()
    away = turned_away(house)
    served = sum(caller.error is None for caller in callers)
    # The engine can do four a second and was busy all the time: who was refused was refused rightly.
    assert served >= 350
    assert away["deadline"] >= 100
    assert away.get("late", 0) + sum(caller.x.outcome is Outcome.DEADLINE for caller in callers) <= 0.15 * served
    assert house.clean()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_slots_come_back(seed: int) -> None:
    """Calls of every kind that come, wait, stream, fail and leave at random: never more than the slots, and in the end nothing is held."""
    house = House(3)
    chance = random.Random(seed)
    for _ in range(250):
        caller = house.call(
            chance.choice([0.0, 0.1, 1.0, 3.0]),
            key=chance.choice("xyz"),
            tenant=chance.choice("ab"),
            traffic=chance.choice(["live", "live", "batch", "shadow"]),
            n=chance.choice([1, 1, 2, 3, 4]),
            stream=chance.random() < 0.5,
            plan=brief(chance.choice([2.0, 1e6]), chance.choice([5.0, 1e6])),
        )
        if chance.random() < 0.3:
            house.clock.call_later(chance.uniform(0.0, 5.0), caller.x.end, Outcome.CLIENT)
        if chance.random() < 0.1:
            house.model.slots = chance.choice([3, 4, 5])
        await house.run_for(chance.expovariate(2.0))
    await house.run_dry()
    assert all(caller.task.done() for caller in house.callers.values())
    assert house.clean()
