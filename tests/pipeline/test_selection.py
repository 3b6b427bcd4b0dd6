"""The policies of a model: who is asked, over many calls with seeded chance, and what stays where it was when a target goes."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from gatehouse.core.calls import Call, ImagePart, Message, TextPart
from gatehouse.core.identity import Principal, Role
from gatehouse.core.plans import Plan, Policy, Target
from gatehouse.core.targets import TargetState
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.selection import LOAD_FACTOR, Selector, prefix_key, session_key
from gatehouse.pipeline.target_loads import TYPICAL_OUTPUT, TargetLoads
from gatehouse.testing.fakes import FakeClock, FakeModel, FakeRng
from tests.pipeline.dispatching import PRICE, ROLE, USAGE, Bench, piece
from tests.pipeline.dispatching import target as target_of


class House:
    """A selector over targets a, b, c."""

    def __init__(self, policy: Policy, *targets: Target, **fields: Any) -> None:
        self.clock = FakeClock()
        self.loads = TargetLoads(self.clock)
        self.selector = Selector(self.loads, self.clock, FakeRng(7))
        self.targets = list(targets) or [target_of("a"), target_of("b"), target_of("c")]
        self.plan = Plan("m", tuple(self.targets), policy=policy, **fields)

    def pick(self, text: str = "hi", prompt: int = 100, **fields: Any) -> str:
        x = exchange(text, **fields)
        return self.targets[self.selector.pick(x, self.plan, self.targets, prompt)].provider

    def picks(self, count: int = 600) -> Counter[str]:
        return Counter(self.pick() for _ in range(count))


def exchange(text: str = "hi", *, key: str = "k1", tenant: str = "t", headers: dict[bytes, bytes] | None = None, **fields: Any) -> Exchange:
    x = Exchange("req", Head("POST", "/", headers or {}), None, None)  # type: ignore[arg-type]
    x.principal = Principal(key, "key", frozenset({Role.DEVELOPER}), tenant=tenant)
    x.call = Call(model="m", messages=(Message("user", text),), **fields)
    return x


def test_least_work_takes_the_one_with_less_before_it_of_two_drawn() -> None:
    """A target with a mountain of work before it is taken only when it is drawn twice, which cannot be; all equal is by chance."""
    house = House("least_work")
    even = house.picks()
    assert min(even.values()) > 130
    house.loads.of("a/m").enter(100_000)
    assert house.picks()["a"] == 0


def test_least_work_counts_work_by_weight() -> None:
    """A target of weight four with twice the work has less before it."""
    house = House("least_work", target_of("a", weight=4), target_of("b", weight=1))
    house.loads.of("a/m").enter(200)
    house.loads.of("b/m").enter(100)
    assert house.picks(100) == {"a": 100}


def test_what_other_workers_have_there_counts() -> None:
    """A worker that has sent nothing to a target knows that another has; when that one ends its work is gone."""
    house = House("least_work", target_of("a"), target_of("b"))
    house.loads.heard("w1", (TargetState("a/m", running=3, work=9_000),))
    assert house.picks(100) == {"b": 100}
    assert house.loads.of("a/m").all_running == 3
    house.loads.heard("w1", (TargetState("a/m", running=1, work=100),))
    assert house.loads.of("a/m").all_work == 100
    house.loads.heard("w1", ())
    assert house.loads.of("a/m").all_work == 0


def test_latency_takes_the_one_that_begins_sooner_and_forgets() -> None:
    """Ten times slower is hardly taken; ten minutes later it is given another chance, once, and then known again."""
    house = House("latency", target_of("a"), target_of("b"))
    now = house.clock.monotonic()
    house.loads.of("a/m").began(now, 2.0)
    house.loads.of("b/m").began(now, 0.2)
    assert house.picks(100) == {"b": 100}
    for _ in range(60):
        house.clock.advance(10.0)
        house.loads.of("b/m").began(house.clock.monotonic(), 0.2)
    assert house.picks(100) == {"a": 100}
    house.loads.of("a/m").began(house.clock.monotonic(), 2.0)
    assert house.picks(100) == {"b": 100}


def test_latency_sees_a_peak_at_once_and_a_recovery_a_little_at_a_time() -> None:
    """One slow start counts in full; quick ones bring the average down step by step."""
    house = House("latency")
    load, now = house.loads.of("a/m"), house.clock.monotonic()
    load.began(now, 0.1)
    load.began(now, 4.0)
    assert load.first_event(now) == 4.0
    load.began(now, 0.1)
    assert 2.0 < load.first_event(now) < 3.0


def test_cost_takes_the_cheapest_for_this_call() -> None:
    """A long prompt with a short answer is cheapest elsewhere than a short prompt with a long one; equals share by weight; one
    without a price comes last."""
    reads = msgspec.structs.replace(PRICE, input=1, output=100)
    writes = msgspec.structs.replace(PRICE, input=10, output=10)
    house = House("cost", target_of("reads", price=reads), target_of("writes", price=writes), target_of("free", price=None))
    assert house.pick(prompt=10_000, max_tokens=10) == "reads"
    assert house.pick(prompt=10, max_tokens=10_000) == "writes"
    assert TYPICAL_OUTPUT > 10
    same = House("cost", target_of("a", price=reads, weight=3), target_of("b", price=reads, weight=1))
    assert 400 < same.picks()["a"] < 500


@pytest.mark.parametrize("said", ["header", "user", "key"])
def test_a_session_stays_where_it_is(said: str) -> None:
    """The same header, user or key always leads to the same target; many of them spread; when a target goes only its own move."""
    house = House("session", session_header="x-session-id" if said == "header" else "")

    def where(name: str) -> str:
        return house.pick(
            headers={b"x-session-id": name.encode()},
            user=name if said == "user" else None,
            key=name if said == "key" else "k1",
        )

    names = [f"session {number}" for number in range(300)]
    before = {name: where(name) for name in names}
    assert {name: where(name) for name in names} == before
    assert min(Counter(before.values()).values()) > 60
    house.targets.pop(0)
    after = {name: where(name) for name in names}
    assert all(after[name] == before[name] for name in names if before[name] != "a")
    assert set(after.values()) == {"b", "c"}


def test_tenants_never_share_a_session() -> None:
    """The same user in two tenants are two; and what one says in a header is not what another says as user."""
    plan = Plan("m", (target_of("a"),), policy="session", session_header="x-session-id")
    keys = {
        session_key(exchange(user="u", tenant="t1"), plan),
        session_key(exchange(user="u", tenant="t2"), plan),
        session_key(exchange(headers={b"x-session-id": b"u"}, tenant="t1"), plan),
        session_key(exchange(key="u", tenant="t1"), plan),
    }
    assert len(keys) == 4


def test_sessions_follow_weights() -> None:
    """A target of weight three has three quarters of the sessions."""
    house = House("session", target_of("a", weight=3), target_of("b", weight=1))
    picks = Counter(house.pick(user=str(number)) for number in range(1000))
    assert 700 < picks["a"] < 800


def test_prompts_that_begin_alike_go_to_one_target() -> None:
    """The first 256 tokens' worth decides: what differs later does not, what differs in it does."""
    house = House("prefix")
    shared = "You are a helpful assistant. " * 60
    assert len({house.pick(shared + str(number)) for number in range(50)}) == 1
    assert len({house.pick(f"{number} {shared}") for number in range(50)}) == 3


def test_a_popular_prefix_is_bounded() -> None:
    """When everybody asks alike no target has more than 1.25 times its share of what runs (and one more)."""
    house = House("prefix")
    running: Counter[str] = Counter()
    for number in range(1, 301):
        name = house.pick("the same for everybody")
        house.loads.of(f"{name}/m").enter(1)
        running[name] += 1
        assert max(running.values()) <= LOAD_FACTOR * number / 3 + 1
    assert min(running.values()) > 0


def test_how_much_of_a_prompt_decides_is_the_routes() -> None:
    """Where everybody shares a long system prompt, more than that has to be read to tell callers apart."""
    shared = "x" * 1024
    assert len({House("prefix").pick(shared + str(number)) for number in range(50)}) == 1
    house = House("prefix", prefix_tokens=260)
    assert len({house.pick(shared + str(number)) for number in range(50)}) == 3


def test_prefixes_read_roles_parts_and_inputs() -> None:
    """Who says it and what is no text counts too; beyond the bound nothing does."""

    def key(**fields: Any) -> bytes:
        return prefix_key(Call(model="m", **fields), 1024)

    assert key(messages=(Message("user", "x" * 1024), Message("user", "1"))) == key(
        messages=(Message("user", "x" * 1024), Message("user", "2"))
    )
    keys = {
        key(messages=(Message("user", "a"),)),
        key(messages=(Message("system", "a"),)),
        key(messages=(Message("user", (TextPart("a"), ImagePart("data:image/png;base64,AA"))),)),
        key(messages=(Message("user", (TextPart("a"), ImagePart("data:image/png;base64,BB"))),)),
        key(operation="embedding", inputs=("a",)),
        key(operation="embedding", inputs=((1, 2),)),
    }
    assert len(keys) == 6


@pytest.mark.parametrize("policy", ["least_work", "latency", "cost", "session", "prefix"])
async def test_every_policy_carries_calls_and_leaves_nothing(policy: Policy) -> None:
    """Through Dispatch: the call is answered, what was counted is taken back, the time to the first event is known."""
    bench = Bench(a=FakeModel(ROLE, piece("Hi"), USAGE), b=FakeModel(ROLE, piece("Hi"), USAGE))
    for _ in range(20):
        await bench.carry(bench.exchange(Plan("m", (target_of("a"), target_of("b")), policy=policy)))
    assert bench.clean()
    for state in bench.loads.states().values():
        assert (state.running, state.work) == (0, 0)
    assert bool(bench.loads.states()) == (policy != "session")


def test_what_others_measured_counts_as_far_as_our_own_has_faded() -> None:
    """A process that has not asked a target goes by what another measured; one that has goes by its own, and by the other's again when
    its own is old. What is long ago counts for nobody."""
    house = House("latency", target_of("a"), target_of("b"))
    house.loads.heard("server-x", (TargetState("a/m", first_event=2.0, age=0.5), TargetState("b/m", first_event=0.2)))
    assert house.picks(100) == {"b": 100}
    now = house.clock.monotonic()
    house.loads.of("a/m").began(now, 0.1)
    assert house.loads.of("a/m").first_event(now) == 0.1
    house.clock.advance(60.0)
    house.loads.heard("server-x", (TargetState("a/m", first_event=2.0, age=60.0), TargetState("b/m", first_event=0.2)))
    assert house.loads.of("a/m").first_event(house.clock.monotonic()) < 0.01
    house.loads.heard("server-x", (TargetState("a/m", first_event=2.0), TargetState("b/m", first_event=0.2)))
    assert house.picks(100) == {"b": 100}


def test_a_measurement_is_told_with_its_age() -> None:
    """So that what is old does not count as new where it is heard; an older one does not replace a newer."""
    house = House("latency")
    house.loads.of("a/m").began(house.clock.monotonic(), 0.5)
    house.clock.advance(7.0)
    assert house.loads.states()["a/m"] == TargetState("a/m", first_event=0.5, age=7.0)
    load = house.loads.of("b/m")
    load.told(1.0, 990.0)
    load.told(9.0, 980.0)
    assert load.first_event(990.0) == 1.0
