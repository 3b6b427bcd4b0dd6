"""How much is before each target, and how soon it begins: kept only for targets of models whose policy asks for it.

Work is tokens: the prompt's, and as many as an answer of this target usually has. What other processes have sent there is added when they
tell. The time to the first event is a moving average that fades: what was slow long ago is given another chance. As far as this process's
own has faded, what another measured counts: own ones go before, because the way from elsewhere may be another.
"""

from collections.abc import Iterable
from math import exp
from typing import Final

from gatehouse.core.calls import Call
from gatehouse.core.ports import Clock
from gatehouse.core.targets import TargetState

FADES: Final = 10.0
"""Seconds after which an observation counts a third of what it did."""
NEWEST: Final = 0.3
"""How much of the average the newest observation is, at least."""
TYPICAL_OUTPUT: Final = 256
"""Tokens an answer is taken to have before one was seen."""
_SMOOTHING: Final = 16


class Load:
    """Of one target."""

    __slots__ = ("_at", "_first", "_told", "_told_at", "elsewhere", "elsewhere_work", "output", "running", "work")

    def __init__(self) -> None:
        self.running = 0
        self.work = 0
        self.elsewhere = 0
        """Calls that other processes have there."""
        self.elsewhere_work = 0
        self.output = float(TYPICAL_OUTPUT)
        """Smoothed tokens of an answer."""
        self._first = -1.0
        self._at = 0.0
        self._told = 0.0
        self._told_at = 0.0

    @property
    def all_running(self) -> int:
        """Calls there, of every process that tells."""
        return self.running + self.elsewhere

    @property
    def all_work(self) -> int:
        """Tokens of work there, of every process that tells."""
        return self.work + self.elsewhere_work

    def began(self, now: float, seconds: float) -> None:
        """A call had its first event after `seconds`."""
        if self._first < 0:
            self._first = seconds
        else:
            # A peak counts at once, a recovery a little at a time.
            share = 1.0 if seconds > self._first else max(NEWEST, 1.0 - exp((self._at - now) / FADES))
            self._first += (seconds - self._first) * share
        self._at = now

    def first_event(self, now: float) -> float:
        """Smoothed seconds to the first event, fading with their age; 0 when nothing was seen here or told."""
        own = exp((self._at - now) / FADES) if self._first > 0 else 0.0
        if self._told:
            return self._first * own + self._told * exp((self._told_at - now) / FADES) * (1.0 - own)
        return self._first * own

    def told(self, seconds: float, at: float) -> None:
        """Another process measured so much; the newest counts."""
        if at >= self._told_at:
            self._told = seconds
            self._told_at = at

    def age(self, now: float) -> float:
        """Seconds since it was measured here last."""
        return now - self._at

    @property
    def measured(self) -> float:
        """As it was when last seen; -1 when never."""
        return self._first

    def enter(self, work: int) -> None:
        """A call goes there."""
        self.running += 1
        self.work += work

    def leave(self, work: int, output: int) -> None:
        """It has ended with `output` tokens; 0 when it had no answer."""
        self.running -= 1
        self.work -= work
        if output:
            self.output += (output - self.output) / _SMOOTHING


class Visit:
    """One call at a target."""

    __slots__ = ("_load", "_since", "_work")

    def __init__(self, load: Load, work: int, since: float) -> None:
        self._load = load
        self._work = work
        self._since = since
        load.enter(work)

    def began(self, now: float) -> None:
        """It has its first event."""
        self._load.began(now, now - self._since)

    def leave(self, output: int) -> None:
        """It has ended with `output` tokens; 0 when it had no answer."""
        self._load.leave(self._work, output)


class TargetLoads:
    """Loads by target id; one that nobody asked for does not exist."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._loads: dict[str, Load] = {}
        self._elsewhere: dict[str, dict[str, tuple[int, int]]] = {}
        """Process -> target -> calls and tokens of work there."""

    def of(self, name: str) -> Load:
        """The load of a target, from now on kept."""
        load = self._loads.get(name)
        if load is None:
            load = self._loads[name] = Load()
        return load

    def enter(self, name: str, prompt: int, call: Call) -> Visit:
        """A call with a prompt of so many tokens goes to the target."""
        load = self.of(name)
        output = int(load.output) if call.max_tokens is None else min(int(load.output), call.max_tokens)
        return Visit(load, prompt + call.n * output, self._monotonic())

    def states(self) -> dict[str, TargetState]:
        """What this process has there, as it is told."""
        now = self._monotonic()
        return {
            name: TargetState(
                name,
                running=load.running,
                work=load.work,
                first_event=round(load.measured, 6),
                age=round(load.age(now), 3) if load.measured >= 0 else 0.0,
            )
            for name, load in self._loads.items()
            if load.running or load.measured >= 0
        }

    def heard(self, origin: str, states: Iterable[TargetState]) -> None:
        """Another process tells all that it has there; nothing when it has ended."""
        states = tuple(states)
        moment = self._monotonic()
        for state in states:
            if state.first_event > 0:
                self.of(state.target).told(state.first_event, moment - state.age)
        before = self._elsewhere.pop(origin, {})
        now = {state.target: (state.running, state.work) for state in states if state.running}
        if now:
            self._elsewhere[origin] = now
        for name in before.keys() | now.keys():
            if name in self._loads or name in now:
                load = self.of(name)
                load.elsewhere += now.get(name, (0, 0))[0] - before.get(name, (0, 0))[0]
                load.elsewhere_work += now.get(name, (0, 0))[1] - before.get(name, (0, 0))[1]
