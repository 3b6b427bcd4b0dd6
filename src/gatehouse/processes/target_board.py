"""The steward's board of targets: what each worker last said of its targets, passed on to the others as it comes.

The steward decides nothing here. A worker that comes later is told what is known; what a dead one said is forgotten, because the
work it had there is gone and what it held against a target will be seen by the others soon enough. What other servers are told is all
of it taken together (`neighbours`).
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from gatehouse.core.ports import Clock
from gatehouse.core.targets import TargetState
from gatehouse.processes.protocol import TargetsTold

Send = Callable[[TargetsTold], object]
OUT: Final = frozenset({"open", "resting", "quarantined"})
"""Conditions of a target that is left alone."""
OLD_NEWS: Final = 10.0
"""Seconds after which every worker has said again how a target is that one of them found well."""


class Told(msgspec.Struct, frozen=True):
    """What one worker says of one target, and when (monotonic seconds)."""

    state: TargetState
    at: float


class TargetBoard:
    """One per steward. `alarm` is told of a target that refused our credentials, once until somebody saw it answer."""

    def __init__(self, clock: Clock, alarm: Callable[[TargetState], object]) -> None:
        self._monotonic = clock.monotonic
        self._alarm = alarm
        self._told: dict[str, dict[str, Told]] = {}
        self._alarmed: set[str] = set()
        self._well: dict[str, float] = {}
        """When a worker last found a target well that had been left alone."""

    def take(self, origin: str, message: TargetsTold, others: Iterable[Send]) -> None:
        """A worker told something: keep it and pass it on to the others."""
        now = self._monotonic()
        if message.everything:
            self._told[origin] = {}
        said = self._told.setdefault(origin, {})
        for state in message.states:
            said[state.target] = Told(state, now)
            if state.condition == "quarantined" and state.own and state.target not in self._alarmed:
                self._alarmed.add(state.target)
                self._alarm(state)
            elif state.condition == "closed" and not message.everything:
                self._alarmed.discard(state.target)
                self._well[state.target] = now
        passed_on = TargetsTold(message.states, message.everything, origin)
        for send in others:
            send(passed_on)

    def ended(self, origin: str, others: Iterable[Send]) -> None:
        """A worker is gone."""
        if self._told.pop(origin, None):
            for send in others:
                send(TargetsTold((), True, origin))

    def welcome(self, send: Send) -> None:
        """Tell a worker that has just begun."""
        for origin, states in self.now().items():
            send(TargetsTold(states, True, origin))
            send(TargetsTold(tuple(state for state in states if state.seconds), False, origin))

    def now(self) -> dict[str, tuple[TargetState, ...]]:
        """By worker, with the seconds that are left now."""
        now = self._monotonic()
        return {
            origin: tuple(
                msgspec.structs.replace(told.state, seconds=max(told.state.seconds - (now - told.at), 0.0)) for told in said.values()
            )
            for origin, said in self._told.items()
        }

    def together(self) -> tuple[TargetState, ...]:
        """What this server's workers have seen themselves, taken together: one state for each target of which there is something to say."""
        now = self._monotonic()
        self._well = {name: at for name, at in self._well.items() if now - at < OLD_NEWS}
        found: dict[str, TargetState] = {}
        for said in self._told.values():
            for name, told in said.items():
                state = self._seen(told, now)
                known = found.get(name)
                found[name] = state if known is None else _both(known, state)
        return tuple(state for state in found.values() if state.condition != "closed" or state.running or state.first_event >= 0)

    def _seen(self, told: Told, now: float) -> TargetState:
        """A state as it is now: without what its worker only heard, and without what another has disproved since."""
        state = told.state
        elapsed = now - told.at
        left = max(state.seconds - elapsed, 0.0)
        condition, reason = state.condition, state.reason
        if not state.own or told.at < self._well.get(state.target, told.at):
            condition, left, reason = "closed", 0.0, ""
        elif condition in OUT and not left:
            condition = "half_open"
        return msgspec.structs.replace(state, condition=condition, seconds=left, reason=reason, own=True, age=state.age + elapsed)


def _both(one: TargetState, other: TargetState) -> TargetState:
    """Two workers' states as one: their work added up, the worse condition, the newer measurement."""
    worse = max(one, other, key=lambda state: (state.seconds, state.condition != "closed"))
    newer = min(one, other, key=lambda state: state.age if state.first_event >= 0 else float("inf"))
    return TargetState(
        one.target,
        worse.condition,
        worse.seconds,
        worse.reason,
        one.running + other.running,
        one.work + other.work,
        newer.first_event,
        age=newer.age,
    )
