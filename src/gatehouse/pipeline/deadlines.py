"""Deadlines of running calls, for the price of two dictionary operations a call.

A timer for each call would be armed and cancelled millions of times to fire once. Calls that are given equally long are
due in the order they began, so one timer for each length, at the oldest of them, is enough.
"""

from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock
from gatehouse.pipeline.exchange import Exchange


class CallDeadlines:
    """Ends calls that take longer than they were given."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[float, dict[Exchange, float]] = {}
        """Seconds given -> running calls, oldest first, and when each is due. A length that is present has a timer."""

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._due.values())

    def start(self, x: Exchange, seconds: float, now: float) -> None:
        """End `x` with outcome deadline unless it is stopped within `seconds` from `now`, by the clock of durations."""
        calls = self._due.get(seconds)
        if calls is None:
            calls = self._due[seconds] = {}
            self._clock.call_later(seconds, self._look, seconds)
        calls[x] = now + seconds

    def stop(self, x: Exchange, seconds: float) -> None:
        """`x` has ended; a no-op when it was not started."""
        calls = self._due.get(seconds)
        if calls is not None:
            calls.pop(x, None)

    def _look(self, seconds: float) -> None:
        calls = self._due[seconds]
        now = self._clock.monotonic()
        late = []
        for x, due in calls.items():
            if due > now:
                self._clock.call_later(due - now, self._look, seconds)
                break
            late.append(x)
        else:
            del self._due[seconds]
        for x in late:
            calls.pop(x, None)
            x.end(Outcome.DEADLINE)
