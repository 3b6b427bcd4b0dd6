"""The steward's board of targets: what each worker last said of its targets, passed on to the others as it comes.

The steward decides nothing here. A worker that comes later is told what is known; what a dead one said is forgotten, because the
work it had there is gone and what it held against a target will be seen by the others soon enough.
"""

from collections.abc import Callable, Iterable

import msgspec

from gatehouse.core.ports import Clock
from gatehouse.core.targets import TargetState
from gatehouse.processes.protocol import TargetsTold

Send = Callable[[TargetsTold], object]


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

    def take(self, origin: str, message: TargetsTold, others: Iterable[Send]) -> None:
        """A worker told something: keep it and pass it on."""
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
