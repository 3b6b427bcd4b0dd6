"""Record is the first stage to be entered and the last to settle: whatever became of a call is in the journal and the counters.

Labels are what was configured or what we named ourselves, never what a caller sent: a call whose model never resolved
counts under "".
"""

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Final

from gatehouse.core.events import Events
from gatehouse.core.ports import Number, Tally
from gatehouse.core.usage import Usage
from gatehouse.pipeline.bookkeeping import Bookkeeper
from gatehouse.pipeline.exchange import Exchange

SAMPLE: Final = 16
"""Every so many calls the time of each stage is counted: nine histograms a call would cost more than most stages. Each call's own
times are in its record."""
_GUARD: Final = "guard:"
"""What a flag begins with that a guard rule set; the rule follows."""
_BUCKETS: Final = Usage.__struct_fields__
_amounts: Final = attrgetter(*_BUCKETS)
_kind: Final = attrgetter("plan", "target", "cache", "error", "outcome")
"""Calls of which these are the same are counted on the same sheet."""
MOST_SHEETS: Final = 1_000
"""Kinds of calls whose counters are kept at hand."""


class Record:
    """Closes the books on every call."""

    name = "record"

    def __init__(self, books: Bookkeeper, tally: Tally, stages: tuple[str, ...], sample: int = SAMPLE) -> None:
        self._books = books
        self._tally = tally
        self._stages = tuple((name,) for name in stages)
        self._sample = sample
        self._calls = 0
        tally.gauge("gatehouse_running", (), 0)
        self._running = tally.counter("gatehouse_running")
        self._sheets: dict[tuple[str, str, str, str, str], _Sheet] = {}

    async def admit(self, x: Exchange) -> Events | None:
        """Let the call in and count it as running."""
        self.at_once(x)
        return None

    def at_once(self, x: Exchange) -> bool:
        """All of `admit`: nothing here waits."""
        self._running.value += 1
        return True

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """As `at_once`, for several."""
        self._running.value += len(calls)
        return ()

    def settle(self, x: Exchange) -> None:
        """Write its end and count it."""
        self.settle_all((x,))

    def settle_all(self, calls: Sequence[Exchange]) -> None:
        """As `settle`, for several."""
        # The journal first: what it says is money, the counters are only for looking at.
        ended = self._books.closed(calls)
        self._running.value -= len(calls)
        for _, group in groupby(calls, _kind):
            alike = tuple(group)
            self._sheet(alike[0]).count(alike, ended)
        for x in calls:
            for flag in x.flags:
                if flag.startswith(_GUARD):
                    self._tally.count("gatehouse_guard_findings_total", (flag[len(_GUARD) :],))
        self._calls += len(calls)
        while self._calls >= self._sample:
            self._calls -= self._sample
            x = calls[-1 - self._calls]
            for labels, (began, ended) in zip(self._stages, pairwise((x.clock_start, *x.marks)), strict=False):
                self._tally.observe("gatehouse_stage_duration_seconds", labels, ended - began)

    def _sheet(self, x: Exchange) -> "_Sheet":
        """Where calls of this one's kind are counted."""
        plan, target, outcome, error = x.plan, x.target, x.outcome, x.error
        kind = (
            "" if plan is None else plan.label or plan.model,
            "" if target is None else target.id,
            "" if outcome is None else outcome.value,
            "" if error is None else error.code,
            x.cache,
        )
        sheet = self._sheets.get(kind)
        if sheet is None:
            sheet = self._sheets[kind] = _Sheet(self._tally, kind)
            if len(self._sheets) > MOST_SHEETS:
                del self._sheets[next(iter(self._sheets))]
        return sheet


class _Sheet:
    """The counters of one kind of call (model, target, outcome, error, cache), looked up once. Those that a kind never moves are
    not made: a series of zeros tells nobody anything."""

    __slots__ = ("_buckets", "_cost", "_kind", "_tally", "calls", "first_event", "seconds")

    def __init__(self, tally: Tally, kind: tuple[str, str, str, str, str]) -> None:
        model, _, outcome, _, _ = kind
        self._tally = tally
        self._kind = kind
        self.calls = tally.counter("gatehouse_requests_total", kind)
        self.seconds = tally.histogram("gatehouse_request_duration_seconds", (model, outcome))
        self._cost: Number | None = None
        self.first_event: Callable[[float], None] = self._first_event
        self._buckets: list[Number | None] = [None] * len(_BUCKETS)

    def count(self, calls: Sequence[Exchange], ended: float) -> None:
        """Calls of this kind have ended at that moment."""
        self.calls.value += len(calls)
        seconds, charge = self.seconds, 0
        for x in calls:
            seconds(ended - x.clock_start)
            charge += x.charge
            if x.first_event >= 0:
                self.first_event(x.first_event)
        if charge:
            if self._cost is None:
                self._cost = self._tally.counter("gatehouse_cost_usd_units_total", self._kind[:2])
            self._cost.value += charge
        numbers = self._buckets
        for place, amount in enumerate(map(sum, zip(*[_amounts(x.usage) for x in calls], strict=True))):
            if amount:
                number = numbers[place]
                if number is None:
                    number = numbers[place] = self._tally.counter("gatehouse_tokens_total", (*self._kind[:2], _BUCKETS[place]))
                number.value += amount

    def _first_event(self, seconds: float) -> None:
        self.first_event = self._tally.histogram("gatehouse_time_to_first_event_seconds", self._kind[:1])
        self.first_event(seconds)
