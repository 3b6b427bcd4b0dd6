"""Record is the first stage to be entered and the last to settle: whatever became of a call is in the journal and the counters.

Labels are what was configured or what we named ourselves, never what a caller sent: a call whose model never resolved
counts under "".
"""

from typing import Final

from gatehouse.core.events import Events
from gatehouse.core.ports import Tally
from gatehouse.pipeline.bookkeeping import Bookkeeper
from gatehouse.pipeline.exchange import NO_USAGE, Exchange

SAMPLE: Final = 16
"""Every so many calls the time of each stage is counted: nine histograms a call would cost more than most stages. Each call's own
times are in its record."""
_GUARD: Final = "guard:"
"""What a flag begins with that a guard rule set; the rule follows."""
_BUCKETS: Final = ("input", "cached_input", "cache_write", "output", "reasoning", "audio_input", "audio_output")


class Record:
    """Closes the books on every call."""

    name = "record"

    def __init__(self, books: Bookkeeper, tally: Tally, stages: tuple[str, ...], sample: int = SAMPLE) -> None:
        self._books = books
        self._tally = tally
        self._stages = tuple((name,) for name in stages)
        self._sample = sample
        self._calls = 0

    async def admit(self, x: Exchange) -> Events | None:
        """Let the call in and count it as running."""
        self.at_once(x)
        return None

    def at_once(self, x: Exchange) -> bool:
        """All of `admit`: nothing here waits."""
        self._tally.gauge("gatehouse_running", (), 1)
        return True

    def settle(self, x: Exchange) -> None:
        """Write its end and count it."""
        # The journal first: what it says is money, the counters are only for looking at.
        seconds = self._books.closed(x)
        tally = self._tally
        tally.gauge("gatehouse_running", (), -1)
        model = "" if x.plan is None else x.plan.model
        target = "" if x.target is None else x.target.id
        outcome = "" if x.outcome is None else x.outcome.value
        error = "" if x.error is None else x.error.code
        tally.count("gatehouse_requests_total", (model, target, outcome, error, x.cache))
        if x.usage is not NO_USAGE:
            for bucket in _BUCKETS:
                amount = getattr(x.usage, bucket)
                if amount:
                    tally.count("gatehouse_tokens_total", (model, target, bucket), amount)
        for flag in x.flags:
            if flag.startswith(_GUARD):
                tally.count("gatehouse_guard_findings_total", (flag[len(_GUARD) :],))
        if x.charge:
            tally.count("gatehouse_cost_usd_units_total", (model, target), x.charge)
        if x.first_event >= 0:
            tally.observe("gatehouse_time_to_first_event_seconds", (model,), x.first_event)
        tally.observe("gatehouse_request_duration_seconds", (model, outcome), seconds)
        self._calls += 1
        if self._calls >= self._sample:
            self._calls = 0
            at = x.clock_start
            for labels, mark in zip(self._stages, x.marks, strict=False):
                tally.observe("gatehouse_stage_duration_seconds", labels, mark - at)
                at = mark
