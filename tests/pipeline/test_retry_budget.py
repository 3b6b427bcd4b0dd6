"""The retry budget: at 100 % failure the extra load is a tenth, and failing over to what is well costs nothing of it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.pipeline.retry_budget import MOST_FAILING, RESERVE, SHARE, WINDOW, RetryBudget
from gatehouse.testing.fakes import FakeClock


@settings(max_examples=200, deadline=None)
@given(calls=st.integers(1, 3000), burst=st.integers(0, 200))
def test_scenario_33_a_tenth_at_most_when_everything_fails(calls: int, burst: int) -> None:
    """`calls` within a window, all of them failing and each wanting to be tried again; the first `burst` come back before the
    second target has failed once. Retries stay below max(burst, RESERVE, a tenth of the calls)."""
    budget = RetryBudget(FakeClock())
    retries = 0
    for number in range(calls):
        budget.called("m")
        retries += budget.spend("m", free=number < burst)
    assert retries <= max(min(burst, calls), RESERVE, -(-calls // int(1 / SHARE)))


def test_failing_over_to_a_target_that_answers_is_never_refused() -> None:
    """However many: a retry that is answered is given back, whether or not the target had a failure lately."""
    budget = RetryBudget(FakeClock())
    for _ in range(1000):
        budget.called("m")
        assert budget.spend("m", free=False)
        budget.answered("m")


def test_little_traffic_can_fail_over_too() -> None:
    """A handful of retries is there for a model that is hardly called."""
    budget = RetryBudget(FakeClock())
    allowed = [budget.spend("m", free=False) for _ in range(RESERVE + 1)]
    assert allowed == [True] * RESERVE + [False]


def test_a_window_ends() -> None:
    """What was spent is forgotten, and where nothing is retried any more nothing is kept."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    for _ in range(RESERVE):
        budget.spend("m", free=False)
    assert not budget.spend("m", free=False)
    clock.advance(WINDOW)
    assert budget.spend("m", free=False)
    clock.advance(WINDOW)
    budget.called("m")
    assert budget.accounts == {}


def test_models_have_budgets_of_their_own() -> None:
    """One that fails does not take another's."""
    budget = RetryBudget(FakeClock())
    while budget.spend("broken", free=False):
        pass
    assert budget.spend("well", free=False)


def test_targets_without_a_breaker_are_remembered_for_a_window() -> None:
    """However many names callers make up, the memory is bounded; what is over is forgotten first."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    for number in range(3 * MOST_FAILING):
        budget.failed(f"made/up-{number}")
    assert len(budget.failing) <= MOST_FAILING
    clock.advance(WINDOW / 2)
    budget.failed("a")
    assert budget.failed_lately("a")
    clock.advance(WINDOW)
    assert not budget.failed_lately("a")
    assert "a" not in budget.failing
