"""The breaker of a target as a truth table over moments; and a model of it that any sequence of calls agrees with."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.plans import Breaker
from gatehouse.pipeline.breakers import JITTER, TargetBreaker

POLICY = Breaker(failures=3, share=0.5, window=10.0, open=1.0, longest=8.0, probes=1, quarantine=300.0)
MIDDLE = 0.5
"""The chance that changes nothing."""


def opened(policy: Breaker = POLICY) -> TargetBreaker:
    """One that has just opened at 0 for a second."""
    breaker = TargetBreaker(policy)
    for _ in range(policy.failures):
        breaker.failed(0.0, "upstream_timeout", MIDDLE)
    assert breaker.condition == "open"
    return breaker


def test_failures_in_a_row_open_it() -> None:
    """The third of three opens it; a call that ends well between them starts the row anew."""
    breaker = TargetBreaker(msgspec.structs.replace(POLICY, share=1.0))
    for _ in range(5):
        assert not breaker.failed(0.0, "e", MIDDLE)
        assert not breaker.failed(0.0, "e", MIDDLE)
        breaker.passed(0.0)
    fresh = TargetBreaker(POLICY)
    assert [fresh.failed(0.0, "e", MIDDLE) for _ in range(3)] == [False, False, True]
    assert (fresh.condition, fresh.until, fresh.reason) == ("open", 1.0, "e")
    assert not fresh.lets(0.5)


def test_a_share_of_failures_opens_it_though_none_are_in_a_row() -> None:
    """Every second call fails: half of what came within the window, and as many as would do in a row."""
    breaker = TargetBreaker(POLICY)
    news = []
    for number in range(3):
        news.append(breaker.failed(float(number), "e", MIDDLE))
        if breaker.condition == "closed":
            breaker.passed(float(number))
    assert news == [False, False, True]


def test_few_failures_among_many_calls_do_not_open_it() -> None:
    """One in five for ever: never in a row, never half."""
    breaker = TargetBreaker(POLICY)
    for number in range(500):
        at = number / 10
        if number % 5 == 0:
            assert not breaker.failed(at, "e", MIDDLE)
        else:
            breaker.passed(at)
    assert breaker.condition == "closed"


def test_what_is_older_than_the_window_does_not_count() -> None:
    """A failure a minute, with calls that end well between them: the share is of the window's calls only."""
    breaker = TargetBreaker(POLICY)
    for number in range(20):
        assert not breaker.failed(60.0 * number, "e", MIDDLE)
        breaker.passed(60.0 * number + 1)
    assert breaker.passed(60.0 * 20), "and then nothing is left against the target"


def test_half_open_lets_so_many_probes_through() -> None:
    """After its time one call may try, the second may not, and when the first has ended without a verdict another may."""
    breaker = opened()
    assert not breaker.lets(0.999)
    assert breaker.lets(1.0)
    assert breaker.shown(1.0) == "half_open"
    assert breaker.take(1.0)
    assert not breaker.lets(1.0)
    breaker.probe_left()
    assert breaker.lets(1.0)


def test_a_probe_that_begins_closes_it_on_probation() -> None:
    """The next failure opens it again at once, for twice as long; a call that ends well ends the probation."""
    breaker = opened()
    breaker.take(1.0)
    assert breaker.probe_began()
    assert breaker.condition == "closed"
    assert breaker.failed(1.1, "upstream_broken", MIDDLE)
    assert breaker.until == pytest.approx(1.1 + 2.0)
    breaker.take(4.0)
    breaker.probe_began()
    breaker.passed(4.0)
    assert (breaker.row, breaker.times) == (0, 0)


def test_each_time_is_twice_as_long_up_to_the_longest() -> None:
    """1, 2, 4, 8, 8 seconds; and for a target that is out for weeks still 8."""
    breaker = opened()
    seconds = []
    at = breaker.until
    for _ in range(2000):
        breaker.take(at)
        breaker.probe_left()
        assert breaker.failed(at, "e", MIDDLE)
        seconds.append(breaker.until - at)
        at = breaker.until
    assert [round(each, 6) for each in seconds[:5]] == [2.0, 4.0, 8.0, 8.0, 8.0]
    assert round(seconds[-1], 6) == 8.0


@given(chance=st.floats(0.0, 1.0, exclude_max=True))
def test_jitter_spreads_and_recovery_takes_ten_seconds_at_most(chance: float) -> None:
    """Scenario 32: with the default policy a target is tried again at the latest 10 s after it failed, whatever chance says."""
    policy = Breaker()
    breaker = TargetBreaker(policy)
    at = 0.0
    for _ in range(50):
        while not breaker.failed(at, "e", chance):
            pass
        assert breaker.until - at <= 10.0
        assert breaker.until - at >= policy.open * (1 - JITTER)
        at = breaker.until


def test_stragglers_change_nothing() -> None:
    """Calls under way when it opened fail while it is open: it neither opens again nor later."""
    breaker = opened()
    for _ in range(100):
        assert not breaker.failed(0.5, "e", MIDDLE)
    assert breaker.until == 1.0
    assert not breaker.passed(0.5)
    assert breaker.condition == "open", "and one that ends well does not close it: the probe does"


def test_quarantine_is_long_and_its_probe_may_only_prolong_it() -> None:
    """After 300 s one call tries; when it is refused again, or fails of anything else, as long again."""
    breaker = TargetBreaker(POLICY)
    assert breaker.quarantine(0.0, 300.0, "upstream_auth")
    assert not breaker.quarantine(0.0, 300.0, "upstream_auth"), "said once"
    assert not breaker.lets(299.0)
    assert breaker.take(300.0)
    breaker.probe_left()
    breaker.failed(300.0, "upstream_timeout", MIDDLE)
    assert (breaker.condition, breaker.until) == ("quarantined", 600.0)
    breaker.take(600.0)
    assert breaker.probe_began()
    assert breaker.condition == "closed"


def test_rest_ends_by_itself() -> None:
    """Who said Retry-After is asked again after it, by everybody: nothing had failed. Saying it again prolongs it."""
    breaker = TargetBreaker(POLICY)
    assert breaker.rest(0.0, 7.0, "upstream_overloaded")
    assert not breaker.rest(1.0, 7.0, "upstream_overloaded")
    assert not breaker.lets(7.9)
    assert breaker.lets(8.0)
    assert not breaker.take(8.0)
    assert breaker.condition == "closed"


def test_an_open_breaker_that_is_asked_to_rest_is_left_alone_for_longer() -> None:
    """A probe answered with Retry-After: open, and not before that time."""
    breaker = opened()
    breaker.take(1.0)
    breaker.probe_left()
    assert not breaker.rest(1.0, 30.0, "upstream_overloaded")
    assert (breaker.condition, breaker.until) == ("open", 31.0)


ACTS = st.lists(st.tuples(st.sampled_from(["ask", "well", "fail", "leave", "rest", "auth", "wait"]), st.floats(0.0, 12.0)), max_size=80)


@settings(max_examples=300, deadline=None)
@given(acts=ACTS, probes=st.integers(1, 3))
def test_whatever_happens_no_more_probes_than_allowed_and_it_always_opens_up_again(acts: list[tuple[str, float]], probes: int) -> None:
    """Any sequence of calls: while it is not closed at most so many calls are under way that it let through, and it never stays
    shut for longer than its longest time."""
    breaker = TargetBreaker(Breaker(failures=3, probes=probes, quarantine=20.0, rest=15.0))
    now = 0.0
    running: list[bool] = []
    for act, amount in acts:
        if act == "wait":
            now += amount
        elif act == "ask":
            if breaker.lets(now):
                running.append(breaker.take(now))
        elif running:
            end(breaker, act, now, probe=running.pop())
        assert breaker.until <= now + 20.0
        fresh = 0
        while breaker.lets(now) and breaker.shown(now) == "half_open" and breaker.condition != "resting":
            breaker.take(now)
            fresh += 1
        assert fresh <= probes
        for _ in range(fresh):
            breaker.probe_left()


def end(breaker: TargetBreaker, act: str, now: float, *, probe: bool) -> None:
    """As `TargetHealth` says it."""
    if probe:
        if act == "well":
            breaker.probe_began()
        else:
            breaker.probe_left()
    match act:
        case "well":
            breaker.passed(now)
        case "fail":
            breaker.failed(now, "e", MIDDLE)
        case "rest":
            breaker.rest(now, 15.0, "r")
        case "auth":
            breaker.quarantine(now, 20.0, "a")
