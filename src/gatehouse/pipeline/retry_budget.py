"""The retry budget: trying again must not be what keeps a failing model down.

A retry is an attempt after the first of its call. One at a target without a failure lately is free: that is what failing over is for.
Of the others, at most a share of the calls of the last seconds may be under way or have failed, and never fewer than a handful,
so that a model with little traffic can fail over too. A retry that is answered is given back. So at 100 % failure the retries of
a window are at most max(those under way when the first failure came back, RESERVE, SHARE x calls).

Who has failed lately is known from the breakers. Targets without one (`breaker: {enabled: false}`) are remembered here instead:
that they are always asked is no reason to ask them ever more often.

Nothing is counted before the first retry.
"""

from typing import Final

from gatehouse.core.ports import Clock

SHARE: Final = 0.1
RESERVE: Final = 10
WINDOW: Final = 10.0
"""Seconds."""
MOST_FAILING: Final = 1_000
"""Targets without a breaker that are remembered; names of those passed through are the callers' choice."""


class _Account:
    __slots__ = ("calls", "ends", "spent")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.calls = 1
        self.spent = 0


class RetryBudget:
    """Budgets of models, by name. Empty while nothing is retried: then `called` need not be called."""

    def __init__(self, clock: Clock) -> None:
        self.accounts: dict[str, _Account] = {}
        self.failing: dict[str, float] = {}
        """Targets without a breaker that have failed, by id, and until when that counts."""
        self._monotonic = clock.monotonic

    def failed(self, target: str) -> None:
        """A target without a breaker failed: for a window, asking it again is not free."""
        now = self._monotonic()
        if len(self.failing) >= MOST_FAILING and target not in self.failing:
            for name in [name for name, until in self.failing.items() if until <= now] or list(self.failing):
                del self.failing[name]
        self.failing[target] = now + WINDOW

    def failed_lately(self, target: str) -> bool:
        """Whether that is so."""
        until = self.failing.get(target)
        if until is None:
            return False
        if until > self._monotonic():
            return True
        del self.failing[target]
        return False

    def called(self, model: str) -> None:
        """A call of `model` begins."""
        account = self.accounts.get(model)
        if account is not None:
            if self._monotonic() >= account.ends:
                del self.accounts[model]
            else:
                account.calls += 1

    def spend(self, model: str, *, free: bool) -> bool:
        """Whether a call of `model` may be tried again; then that is booked. `free`: the target has not failed lately."""
        account = self.accounts.get(model)
        now = self._monotonic()
        if account is None or now >= account.ends:
            account = self.accounts[model] = _Account(now + WINDOW)
        if not free and account.spent >= max(RESERVE, SHARE * account.calls):
            return False
        account.spent += 1
        return True

    def answered(self, model: str) -> None:
        """A retry was answered, or not made after all."""
        account = self.accounts.get(model)
        if account is not None and account.spent:
            account.spent -= 1
