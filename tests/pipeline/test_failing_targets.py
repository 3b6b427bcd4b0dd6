"""Dispatch over targets that fail, in virtual time: who is asked, who is left alone, what the caller is told, and what comes back."""

import asyncio
from collections import Counter

import pytest

from gatehouse.core.errors import GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.events import Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Breaker, Deadlines, Plan
from gatehouse.core.ports import Attempt, Model
from gatehouse.core.targets import TargetState
from gatehouse.pipeline.health_checks import Check, HealthChecks
from gatehouse.pipeline.retry_budget import RESERVE
from gatehouse.testing.fakes import FakeModel, settle_loop
from tests.pipeline.dispatching import ROLE, USAGE, Answering, Bench, failed, piece, target

STEADY = Breaker(open=1.0, longest=8.0)
COUNTED = ["upstream_unreachable", "upstream_timeout", "upstream_rejected", "upstream_invalid", "upstream_broken", "upstream_overloaded"]


class Fickle:
    """A model that can be told to fail and to be well; `asked` counts."""

    def __init__(self, error: UpstreamFailed | None = None) -> None:
        self.error = error
        self.asked = 0
        self.ill = ""

    async def answer(self, call: object, target: object, attempt: Attempt) -> Events:
        self.asked += 1
        attempt.sent = True
        if self.error is not None:
            raise again(self.error)
        return FakeModel(ROLE, piece("Hi"), USAGE).play()

    async def ping(self) -> str:
        return self.ill

    async def close(self) -> None:
        """Nothing is held."""


def again(error: UpstreamFailed) -> UpstreamFailed:
    """The same failure once more: Dispatch writes its advice into the one it is given."""
    return UpstreamFailed(error.message, code=error.code, retry_after=error.retry_after, sent=error.sent, caller_fault=error.caller_fault)


async def outcome(bench: Bench, plan: Plan) -> str:
    """Carry a call: the code of its error, or "" """
    try:
        await bench.carry(bench.exchange(plan))
    except GatehouseError as error:
        return error.code
    return ""


async def retry_after(bench: Bench, plan: Plan) -> float | None:
    with pytest.raises(GatehouseError) as caught:
        await bench.carry(bench.exchange(plan))
    return caught.value.retry_after


def plan_of(*names: str, breaker: Breaker = STEADY, **fields: object) -> Plan:
    return Plan("m", tuple(target(name, breaker=breaker) for name in names), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", COUNTED)
async def test_five_failures_in_a_row_and_it_is_left_alone(code: str) -> None:
    """Pain 25: whatever counts as a failure of the target, the sixth call is refused without asking it, with the time until a probe."""
    model = Fickle(failed(code))
    bench = Bench(a=model)
    plan = plan_of("a")
    assert [await outcome(bench, plan) for _ in range(5)] == [code] * 5
    with pytest.raises(Unavailable) as caught:
        await bench.carry(bench.exchange(plan))
    assert caught.value.code == "targets_out"
    assert caught.value.retry_after is not None
    assert 0.8 <= caught.value.retry_after <= 1.2
    assert model.asked == 5
    assert bench.tally.counts["gatehouse_target_changes_total", ("a/m", "open")] == 1
    assert bench.clean()


@pytest.mark.parametrize("error", [failed("upstream_rejected", caller_fault=True), failed("upstream_overloaded", sent=False)])
async def test_what_says_nothing_about_the_target_does_not_count(error: UpstreamFailed) -> None:
    """Requests that the target refuses as the caller's fault, and our own full pool: a hundred of them, and it is still asked."""
    model = Fickle(error)
    bench = Bench(a=model)
    for _ in range(100):
        await outcome(bench, plan_of("a"))
    assert model.asked == 100
    assert not [breaker for breaker in bench.health.ailing.values() if breaker.condition != "closed"]


async def test_pain_25_twenty_five_failures_do_not_stay_in_rotation() -> None:
    """Beside a target that is well, one that fails is met by five calls, none of which its caller notices."""
    bad, good = Fickle(failed("upstream_rejected")), Fickle()
    bench = Bench(bad=bad, good=good)
    plan = plan_of("bad", "good")
    assert {await outcome(bench, plan) for _ in range(200)} == {""}
    assert (bad.asked, good.asked) == (5, 200)


async def test_scenario_32_all_down_then_back() -> None:
    """While everything is down each is tried by one call at a time, ever more rarely; ten seconds after they are back all calls are
    answered, and the moment of return sees one probe a target, no herd."""
    models = {name: Fickle(failed("upstream_unreachable")) for name in "abc"}
    bench = Bench(**models)
    plan = plan_of(*"abc")
    for _ in range(600):
        await outcome(bench, plan)
        bench.clock.advance(0.1)
    asked = sum(model.asked for model in models.values())
    assert asked < 3 * (5 + 60 / 8 / 0.8 + 4), "a minute of ten calls a second"
    for model in models.values():
        model.error = None
    back = bench.clock.monotonic()
    answered = await outcome(bench, plan) == ""
    while not answered:
        bench.clock.advance(0.1)
        answered = await outcome(bench, plan) == ""
    assert bench.clock.monotonic() - back <= 10.0
    bench.clock.advance(10.0)
    assert {await outcome(bench, plan) for _ in range(50)} == {""}
    assert all(model.asked for model in models.values())


async def test_one_probe_at_a_time() -> None:
    """A hundred calls come in the moment its time is over: one tries, the others are refused; when it is answered all may."""
    gate = asyncio.Event()

    async def slow(attempt: Attempt) -> Events:
        await gate.wait()
        return FakeModel(ROLE, USAGE).play()

    model = Fickle(failed("upstream_timeout"))
    bench = Bench(a=model)
    plan = plan_of("a")
    for _ in range(5):
        await outcome(bench, plan)
    bench.clock.advance(2.0)
    bench.models["a"].model = Answering(slow)
    bench.models["a"].attempts.clear()
    calls = [asyncio.ensure_future(outcome(bench, plan)) for _ in range(100)]
    await settle_loop(20)
    assert len(bench.models["a"].attempts) == 1
    gate.set()
    assert Counter(await asyncio.gather(*calls)) == {"": 1, "targets_out": 99}
    assert await outcome(bench, plan) == ""
    assert bench.clean()


async def test_a_probe_whose_caller_leaves_proves_nothing() -> None:
    """The next call is the probe then."""

    async def silent(attempt: Attempt) -> Events:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench = Bench(a=Fickle(failed("upstream_timeout")))
    plan = plan_of("a")
    for _ in range(5):
        await outcome(bench, plan)
    bench.clock.advance(2.0)
    bench.models["a"].model = Answering(silent)
    x = bench.exchange(plan)
    call = asyncio.ensure_future(bench.carry(x))
    await settle_loop()
    assert await outcome(bench, plan) == "targets_out"
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await call
    bench.models["a"].model = Fickle()
    assert await outcome(bench, plan) == ""
    assert bench.clean()


@pytest.mark.parametrize("code", ["upstream_broken", "upstream_timeout"])
async def test_scenario_24_answers_that_break_off_count(code: str) -> None:
    """Streams that stall or break after their first event: five of them open the breaker like five that never began."""
    bench = Bench(a=FakeModel(ROLE, piece("Hel"), failed(code)))
    plan = plan_of("a")
    assert [await outcome(bench, plan) for _ in range(5)] == [code] * 5
    assert await outcome(bench, plan) == "targets_out"


async def test_a_call_that_ran_out_of_time_before_it_began_counts() -> None:
    """The whole call's deadline passes while the target says nothing: that is the target's failure."""

    async def silent(attempt: Attempt) -> Events:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench = Bench(a=Answering(silent))
    plan = Plan("m", (target("a", deadlines=Deadlines(total=3.0), breaker=Breaker(failures=1)),))
    call = asyncio.ensure_future(outcome(bench, plan))
    await settle_loop()
    await bench.clock.run_for(3.0)
    assert await call == "upstream_timeout"
    assert bench.health.ailing["a/m"].condition == "open"


@pytest.mark.parametrize(("said", "rests"), [(7.0, 7.0), (60.0, 60.0), (1e9, 60.0), (3600.0, 60.0)])
async def test_scenario_30_retry_after_is_honoured_with_a_cap(said: float, rests: float) -> None:
    """A target that says Retry-After is not asked before that, or a minute at most; callers are told the truthful time; after it, it
    is asked by everybody."""
    model = Fickle(failed("upstream_overloaded", retry_after=said))
    bench = Bench(a=model)
    plan = plan_of("a")
    assert await retry_after(bench, plan) == rests
    bench.clock.advance(rests / 2)
    assert await retry_after(bench, plan) == rests / 2
    assert model.asked == 1
    bench.clock.advance(rests / 2)
    model.error = None
    assert {await outcome(bench, plan) for _ in range(20)} == {""}


async def test_scenario_30_the_others_are_asked_while_one_rests() -> None:
    """429 from one member of the pool: its neighbours take the calls, nobody asks it, and nobody notices."""
    tired, well = Fickle(failed("upstream_overloaded", retry_after=30.0)), Fickle()
    bench = Bench(tired=tired, well=well)
    assert {await outcome(bench, plan_of("tired", "well")) for _ in range(100)} == {""}
    assert tired.asked == 1


async def test_when_all_rest_the_earliest_is_told() -> None:
    """Two targets said 9 and 4 seconds: the caller is told 4, and then less."""
    bench = Bench(a=Fickle(failed("upstream_overloaded", retry_after=9.0)), b=Fickle(failed("upstream_overloaded", retry_after=4.0)))
    plan = plan_of("a", "b")
    assert await retry_after(bench, plan) == 4.0
    bench.clock.advance(1.0)
    assert await retry_after(bench, plan) == 3.0


async def test_scenario_31_credentials_that_are_refused_quarantine_the_target() -> None:
    """One 401 is enough: it is not asked again, the caller sees a failed upstream without a word of keys, and somebody is told."""
    model = Fickle(failed("upstream_auth"))
    bench = Bench(a=model)
    told: list[TargetState] = []
    bench.health.news = type("News", (), {"tell": staticmethod(told.extend)})()
    plan = plan_of("a")
    for _ in range(20):
        with pytest.raises(UpstreamFailed) as caught:
            await bench.carry(bench.exchange(plan))
        assert (caught.value.code, caught.value.retry_after) == ("upstream_auth", None)
    assert model.asked == 1
    assert [(state.target, state.condition) for state in told] == [("a/m", "quarantined")]
    model.error = None
    bench.clock.advance(300.0)
    assert await outcome(bench, plan) == "", "a slow probe finds out that the key was mended"


async def test_a_reload_ends_quarantine_and_rest() -> None:
    """Whoever reads the configuration again has mended something."""
    model = Fickle(failed("upstream_auth"))
    bench = Bench(a=model)
    await outcome(bench, plan_of("a"))
    bench.health.forgive()
    model.error = None
    assert await outcome(bench, plan_of("a")) == ""


async def test_a_target_without_a_breaker_is_always_asked() -> None:
    """Off is off."""
    model = Fickle(failed("upstream_auth"))
    bench = Bench(a=model)
    for _ in range(20):
        await outcome(bench, plan_of("a", breaker=Breaker(enabled=False)))
    assert model.asked == 20


async def test_fallbacks_come_at_once_when_the_first_group_is_left_alone() -> None:
    """No attempt is spent on it, and the header says which rung answered."""
    bench = Bench(a=Fickle(failed("upstream_unreachable")), b=Fickle())
    plan = Plan("m", (target("a"),), ((target("b", rung="model"),),))
    for _ in range(5):
        x = await bench.carry(bench.exchange(plan))
        assert (x.attempts, x.headers["x-gatehouse-attempts"]) == (2, "2")
    x = await bench.carry(bench.exchange(plan))
    assert x.attempts == 1
    assert "x-gatehouse-attempts" not in x.headers
    assert x.headers["x-gatehouse-rung"] == "model"
    assert x.flags == ["rung:model"]


@pytest.mark.parametrize("concurrent", [1, 20])
async def test_scenario_33_at_most_a_tenth_more_load_when_everything_fails(concurrent: int) -> None:
    """Four targets that always fail and no breaker to help: a thousand calls make no more than eleven hundred attempts."""
    models: dict[str, Model] = {name: Fickle(failed("upstream_timeout")) for name in "abcd"}
    bench = Bench(**models)
    plan = plan_of(*"abcd", breaker=Breaker(failures=10**9, share=1.0))
    for _ in range(1000 // concurrent):
        await asyncio.gather(*(outcome(bench, plan) for _ in range(concurrent)))
    attempts = sum(model.asked for model in models.values() if isinstance(model, Fickle))
    assert 1000 <= attempts <= 1100
    assert bench.tally.counts["gatehouse_retries_refused_total", ("m",)] > 0


@pytest.mark.parametrize("names", ["a", "abcd"])
@pytest.mark.parametrize("concurrent", [1, 20])
async def test_scenario_33_the_budget_holds_without_breakers_too(names: str, concurrent: int) -> None:
    """Breakers that are off and three retries: at 100 % failure the load is a tenth more, whether one target is asked again or four
    in turn; when the window is over it is so again."""
    models: dict[str, Model] = {name: Fickle(failed("upstream_timeout")) for name in names}
    bench = Bench(**models)
    plan = plan_of(*names, breaker=Breaker(enabled=False), retries=3)
    for _ in range(2):
        before = sum(model.asked for model in models.values() if isinstance(model, Fickle))
        for _ in range(300 // concurrent):
            calls = [asyncio.ensure_future(outcome(bench, plan)) for _ in range(concurrent)]
            await settle_loop()
            while not all(call.done() for call in calls):
                await bench.clock.run_for(0.05)
            await asyncio.gather(*calls)
        attempts = sum(model.asked for model in models.values() if isinstance(model, Fickle)) - before
        assert 300 <= attempts <= 330 + concurrent
        bench.clock.advance(20.0)


async def test_failing_over_is_free_without_breakers_too() -> None:
    """Fifty calls at once, the first target dead and without a breaker: all of them are answered by the second."""
    bench = Bench(a=Fickle(failed("upstream_unreachable")), b=Fickle())
    plan = Plan("m", (target("a", breaker=Breaker(enabled=False)),), ((target("b", breaker=Breaker(enabled=False)),),))
    for _ in range(4):
        assert set(await asyncio.gather(*(outcome(bench, plan) for _ in range(50)))) == {""}


async def test_a_target_without_the_words_is_passed_over() -> None:
    """Its format cannot say a part of the call, found before a byte was sent: the next target is asked, that is no retry, and
    nothing is held against the first."""
    wordless = Fickle(failed("upstream_rejected", caller_fault=True, sent=False))
    bench = Bench(a=wordless, b=Fickle())
    for _ in range(100):
        assert await outcome(bench, Plan("m", (target("a"),), ((target("b"),),))) == ""
    assert bench.health.ailing == {}
    assert bench.dispatch._budget.accounts == {}


@pytest.mark.parametrize("first", ["a", "b"])
async def test_when_no_target_has_the_words_or_answers_the_failure_is_told(first: str) -> None:
    """One has no words for the call, the other fails: whichever came first, the caller is told of a failed upstream, not of a fault."""
    bench = Bench(a=Fickle(failed("upstream_rejected", caller_fault=True, sent=False)), b=Fickle(failed("upstream_timeout")))
    other = "b" if first == "a" else "a"
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(bench.exchange(Plan("m", (target(first),), ((target(other),),))))
    assert (caught.value.code, caught.value.caller_fault) == ("upstream_timeout", False)
    assert bench.clean()


async def test_when_nobody_has_the_words_the_caller_is_told_which() -> None:
    """Every target's format lacks them: a 400, and each was looked at once, however many retries the route allows."""
    models = {name: Fickle(failed("upstream_rejected", caller_fault=True, sent=False)) for name in "ab"}
    bench = Bench(**models)
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(bench.exchange(plan_of(*"ab", retries=3)))
    assert (caught.value.caller_fault, caught.value.retry_after) == (True, None)
    assert [model.asked for model in models.values()] == [1, 1]


async def test_a_probe_that_was_not_sent_proves_nothing() -> None:
    """A target is left alone after failures; the call that would be its probe cannot be said in its format: it stays left alone."""
    model = Fickle(failed("upstream_timeout"))
    bench = Bench(a=model)
    plan = plan_of("a")
    for _ in range(5):
        await outcome(bench, plan)
    bench.clock.advance(2.0)
    model.error = failed("upstream_rejected", caller_fault=True, sent=False)
    assert await outcome(bench, plan) == "upstream_rejected"
    assert bench.health.ailing["a/m"].condition == "open"
    model.error = None
    assert await outcome(bench, plan) == ""


async def test_scenario_33_and_far_less_with_breakers() -> None:
    """With the breakers as they are by default the load of a failing pool is a few probes."""
    models: dict[str, Model] = {name: Fickle(failed("upstream_timeout")) for name in "abcd"}
    bench = Bench(**models)
    for _ in range(1000):
        await outcome(bench, plan_of(*"abcd"))
        bench.clock.advance(0.01)
    assert sum(model.asked for model in models.values() if isinstance(model, Fickle)) < 100


async def test_the_same_target_is_tried_again_when_the_route_says_so() -> None:
    """One target, two retries: a failure that may pass is tried again after a pause; the pause is a moment, and grows."""
    steps = iter([failed("upstream_unreachable"), failed("upstream_timeout"), None])
    moments: list[float] = []
    bench = Bench()

    async def act(attempt: Attempt) -> Events:
        moments.append(bench.clock.monotonic())
        if (error := next(steps)) is not None:
            raise error
        return FakeModel(ROLE, USAGE).play()

    bench.models["a"] = Bench(a=Answering(act)).models["a"]
    call = asyncio.ensure_future(outcome(bench, plan_of("a", retries=2)))
    await settle_loop()
    await bench.clock.run_for(1.0)
    assert await call == ""
    assert len(moments) == 3
    assert 0.05 <= moments[1] - moments[0] <= 0.15
    assert 0.1 <= moments[2] - moments[1] <= 0.3


@pytest.mark.parametrize(
    "error", [failed("upstream_auth"), failed("upstream_overloaded", retry_after=5.0), failed("upstream_rejected", caller_fault=True)]
)
async def test_what_would_not_help_is_not_tried_again(error: UpstreamFailed) -> None:
    """Refused credentials, a target that asked for time, a request at fault: no retry at the same target."""
    model = Fickle(error)
    bench = Bench(a=model)
    await outcome(bench, plan_of("a", retries=3))
    assert model.asked == 1


async def test_what_another_worker_found_out_is_heard() -> None:
    """A target that is dead for one worker is not asked by the other; its own probe, a moment later, decides for it."""
    model = Fickle()
    bench = Bench(a=model)
    plan = plan_of("a")
    bench.health.heard((TargetState("a/m", "open", 1.0, "upstream_timeout"), TargetState("unknown/m", "open", 9.0)), plan.targets)
    assert await outcome(bench, plan) == "targets_out"
    assert bench.health.states()["a/m"].own is False
    assert set(bench.health.ailing) == {"a/m"}
    bench.clock.advance(1.5)
    assert await outcome(bench, plan) == ""
    assert model.asked == 1


async def test_what_another_worker_only_repeats_is_not_heard() -> None:
    """Rumours do not run in circles."""
    bench = Bench(a=Fickle())
    bench.health.heard((TargetState("a/m", "open", 1.0, "upstream_timeout", own=False),), plan_of("a").targets)
    assert bench.health.ailing == {}


async def test_when_another_worker_sees_it_answer_a_probe_goes_at_once() -> None:
    """News of recovery opens the half-open door here too, though the time was not over."""
    model = Fickle(failed("upstream_unreachable"))
    bench = Bench(a=model)
    plan = plan_of("a")
    for _ in range(5):
        await outcome(bench, plan)
    model.error = None
    assert await outcome(bench, plan) == "targets_out"
    bench.health.heard((TargetState("a/m", "closed"),), plan.targets)
    assert await outcome(bench, plan) == ""


async def test_what_is_found_out_is_told_once_each() -> None:
    """Open and closed again: two pieces of news, however many calls there were."""
    model = Fickle(failed("upstream_unreachable"))
    bench = Bench(a=model)
    told: list[TargetState] = []
    bench.health.news = type("News", (), {"tell": staticmethod(told.extend)})()
    for _ in range(50):
        await outcome(bench, plan_of("a"))
    bench.clock.advance(2.0)
    model.error = None
    for _ in range(50):
        await outcome(bench, plan_of("a"))
    assert [state.condition for state in told] == ["open", "closed"]


async def test_gauges_follow() -> None:
    """One worker leaves it alone, and then none; time alone turns open into half open."""
    bench = Bench(a=Fickle(failed("upstream_unreachable")))
    for _ in range(5):
        await outcome(bench, plan_of("a"))
    bench.health.tick()
    assert bench.tally.gauges["gatehouse_target_out", ("a/m", "open")] == 1
    bench.clock.advance(2.0)
    bench.health.tick()
    assert bench.tally.gauges["gatehouse_target_out", ("a/m", "open")] == 0
    assert bench.tally.gauges["gatehouse_target_out", ("a/m", "half_open")] == 1
    bench.models["a"].model = Fickle()
    await outcome(bench, plan_of("a"))
    bench.health.tick()
    assert not any(bench.tally.gauges.values())


async def test_active_health_takes_a_target_out_before_a_caller_meets_it_and_keeps_calls_from_being_probes() -> None:
    """Two questions in a row go wrong: left alone until one goes well, however long that takes; then one call tries it."""
    model = Fickle()
    bench = Bench(a=model)
    plan = plan_of("a")
    checks = HealthChecks(bench.models, bench.health, bench.clock, bench.rng, bench.spawn)
    checks.want({"a": Check(2.0, 2, plan.targets)})
    model.ill = "The provider answers 500."
    await bench.clock.run_for(2.5)
    assert await outcome(bench, plan) == "", "one bad answer is no illness"
    await bench.clock.run_for(2.5)
    asked = model.asked
    for _ in range(50):
        assert await outcome(bench, plan) == "targets_out"
        await bench.clock.run_for(1.0)
    assert model.asked == asked
    model.ill = ""
    await bench.clock.run_for(2.5)
    assert await outcome(bench, plan) == ""
    checks.stop()
    await settle_loop()
    assert bench.clock.pending <= 1, "nobody asks any more; the deadlines' timer is left"
    await bench.spawn.close()


async def test_what_is_well_costs_nothing() -> None:
    """A thousand calls to a healthy target leave nothing behind: no breaker, no budget, no load, no task, no header."""
    bench = Bench(a=FakeModel(ROLE, piece("Hi"), USAGE))
    for _ in range(1000):
        x = await bench.carry(bench.exchange((target("a"),)))
        assert x.headers == {}
    assert bench.health.ailing == {}
    assert bench.loads.states() == {}
    assert bench.spawn.tasks == set()


def test_the_reserve_lets_a_quiet_model_fail_over() -> None:
    """The figure in the documentation."""
    assert RESERVE == 10
