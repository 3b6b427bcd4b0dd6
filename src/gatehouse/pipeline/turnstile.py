"""The turnstile: the one bounded line in front of a target that can do only so many choices at a time.

A remote provider takes what it is sent; an engine that is given more calls than it has slots does not queue, it collapses. So a
model may say how many slots it has (`Slotted`), and Dispatch lets no more calls through to it. Who waits, waits here, where it is
known who they are: classes by weight, tenants and keys each in their turn (`fair_line`). Nobody waits in vain: when the
time a call may take cannot be kept it is told at once, with the time after which it can, and its plan's next target is tried.

Each worker has a turnstile of its own and lets through as many calls as the target has slots; where several workers share one
engine, its host arbitrates among the few that each let through, first come, first served. Service times are measured here and
so contain that second wait: predictions stay true. What is fair among all callers of one worker is therefore fair across
workers only up to one round of slots for each of the others.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Target
from gatehouse.core.ports import Clock, Slotted, Tally, Timer
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.fair_line import LIVE, WEIGHTS, Entry, FairLine

LINE_FACTOR: Final = 32
"""Calls of one class that may wait for each slot."""
FIRST_GUESS: Final = 1.0
"""Seconds a call is taken to need before one has been seen."""
_SMOOTHING: Final = 8
"""An observation counts one part in this many."""


class Ticket(Entry):
    """A call's place at a turnstile: it waits, holds its slots, or has left."""

    __slots__ = ("_gate", "_problem", "_since", "_streams", "_timer", "_woken", "answering", "holding", "waiting")

    def __init__(self, gate: "_Gate", x: Exchange, call: Call) -> None:
        principal = x.principal
        kind = x.traffic if x.traffic in WEIGHTS else LIVE
        super().__init__((kind, principal.tenant, principal.key_id) if principal is not None else (kind, "", ""), call.choices)
        self._gate = gate
        self._streams = call.stream
        self._since = gate.clock.monotonic()
        """When it came; then, when it got its slots."""
        self._timer: Timer | None = None
        self._woken: asyncio.Future[None] | None = None
        self._problem: UpstreamFailed | None = None
        self.waiting = False
        self.holding = False
        self.answering = False

    async def turn(self) -> float:
        """Return when the slots are held; the seconds that took.

        Raises:
            UpstreamFailed: the turn did not come in time, or somebody with a better claim needed the place.
        """
        came = self._since
        if self.waiting:
            self._woken = asyncio.get_running_loop().create_future()
            try:
                await self._woken
            except asyncio.CancelledError:
                self.leave()
                raise
        if self._problem is not None:
            raise self._problem
        return self._since - came

    def began(self) -> None:
        """The target has begun to answer."""
        if not self.answering:
            self.answering = True
            if self.holding and self._streams:
                self._gate.began(self._gate.clock.monotonic() - self._since)

    def leave(self, *, done: bool = False) -> None:
        """Give back the place or the slots; a no-op when that has happened. `done`: the target has done its work."""
        if self.waiting:
            self._gate.left(self)
        elif self.holding:
            self.holding = False
            self._gate.freed(self, self._gate.clock.monotonic() - self._since, worked=done or self.answering)

    # --- from the gate ---------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """In the line now, for `seconds` at most."""
        self.waiting = True
        self._timer = self._gate.clock.call_later(seconds, self._gate.late, self)

    def seated(self) -> float:
        """The slots are its own now; returns the seconds it waited."""
        now = self._gate.clock.monotonic()
        waited, self._since = now - self._since, now
        self.holding = True
        self._end_of_wait()
        return waited

    def turned_away(self, problem: UpstreamFailed | None) -> None:
        """Out of the line without slots; None when it left by itself."""
        self._problem = problem
        self._end_of_wait()

    def _end_of_wait(self) -> None:
        self.waiting = False
        if self._timer is not None:
            self._timer.cancel()
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Turnstile:
    """The gates of a process's targets. `models` are those with slots, by provider; the mapping may change between calls."""

    def __init__(self, models: Mapping[str, Slotted], clock: Clock, tally: Tally) -> None:
        self.models = models
        self._clock = clock
        self._tally = tally
        self._gates: dict[str, _Gate] = {}

    @property
    def tickets(self) -> int:
        """Calls that wait or hold slots."""
        return sum(gate.tickets for gate in self._gates.values())

    def enter(self, x: Exchange, target: Target, left: float) -> Ticket | None:
        """A place at `target`, whose `turn` is to be awaited; None when it need not be, because the slots are not known.

        `left` is how many seconds the call has for everything.

        Raises:
            UpstreamFailed: upstream_overloaded; the line is full or too slow for the call's deadlines.
        """
        call = x.call
        assert call is not None
        model = self.models.get(target.provider)
        slots = model.slots if model is not None else None
        if slots is None or call.choices > slots:
            # Unknown until the engine has been spoken to; and more choices than slots is for the engine itself to refuse.
            return None
        gate = self._gates.get(target.provider)
        if gate is None:
            self._gates = {name: old for name, old in self._gates.items() if old.tickets or name in self.models}
            gate = self._gates[target.provider] = _Gate(self, target, self._clock, self._tally)
        first_byte = target.deadlines.first_byte if call.stream else left
        return gate.enter(Ticket(gate, x, call), slots, first_byte, left)

    def slots(self, provider: str) -> int | None:
        """What a provider's model says now."""
        model = self.models.get(provider)
        return model.slots if model is not None else None


class _Gate:
    """One target's line, and what was seen of its speed."""

    def __init__(self, turnstile: Turnstile, target: Target, clock: Clock, tally: Tally) -> None:
        self.clock = clock
        self._turnstile = turnstile
        self._provider = target.provider
        self._labels = (target.id,)
        self._tally = tally
        self._line: FairLine[Ticket] = FairLine()
        self._seated: dict[Ticket, float] = {}
        """Who holds slots, and since when, the newest last."""
        self._waiting = 0
        self._service = 0.0
        """Seconds that a call holds its slots; 0 before one was seen."""
        self._begin = 0.0
        """Seconds from the slots to the first event."""

    @property
    def tickets(self) -> int:
        """Calls that wait or hold slots."""
        return self._waiting + len(self._seated)

    def enter(self, ticket: Ticket, slots: int, first_byte: float, left: float) -> Ticket:
        """Seat it, or let it wait. Raises UpstreamFailed when neither will do."""
        line = self._line
        if line.empty and line.held + ticket.slots <= slots:
            line.seat(ticket)
            self._seat(ticket)
            return ticket
        patience = min(first_byte - self._begin, left - self._service)
        wait = self._wait(ticket, slots)
        if wait > patience:
            raise self._refusal("deadline", wait - max(patience, 0.0))
        if line.calls(ticket.path[0]) >= LINE_FACTOR * slots:
            advice = line.typical / slots
            victim = line.longest(ticket)
            if victim is None:
                raise self._refusal("full", advice)
            self._out(victim, self._refusal("displaced", advice))
        line.join(ticket, self.clock.monotonic())
        self._waiting += 1
        self._tally.gauge("gatehouse_target_waiting", self._labels, 1)
        ticket.wait(patience)
        return ticket

    def left(self, ticket: Ticket) -> None:
        """It does not want to wait any more."""
        self._out(ticket, None)
        self._serve()

    def late(self, ticket: Ticket) -> None:
        """Its deadlines cannot be kept any more."""
        if ticket.waiting:
            self._out(ticket, self._refusal("late", self._wait(ticket, self._turnstile.slots(self._provider) or 1)))
            self._serve()

    def freed(self, ticket: Ticket, seconds: float, *, worked: bool) -> None:
        """Its slots can be given to the next."""
        del self._seated[ticket]
        self._line.free(ticket, seconds)
        if worked:
            self._service = _smooth(self._service, seconds)
        self._serve()

    def began(self, seconds: float) -> None:
        """A call had its first event so long after its slots."""
        self._begin = _smooth(self._begin, seconds)

    def _typical(self) -> float:
        """Seconds a call holds its slots: as seen, or longer when even the newest has held them longer already."""
        newest = next(reversed(self._seated.values()), None)
        age = self.clock.monotonic() - newest if newest is not None else 0.0
        return max(self._service or FIRST_GUESS, age)

    def _wait(self, ticket: Ticket, slots: int) -> float:
        """Seconds until a call that joins now will probably be served: what runs, what goes before it, and the pace of its key."""
        line, now = self._line, self.clock.monotonic()
        typical = line.typical = self._typical()
        work = typical * (line.ahead(ticket.path, slots) + ticket.slots - 1)
        for seated, since in self._seated.items():
            left = typical - (now - since)
            # What takes longer than usual may take as long again.
            work += seated.slots * (left if left > 0 else typical)
        return max(work / slots, line.at_its_pace(ticket.path))

    def _seat(self, ticket: Ticket) -> float:
        waited = ticket.seated()
        self._seated[ticket] = self.clock.monotonic()
        return waited

    def _serve(self) -> None:
        line = self._line
        if line.empty:
            return
        slots = self._turnstile.slots(self._provider)
        line.typical = self._service or FIRST_GUESS
        now = self.clock.monotonic()
        while (slots is None or line.held < slots) and (ticket := line.next()) is not None:
            if slots is not None and line.held and line.held + ticket.slots > slots:
                line.pin(ticket)
                return
            line.serve(ticket, now)
            self._waited(self._seat(ticket))

    def _out(self, ticket: Ticket, problem: UpstreamFailed | None) -> None:
        self._line.drop(ticket)
        ticket.turned_away(problem)
        self._waited(None)

    def _waited(self, seconds: float | None) -> None:
        self._waiting -= 1
        self._tally.gauge("gatehouse_target_waiting", self._labels, -1)
        if seconds is not None:
            self._tally.observe("gatehouse_target_wait_seconds", self._labels, seconds)

    def _refusal(self, reason: str, retry_after: float) -> UpstreamFailed:
        self._tally.count("gatehouse_target_turned_away_total", (*self._labels, reason))
        words = {
            "full": "The model is busy and too many calls wait for it.",
            "displaced": "The model is busy and too many calls wait for it.",
            "deadline": "The model is busy and would not answer in time.",
            "late": "The model is busy and did not come to this call in time.",
        }[reason]
        return UpstreamFailed(words, code="upstream_overloaded", retry_after=retry_after, detail=f"turnstile: {reason}", sent=False)


def _smooth(average: float, seconds: float) -> float:
    return average + (seconds - average) / _SMOOTHING if average else seconds
