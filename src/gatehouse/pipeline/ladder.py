"""The rungs below the last target: an earlier answer whose time is over, and words the operator wrote.

What they cost is nothing and what they say is whole, so such a call is completed, with a flag; a header tells the caller who answered.
"""

from collections.abc import Callable

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Choice, Events
from gatehouse.core.money import ZERO
from gatehouse.core.plans import Plan, Rung
from gatehouse.core.ports import Tally
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import NO_USAGE, Exchange

RUNG_HEADER = "x-gatehouse-rung"

Stale = Callable[[Exchange], Answer | None]
"""The answer to this very call that the cache had, though its time is over."""


class Rungs:
    """Serves every call of a process."""

    def __init__(self, tally: Tally, stale: Stale | None = None) -> None:
        self._tally = tally
        self._stale = stale

    def answered(self, x: Exchange, plan: Plan, rung: Rung) -> None:
        """Say who answers: always where there is more than one rung, and never where there is none."""
        if rung != "target" or plan.fallbacks or plan.ladder is not None:
            x.headers[RUNG_HEADER] = rung
        if rung != "target":
            x.flags.append(f"rung:{rung}")
            self._tally.count("gatehouse_degraded_total", (plan.model, rung))

    def below(self, x: Exchange) -> tuple[Rung, Answer] | None:
        """What could answer `x` after every target has failed; None when nothing does."""
        plan, call = x.plan, x.call
        ladder = plan.ladder if plan is not None else None
        if ladder is None or plan is None or call is None:
            return None
        if ladder.stale and self._stale is not None and (answer := self._stale(x)) is not None:
            return "stale", answer
        if ladder.text and _takes_text(call):
            choices = tuple([Choice(index, ladder.text) for index in range(call.choices)])
            # A count of nothing: who asked for the usage gets it, and nobody wrote a word of this.
            return "text", Answer(choices, x.request_id, plan.model, int(x.started_at), NO_USAGE)
        return None

    def descend(self, x: Exchange, plan: Plan, below: tuple[Rung, Answer]) -> Events:
        """Answer `x` with what `below` found; no attempt may be open any more."""
        rung, answer = below
        # Neither is kept: what is said while every target is out must not be said again when they are back.
        x.cache = "stale" if rung == "stale" else "bypass"
        x.target = None
        if x.lost is None:
            x.usage = NO_USAGE
            x.charge = ZERO
        self.answered(x, plan, rung)
        return Single(answer)


def _takes_text(call: Call) -> bool:
    """Whether any text is an answer to this call: not where numbers or JSON were asked for, or a tool has to be called."""
    if call.operation == "embedding":
        return False
    if call.tool_choice is not None and call.tool_choice.mode == "required":
        return False
    return call.response_format is None or call.response_format.kind == "text"
