"""What this process knows against its targets: who failed, who asked to be left alone, who refused our credentials.

Nothing is kept of a target that is well, and nothing is counted: `ailing` is empty then, and that is all that Dispatch looks at.
What is found out is told to the other processes at once (`TargetNews`), and what they found out is heard: a target that is dead
for one worker is asked by the others only as a probe.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from gatehouse.core.errors import GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Clock, Rng, Tally
from gatehouse.core.targets import TargetNews, TargetState
from gatehouse.pipeline.breakers import TargetBreaker

logger = logging.getLogger("gatehouse.targets")

CREDENTIALS: Final = "upstream_auth"
OVERLOADED: Final = "upstream_overloaded"
PING: Final = "ping"
SPREAD: Final = 0.5
"""Seconds within which processes that heard of a dead target probe it, each at its own moment."""


class TargetHealth:
    """One per process."""

    def __init__(self, clock: Clock, rng: Rng, tally: Tally) -> None:
        self.ailing: dict[str, TargetBreaker] = {}
        """Targets with something against them, by id. The mapping itself stays the same."""
        self._monotonic = clock.monotonic
        self._rng = rng
        self._tally = tally
        self.news: TargetNews | None = None
        """Whom to tell; None where there is nobody else."""
        self._shown: dict[tuple[str, str], int] = {}

    # --- before a call ---------------------------------------------------------------------------------------------

    def lets(self, target: Target) -> bool:
        """Whether `target` may be asked now."""
        breaker = self.ailing.get(target.id)
        return breaker is None or breaker.lets(self._monotonic())

    def take(self, target: Target) -> bool:
        """`target` is asked; True when the call is a probe, to be told to whatever ends it."""
        breaker = self.ailing.get(target.id)
        return breaker is not None and breaker.take(self._monotonic())

    def earliest(self, targets: Iterable[Target]) -> float | None:
        """Seconds until the first of them may be asked; None when one may be asked now, or there is none."""
        now = self._monotonic()
        waits = []
        for target in targets:
            breaker = self.ailing.get(target.id)
            if breaker is None or breaker.lets(now):
                return None
            waits.append(max(breaker.until - now, 0.0))
        return min(waits, default=None)

    def refused_everywhere(self, targets: Iterable[Target]) -> bool:
        """Whether every one of them is out because it refused our credentials."""
        return all((breaker := self.ailing.get(target.id)) is not None and breaker.condition == "quarantined" for target in targets)

    def nobody(self, targets: Sequence[Target], retry_after: float) -> GatehouseError:
        """None of them can be asked now: why, and when one can; after `retry_after` seconds where that is not known."""
        if targets and self.refused_everywhere(targets):
            return UpstreamFailed(
                "The model is not available: its provider refused us.", code=CREDENTIALS, detail="quarantined", sent=False
            )
        wait = self.earliest(targets) if targets else None
        if wait is None:
            return Unavailable("No target of this model can be asked now.", retry_after=retry_after)
        return Unavailable(
            f"Every target of this model is left alone after failures; one is tried again in {max(wait, 0.1):.1f} s.",
            code="targets_out",
            retry_after=wait,
            detail=", ".join(f"{target.id}: {self.ailing[target.id].reason}" for target in targets if target.id in self.ailing),
        )

    # --- after it --------------------------------------------------------------------------------------------------

    def began(self, target: Target, *, probe: bool) -> None:
        """`target` has begun to answer."""
        breaker = self.ailing.get(target.id)
        if probe and breaker is not None and breaker.probe_began():
            self._changed(target.id, breaker)

    def ended_well(self, target: Target) -> None:
        """An answer of `target` is complete."""
        breaker = self.ailing.get(target.id)
        if breaker is not None and breaker.passed(self._monotonic()):
            del self.ailing[target.id]

    def left(self, target: Target, *, probe: bool) -> None:
        """The call ended before `target` could prove anything."""
        breaker = self.ailing.get(target.id)
        if probe and breaker is not None:
            breaker.probe_left()

    def failed(self, target: Target, error: UpstreamFailed, *, probe: bool) -> None:
        """An attempt at `target` failed, or its answer broke off."""
        self.left(target, probe=probe)
        policy = target.breaker
        if not policy.enabled:
            return
        if error.caller_fault:
            if error.sent:
                # It is well enough to find fault with a request.
                self.began(target, probe=probe)
            return
        if error.code == OVERLOADED and not error.sent:
            # Our own line or pool was full: that says nothing about the target.
            return
        now = self._monotonic()
        breaker = self.ailing.get(target.id)
        if breaker is None:
            breaker = self.ailing[target.id] = TargetBreaker(policy)
        breaker.policy = policy
        if error.code == CREDENTIALS:
            news = breaker.quarantine(now, policy.quarantine, error.code)
        elif error.retry_after is not None and error.retry_after > 0:
            news = breaker.rest(now, min(error.retry_after, policy.rest), error.code)
        else:
            news = breaker.failed(now, error.code, self._rng.random())
        if news:
            self._changed(target.id, breaker)

    # --- from elsewhere --------------------------------------------------------------------------------------------

    def pinged(self, target: Target, *, well: bool, seconds: float) -> None:
        """A health check of `target` ended; when it is not well the target is left alone for at least `seconds`, till after the next."""
        now = self._monotonic()
        breaker = self.ailing.get(target.id)
        if well:
            if breaker is not None and breaker.condition in {"open", "quarantined"}:
                breaker.try_now(now)
            return
        if breaker is None:
            breaker = self.ailing[target.id] = TargetBreaker(target.breaker)
        if breaker.force(now, seconds, PING):
            self._changed(target.id, breaker)

    def heard(self, states: Iterable[TargetState], targets: Iterable[Target]) -> None:
        """Another process tells what it has just found out of its own. `targets` are those this process may ask."""
        known = {target.id: target for target in targets}
        now = self._monotonic()
        for state in states:
            target = known.get(state.target)
            if target is None or not state.own or not target.breaker.enabled:
                continue
            breaker = self.ailing.get(target.id)
            if state.condition == "closed":
                if breaker is not None and breaker.condition in {"open", "quarantined"}:
                    breaker.try_now(now)
            elif state.seconds > 0 and (breaker is None or breaker.condition == "closed"):
                if breaker is None:
                    breaker = self.ailing[target.id] = TargetBreaker(target.breaker)
                # One call of this worker is then a probe in any case: what another saw may be the other's own trouble.
                breaker.condition = state.condition if state.condition in {"resting", "quarantined"} else "open"
                breaker.reason = state.reason
                breaker.until = now + state.seconds + SPREAD * self._rng.random()
                breaker.heard = True

    def forgive(self) -> None:
        """The configuration was read again: whoever refused our credentials or asked to be left alone is asked anew."""
        for name in [name for name, breaker in self.ailing.items() if breaker.condition in {"quarantined", "resting"}]:
            del self.ailing[name]

    # --- what is told ----------------------------------------------------------------------------------------------

    def states(self) -> dict[str, TargetState]:
        """Every target with something against it."""
        now = self._monotonic()
        return {name: _state(name, breaker, now) for name, breaker in self.ailing.items()}

    def tick(self) -> None:
        """Once a second: bring the gauges up to date; what came to an end by time alone is nobody's event."""
        if not self.ailing and not self._shown:
            return
        now = self._monotonic()
        shown: dict[tuple[str, str], int] = {}
        for name, breaker in self.ailing.items():
            if (condition := breaker.shown(now)) != "closed":
                shown[name, condition] = 1
        for labels in self._shown.keys() - shown.keys():
            self._tally.gauge("gatehouse_target_out", labels, -1)
        for labels in shown.keys() - self._shown.keys():
            self._tally.gauge("gatehouse_target_out", labels, 1)
        self._shown = shown

    def _changed(self, name: str, breaker: TargetBreaker) -> None:
        now = self._monotonic()
        condition = breaker.condition
        self._tally.count("gatehouse_target_changes_total", (name, condition))
        if condition == "quarantined":
            logger.error(
                "target %s refuses our credentials: it is not asked for %.0f s; mend its key and reload", name, breaker.until - now
            )
        elif condition == "closed":
            logger.info("target %s answers again", name)
        else:
            logger.warning("target %s is left alone for %.1f s (%s, %s)", name, breaker.until - now, condition, breaker.reason)
        if self.news is not None:
            self.news.tell((_state(name, breaker, now),))


def reachable(plans: Iterable[Plan]) -> tuple[Target, ...]:
    """Every target of these plans once."""
    return tuple({target.id: target for plan in plans for target in plan.everywhere}.values())


def _state(name: str, breaker: TargetBreaker, now: float) -> TargetState:
    return TargetState(name, breaker.shown(now), max(breaker.until - now, 0.0), breaker.reason, own=not breaker.heard)
