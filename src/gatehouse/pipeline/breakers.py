"""The breaker of one target: a small state machine over the moments at which its calls ended. It reads no clock itself.

closed: calls pass; failures are counted. open: none passes until a moment. After it the breaker is half open: a bounded number of
calls try the target at a time. One that is answered closes the breaker *on probation*: the next failure opens it again, and for
longer, so that a target which begins well and then breaks cannot keep the door open. A call that ends well ends the probation.
"""

from typing import Final

from gatehouse.core.plans import Breaker
from gatehouse.core.targets import Condition

JITTER: Final = 0.2
"""A breaker is open for so much more or less than it should, by chance: processes do not come back all at once."""


class TargetBreaker:
    """Exists while there is something against the target. Moments are monotonic seconds."""

    __slots__ = ("_failed", "_passed", "_probing", "_window_ends", "condition", "heard", "policy", "reason", "row", "times", "until")

    def __init__(self, policy: Breaker) -> None:
        self.policy = policy
        self.condition: Condition = "closed"
        """closed, open, resting or quarantined; the last three are half open once `until` is over."""
        self.until = 0.0
        self.reason = ""
        self.row = 0
        """Failures in a row."""
        self.times = 0
        """How often it opened without a call that ended well in between."""
        self.heard = False
        """Another process said so; this one has seen nothing of it."""
        self._failed = 0
        self._passed = 0
        self._window_ends = 0.0
        self._probing = 0

    def shown(self, now: float) -> Condition:
        """The condition as it is told."""
        return "half_open" if self.condition != "closed" and now >= self.until else self.condition

    def lets(self, now: float) -> bool:
        """Whether a call may pass now."""
        if self.condition == "closed":
            return True
        return now >= self.until and (self.condition == "resting" or self._probing < self.policy.probes)

    def take(self, now: float) -> bool:
        """A call passes; True when it is a probe, which has to end in `probe_began` or `probe_left`."""
        if self.condition == "resting" and now >= self.until:
            self._close()
        if self.condition == "closed":
            return False
        self._probing += 1
        return True

    def probe_began(self) -> bool:
        """A probe is answered: closed, on probation. True when that is news."""
        self.probe_left()
        if self.condition == "closed":
            return False
        self._close()
        self.row = self.policy.failures - 1
        return True

    def probe_left(self) -> None:
        """A probe ended without a verdict."""
        self._probing = max(0, self._probing - 1)

    def passed(self, now: float) -> bool:
        """A call ended well. True when nothing is left against the target."""
        if self.condition != "closed":
            return False
        self.row = self.times = 0
        self._passed += 1
        return now >= self._window_ends

    def failed(self, now: float, reason: str, chance: float) -> bool:
        """A call failed of the target; `chance` in [0, 1) spreads the time it is left alone. True when this opened the breaker."""
        policy = self.policy
        self.heard = False
        if self.condition != "closed":
            if now < self.until:
                # One that was under way when the breaker opened: what it says is known.
                return False
            self._open(now, reason, chance)
            return True
        if now >= self._window_ends:
            self._window_ends = now + policy.window
            self._failed = self._passed = 0
        self.row += 1
        self._failed += 1
        much = self._failed >= policy.failures and self._failed >= policy.share * (self._failed + self._passed)
        if self.row < policy.failures and not much:
            return False
        self._open(now, reason, chance)
        return True

    def force(self, now: float, seconds: float, reason: str) -> bool:
        """Leave the target alone for `seconds` whatever was counted: a health check or another process says so. True when news."""
        news = self.condition == "closed"
        if news:
            self.condition = "open"
            self.reason = reason
        self.until = max(self.until, now + seconds)
        return news

    def rest(self, now: float, seconds: float, reason: str) -> bool:
        """The target asked to be left alone. True when that is news."""
        if self.condition in {"open", "quarantined"}:
            self.until = max(self.until, now + seconds)
            return False
        news = self.condition == "closed" or self.until <= now
        self.condition = "resting"
        self.reason = reason
        self.until = max(self.until, now + seconds)
        return news

    def quarantine(self, now: float, seconds: float, reason: str) -> bool:
        """The target refused our credentials. True when that is news."""
        news = self.condition != "quarantined"
        self.heard = False
        self.condition = "quarantined"
        self.reason = reason
        self.until = now + seconds
        self._probing = 0
        return news

    def try_now(self, now: float) -> None:
        """There is reason to believe that the target is back: let a probe through."""
        self.until = min(self.until, now)

    def _open(self, now: float, reason: str, chance: float) -> None:
        policy = self.policy
        if self.condition == "quarantined":
            seconds = policy.quarantine
        else:
            self.condition = "open"
            # Not 2 ** times for ever: a target may be out for weeks.
            seconds = min(policy.open * 2.0 ** min(self.times, 30), policy.longest)
        self.reason = reason
        self.until = now + seconds * (1.0 - JITTER + 2.0 * JITTER * chance)
        self.times += 1
        self.row = self._failed = self._passed = 0
        self._probing = 0

    def _close(self) -> None:
        self.condition = "closed"
        self.until = 0.0
        self.reason = ""
        self.heard = False
        self._probing = 0
