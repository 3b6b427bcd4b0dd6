"""An attempt at a target: what the model is told of it, and what Dispatch knows while it runs."""

from collections.abc import Callable
from typing import Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Events
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Asked, Model, Number, Tally, Told
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.target_loads import Visit
from gatehouse.pipeline.turnstile import Ticket

Ask = Callable[[Call, Target, "Attempt", Told], Asked | None]
"""What a `core.ports.Direct` model has beside `answer`."""
MOST_GAUGES: Final = 1_000


class Attempt(msgspec.Struct, eq=False):
    """What a model is told beside the call."""

    request_id: str
    tenant: str
    deadlines: Deadlines
    ticket: Ticket | None = None
    number: int = 1
    """Which attempt of its call it is."""
    sent: bool = False
    traceparent: str = ""

    def vacated(self) -> None:
        """See `core.ports.Attempt`."""
        if self.ticket is not None:
            self.ticket.leave(done=True)


class Way(msgspec.Struct, frozen=True):
    """How a target is asked without waiting: whose `ask`, for how many seconds at most, and in which words."""

    target: Target
    seconds: float
    model: Model
    ask: Ask
    words: Callable[[Exchange, Call, Target, Attempt], Call]


class TargetGauges(dict[str, Number]):
    """By target id, what counts the calls that it is answering: looked up in the tally once and then kept, for a bounded number."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def __missing__(self, target_id: str) -> Number:
        if len(self) >= MOST_GAUGES:
            self.clear()
        self._tally.gauge("gatehouse_target_running", (target_id,), 0)
        gauge = self[target_id] = self._tally.counter("gatehouse_target_running", (target_id,))
        return gauge


class Run(msgspec.Struct, eq=False):
    """One call while Dispatch carries it: its attempt of the moment."""

    seconds: float
    candidate: Target
    """Who is to be asked, or is."""
    target: Target | None = None
    """Who is asked, until that is over."""
    model: Model | None = None
    attempt: Attempt | None = None
    number: int = 0
    """Of the attempt; 0 before it is in the journal."""
    asked: Asked | None = None
    """What was asked of the model without waiting, and then:"""
    resume: Callable[[Exchange, Answer | Events | None], object] | None = None
    """who is told that there are events, or that there is something to wait for;"""
    failure: Exception | None = None
    """why there is no answer. None then says that the model was never reached."""
    ticket: Ticket | None = None
    """Its place at the target's turnstile, where there is one."""
    probe: bool = False
    """It tries a target that was left alone."""
    visit: Visit | None = None
    """Its work at the target, where the policy counts that."""
    begun: bool = False
    counted: bool = False
    usage: Usage | None = None
    """The target's last word."""
    pieces: int = 0
    """Pieces of content since then."""
    characters: int = 0
    """Characters in them."""
