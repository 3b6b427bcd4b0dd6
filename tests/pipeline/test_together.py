"""What many calls of a turn are let pass, held for and settled with in one is what each of them would be by itself."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.core.calls import Call, Message, Tool
from gatehouse.core.errors import Blocked, GatehouseError, Internal, LimitExceeded
from gatehouse.core.events import Answer, Choice, Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.limits import NO_HOLDS, Budget, Limits
from gatehouse.core.money import Money, parse_usd
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import CachePolicy, Plan, Target
from gatehouse.core.single import Single
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.bookkeeping import Commitments
from gatehouse.pipeline.counting import OVER_HOLD
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.route import Route, RouteTable
from gatehouse.testing.fakes import FakeClock
from tests.pipeline import test_limit
from tests.pipeline.laning import Clearing, Lane, Prompt, exchange, only, refuse, whole
from tests.pipeline.laning import Target as LastStage
from tests.pipeline.test_lease_book import World as Leases
from tests.pipeline.test_lease_book import held, meters
from tests.pipeline.test_limit import HI, PLAN, World, key, told

# --- the runner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [True, False], ids=["turns", "no turns"])
async def test_who_is_not_cleared_is_asked_alone(turn: bool) -> None:
    """What a stage clears is not asked again; what it leaves passes, waits or is refused by itself, and the others go on."""
    log: list[str] = []
    calls = {name: exchange(name) for name in ("cleared", "left", "refused", "waits", "fine")}
    target = LastStage(log, lambda x: whole())
    stage = Clearing(
        "a",
        log,
        only(calls["refused"], refuse(Blocked("no"))),
        passes=lambda x: x.request_id in {"cleared", "fine"},
        wait=lambda x: x.request_id == "waits",
    )
    it = Lane(log, stage, Prompt("b", log), target, turn=turn)
    asking = dict(zip(calls, it.down(*calls.values()), strict=True))
    for name in ("cleared", "left", "fine"):
        target.come(calls[name], whole())
    it.end_turn()
    assert await asking["waits"].carried() is None
    for name in ("cleared", "left", "fine"):
        x = calls[name]
        assert it.of(x)[:4] == ["admit a", "admit b", "start target", "started target"]
        assert (x.outcome, x.entered, len(x.marks), asking[name].told) == (Outcome.COMPLETED, 3, 3, [None])
    refused = calls["refused"]
    assert (refused.outcome, refused.entered, len(refused.marks)) == (Outcome.REFUSED, 1, 0)
    assert [line.split()[-1] for line in it.of(refused) if line.startswith("settle")] == ["a"]
    assert len(calls["waits"].marks) == 3
    assert it.nothing_left()


async def test_times_of_a_turn_are_each_calls_own() -> None:
    """Calls that go together have the same times, in lists of their own: what comes later to one is not the other's."""
    log: list[str] = []
    target = LastStage(log)
    it, x, y = Lane(log, Clearing("a", log), target), exchange("x"), exchange("y")
    it.down(x, y)
    assert x.marks == y.marks
    target.come(x, whole())
    it.end_turn()
    assert (len(x.marks), len(y.marks)) == (2, 1)


@pytest.mark.parametrize("what", ["clear", "clear_answers", "settle_all"])
async def test_a_stage_that_fails_over_several_calls(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its promise was not to. Each call is then asked for by itself, and no other stage is spared; somebody is told."""
    log: list[str] = []

    class Broken(Clearing):
        def watch(self, x: Exchange, events: Events) -> Events:
            self.note(x, "watch")
            return events

        def clear_answers(self, answers: Sequence[tuple[Exchange, Answer]]) -> Sequence[tuple[Exchange, Answer]]:
            return answers

    stage = Broken("a", log)
    setattr(stage, what, lambda calls: 1 // 0)
    target = LastStage(log)
    it, x, y = Lane(log, stage, Prompt("b", log), target), exchange("x"), exchange("y")
    asking = it.down(x, y)
    target.come(x, whole())
    target.come(y, whole())
    it.end_turn()
    for call, asker in zip((x, y), asking, strict=True):
        assert it.of(call)[:2] == ["admit a", "admit b"]
        assert it.of(call).count("watch a") == 1
        settled = [line.split()[-1] for line in it.of(call) if line.startswith("settle")]
        assert settled == (["target", "b"] if what == "settle_all" else ["target", "b", "a"])
        assert asker.told == [None]
    assert "failed over" in caplog.text
    assert it.nothing_left()


# --- who may, and where to ---------------------------------------------------------------------------------------------

FREE = Price("free", 0, 0, 0, 0, 0, 0, 0)
ROLES = [frozenset({Role.DEVELOPER}), frozenset({Role.VIEWER}), frozenset({Role.ADMIN}), frozenset({Role.ADMIN, Role.DEVELOPER})]
GRANTS = [None, frozenset[str](), frozenset({"m"}), frozenset({"a*"}), frozenset({"m", "other"})]
known = st.builds(lambda roles, models: Principal("k", "k", roles, models=models), st.sampled_from(ROLES), st.sampled_from(GRANTS))
principals = st.one_of(st.none(), known)
WISHES: list[dict[str, Any]] = [
    {},
    {"seed": 1},
    {"n": 2},
    {"extra": {"x": 1}},
    {"tools": (Tool("f"),)},
    {"operation": "embedding", "inputs": ("a",)},
]
calls = st.builds(
    lambda model, more: Call(model=model, messages=(Message("user", "hi"),), **more),
    st.sampled_from(["m", "alias", "other", "nothing", "odd"]),
    st.sampled_from(WISHES),
)


def asking(principal: Principal | None, call: Call) -> Exchange:
    x = Exchange("r", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.principal, x.call = principal, call
    return x


def alone(stage: Any, x: Exchange) -> tuple[Any, ...]:
    """What the stage does with one call."""
    try:
        passed = stage.at_once(x)
    except GatehouseError as error:
        return (type(error), error.code)
    return (passed, x.plan, x.call)


@given(st.lists(st.tuples(principals, calls), min_size=1, max_size=6))
def test_identity_decides_together_as_alone(asked: list[tuple[Principal | None, Call]]) -> None:
    """Whom Authorise clears it lets pass alone."""
    stage = Authorise({"alias": "m"}.get)  # type: ignore[arg-type]
    together = [asking(*each) for each in asked]
    left = stage.clear(together)
    for x, each in zip(together, asked, strict=True):
        if x not in left:
            assert alone(stage, asking(*each))[0] is True


TARGETS = (Target("p/a", "p", "a", price=FREE), Target("p/b", "p", "b", price=FREE, capabilities=frozenset()))
TABLE = RouteTable(
    (
        Plan("m", TARGETS[:1]),
        Plan("other", TARGETS, extra_fields=frozenset({"x"})),
        Plan("odd", (Target("p/c", "p", "c", price=None),), fallbacks=(TARGETS[:1],)),
    )
)


@given(st.lists(calls, min_size=1, max_size=6))
def test_the_way_is_the_same_together_as_alone(asked: list[Call]) -> None:
    """Whom Route clears has the very plan that it has alone."""
    stage = Route(TABLE)
    together = [asking(None, call) for call in asked]
    left = stage.clear(together)
    for x, call in zip(together, asked, strict=True):
        if x in left:
            assert x.plan is None
        else:
            passed, plan, kept = alone(stage, asking(None, call))
            assert (passed, kept) == (True, call)
            assert x.plan is plan


# --- holds -------------------------------------------------------------------------------------------------------------


world = test_limit.world
"""As there: it ends with no task running and none failed."""


@pytest.mark.parametrize("seed", range(30))
async def test_books_are_the_same_together_as_one_by_one(seed: int) -> None:
    """Holds that were taken and settled in one leave what the same holds leave that were taken and settled one after the other."""
    chance = random.Random(seed)
    live = []
    needs = [(1, chance.randrange(1, 500), 1, chance.randrange(0, 900)) for _ in range(chance.randrange(1, 9))]
    used = [(chance.randrange(0, tokens + 1), chance.randrange(0, money + 1)) for _, tokens, _, money in needs]
    over = chance.random() < 0.5
    for together in (False, True):
        leases = Leases()
        book, _ = leases.worker()
        account = book.open(meters())
        book.settle(await held(book, account, 100, 10**6, 100, 10**6), 0, 0)  # so much is here
        if together:
            taken = book.take_each(account, needs)
            assert taken is not None
            assert [each.amounts for each in taken] == needs
            if over:
                leases.clock.advance(61.0)  # the window is over before they are
                book.tick()
            book.settle_each([(holds, *spent) for holds, spent in zip(taken, used, strict=True)])
        else:
            alone = [book.take(account, need) for need in needs]
            if over:
                leases.clock.advance(61.0)
                book.tick()
            for holds, spent in zip(alone, used, strict=True):
                assert holds is not None
                book.settle(holds, *spent)
        book.shut()
        live.append(leases.live())
        await leases.spawn.close()
    assert live[0] == live[1]
    assert live[0]["money"] == sum(money for _, money in used)
    assert live[0]["slots"] == 0


async def test_all_or_none_is_taken() -> None:
    """Where the calls of an account need more than is here together, nothing is taken for any."""
    leases = Leases()
    book, _ = leases.worker()
    account = book.open(meters(slots=10, money=100))
    book.settle(await held(book, account, 1, 10, 10, 100), 0, 0)
    before = [(pool.balance, pool.taken) for pool in account.pools]
    assert book.take_each(account, [(1, 1, 1, 60), (1, 1, 1, 60)]) is None
    assert [(pool.balance, pool.taken) for pool in account.pools] == before
    await leases.spawn.close()


async def test_the_calls_of_several_callers(world: World) -> None:
    """Each caller's calls are held for in one; a caller without limits holds nothing; what is not at hand is left, untouched."""
    bounds = Limits(100, 10**6, 50, Budget(parse_usd("1"), "total"))
    one, two, free = key(bounds, "k1"), key(bounds, "k2"), key(Limits(), "k3")
    for who in (one, two):
        world.limit.settle(await world.admit(bounds, principal=who))
    unknown = key(bounds, "k4")
    turn = [world.exchange(bounds, HI, PLAN, who) for who in (one, two, free, one, unknown)]
    left = world.limit.clear(turn)
    assert left == [turn[4]]
    assert [bool(x.holds) for x in turn] == [True, True, False, True, False]
    assert turn[0].holds == turn[3].holds
    assert turn[0].money_holds[0].amount == turn[0].ceiling > 0
    assert told(turn[0])["x-ratelimit-limit-requests"] == "100"
    for x in turn[:4]:
        x.usage, x.charge = Usage(3, output=4), Money(5)
    world.limit.settle_all(turn[:4])
    assert all(x.holds == NO_HOLDS for x in turn)
    live = world.left()
    assert {name: live[name] for name in live if "money" in name} == {"key:k1:money:total:all": 10, "key:k2:money:total:all": 5}


async def test_one_that_cannot_be_held_for_does_not_hold_up_the_others(world: World) -> None:
    """Two calls need more than the budget has together: each is asked for alone, the first passes and the second is refused."""
    x = world.exchange(Limits(), HI, PLAN, None)
    world.limit.at_once(x)
    bounds = Limits(budget=Budget(Money(x.ceiling + x.ceiling // 2), "total"))
    who = key(bounds, "k1")
    world.limit.settle(await world.admit(bounds, principal=who))
    turn = [world.exchange(bounds, HI, PLAN, who) for _ in range(2)]
    assert list(world.limit.clear(turn)) == turn
    await world.limit.admit(turn[0])
    with pytest.raises(LimitExceeded):
        await world.limit.admit(turn[1])


async def test_what_was_used_above_a_hold_is_booked_alone(world: World) -> None:
    """Such a call is settled by itself: what others did not use does not cover it up."""
    bounds = Limits(budget=Budget(parse_usd("1"), "total"))
    who = key(bounds, "k1")
    world.limit.settle(await world.admit(bounds, principal=who))
    turn = [world.exchange(bounds, HI, PLAN, who) for _ in range(2)]
    assert not world.limit.clear(turn)
    turn[0].charge = Money(turn[0].ceiling + 7)
    turn[0].flag(OVER_HOLD)
    spent = turn[0].ceiling + 7
    world.limit.settle_all(turn)
    assert world.left()["key:k1:money:total:all"] == spent


# --- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_kept_together_as_alone() -> None:
    """Cache takes note of each answer that it is shown, whichever way, and lets all of them pass."""
    clock = FakeClock()
    kept = []
    for together in (False, True):
        store = MemoryCache(clock)
        cache = Cache(store, Commitments(b"k" * 32).of_encoded, longest_answer=100)
        turn = [asking(Principal("k", "k", ROLES[0]), Call(model="m", messages=(Message("user", text),))) for text in ("a", "b", "c")]
        answers = [Answer((Choice(text=text),), raw=text.encode()) for text in ("short", "x" * 500, "other")]
        for x in turn:
            x.plan = Plan("m", TARGETS[:1], cache=CachePolicy("key", 60))
            assert cache.at_once(x)
            x.outcome = Outcome.COMPLETED
        if together:
            assert not cache.clear_answers(list(zip(turn, answers, strict=True)))
        else:
            for x, answer in zip(turn, answers, strict=True):
                single = Single(answer)
                assert cache.watch(x, single) is single
        for x in turn:
            cache.settle(x)
        kept.append([not cache.at_once(asked) for asked in turn])
    assert kept == [[True, False, True]] * 2


WHO = [Principal(name, name, ROLES[0], tenant=tenant) for name, tenant in (("k1", "red"), ("k2", "red"), ("k3", "blue"))]
PLANS = [
    Plan("m", TARGETS[:1], digest=b"1", cache=CachePolicy("key", 60)),
    Plan("m", TARGETS[:1], digest=b"2", cache=CachePolicy("tenant", 60)),
    Plan("m", TARGETS[:1], digest=b"3"),
    Plan("other", TARGETS, digest=b"1", cache=CachePolicy("tenant", 60)),
]
TEXTS = ["a", "b"]
looks = st.tuples(
    st.sampled_from(WHO),
    st.sampled_from(PLANS),
    st.sampled_from(TEXTS),
    st.booleans(),
    st.sampled_from([b"", b"no-cache", b"no-store", b"max-age=9"]),
)
Look = tuple[Principal, Plan, str, bool, bytes]


def looking(look: Look) -> Exchange:
    who, plan, text, stream, wishes = look
    x = asking(who, Call(model=plan.model, messages=(Message("user", text),), stream=stream))
    x.plan, x.outcome = plan, Outcome.COMPLETED
    if wishes:
        x.head.headers[b"cache-control"] = wishes
    return x


def found(cache: Cache, x: Exchange) -> tuple[object, ...]:
    """What came of the look, once the call is over."""
    hit = cache._hits.get(x)
    miss = cache._misses.get(x)
    cache.settle(x)
    return (x.cache, hit, None if miss is None else (miss.key, miss.fresh))


@given(st.lists(looks, max_size=5), st.lists(looks, min_size=1, max_size=6))
def test_answers_are_looked_up_together_as_alone(before: list[Look], asked: list[Look]) -> None:
    """The same hits, misses and passes, whoever else asks in the same turn; what was found is nobody else's, and nothing is left."""
    clock = FakeClock()
    cache = Cache(MemoryCache(clock), Commitments(b"k" * 32).of_encoded)
    for number, look in enumerate(before):
        x = looking(look)
        if cache.at_once(x):
            cache.clear_answers([(x, Answer((Choice(text=f"{number}"),)))])
        cache.settle(x)
    lone = [looking(look) for look in asked]
    passed = [cache.at_once(x) for x in lone]
    expected = [found(cache, x) for x in lone]
    together = [looking(look) for look in asked]
    left = cache.clear(together)
    for x, whether in zip(together, passed, strict=True):
        assert (x not in left or cache.at_once(x)) == whether
    assert [found(cache, x) for x in together] == expected
    assert not cache._hits
    assert not cache._misses


# --- what others must not notice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone_first", [True, False], ids=["alone", "together"])
async def test_a_call_that_could_not_be_held_for_is_asked_again_as_it_came(world: World, *, alone_first: bool) -> None:
    """A look that came to nothing leaves no trace: a bound that Limit chose is not taken for the caller's, and no target is left out."""
    near = Target("a/a", "a", "a", price=PLAN.targets[0].price, context_window=700)
    far = Target("b/b", "b", "b", price=PLAN.targets[0].price, context_window=4000)
    plan = Plan("assistant", (near,), fallbacks=((far,),), max_output_tokens=16_000)
    bounds = Limits(requests_per_minute=1000)
    who = key(bounds, "k1")
    world.limit.settle(await world.admit(bounds, HI, plan, who))
    untouched = world.exchange(bounds, HI, plan, who)
    assert world.limit.at_once(untouched)
    (pool,) = world.limit._callers["k1"].account.pools
    pool.balance = 0 if alone_first else 2
    turn = [world.exchange(bounds, HI, plan, who) for _ in range(3)]
    if alone_first:
        assert not world.limit.at_once(turn[0])
    else:
        assert world.limit.clear(turn) == turn
    assert all((x.call, x.plan) == (HI, plan) for x in turn)
    await world.limit.admit(turn[0])
    assert (turn[0].plan, turn[0].call, turn[0].ceiling) == (untouched.plan, untouched.call, untouched.ceiling)


async def test_what_cannot_be_given_back_costs_the_others_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The office cannot be told of what one call used above its hold: the slots of all others come back."""
    slots, tokens = Limits(concurrency=50), Limits(concurrency=50, tokens_per_minute=100_000)
    one, two = key(slots, "k1"), key(tokens, "k2")
    turn = [await world.admit(slots, principal=who) for who in (one, two, one, two, one)]
    turn[1].flag(OVER_HOLD)
    turn[1].usage = Usage(10**6)
    monkeypatch.setattr(world.line, "report_over", lambda *words: 1 // 0)
    before = {name: pool.balance for name, pool in world.book._pools.items()}
    world.limit.settle_all(turn)
    after = {name: pool.balance for name, pool in world.book._pools.items()}
    assert after["key:k1:slots"] - before["key:k1:slots"] == 3
    assert after["key:k2:slots"] - before["key:k2:slots"] >= 1
    assert not any(x.holds for x in turn)


@pytest.mark.parametrize("where", ["down", "back"])
async def test_who_cannot_be_carried_on_fails_alone(where: str) -> None:
    """One asker cannot start a task: its call fails and settles, and the others of the turn are carried on."""
    log: list[str] = []
    target = LastStage(log, lambda x: whole(), wait=lambda x: where == "down")
    it = Lane(log, Prompt("a", log), target)
    these = [exchange(name) for name in "xyz"]
    askers = it.begin(*these)
    askers[0].wait = lambda: 1 // 0  # type: ignore[method-assign, assignment]
    it.end_turn()
    if where == "back":
        for x in these:
            target.come(x)
        it.end_turn()
    for asker in askers[1:]:
        assert await asker.carried() is None
    assert [type(error) for error in askers[0].told] == [Internal]
    for x in these:
        assert [line.split()[-1] for line in it.of(x) if line.startswith("settle")] == ["target", "a"]
    assert it.runner.running == set()
