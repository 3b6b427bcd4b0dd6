"""An attempt at a target: what the model is told of it, and what Dispatch knows while it runs."""

from collections.abc import Callable
from typing import Final

from gatehouse.core.events import Events
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Asked, Model, Tally
from gatehouse.core.usage import Usage
from gatehouse.pipeline.target_loads import Visit
from gatehouse.pipeline.turnstile import Ticket

MOST_GAUGES: Final = 1_000


class Attempt:
    """What a model is told beside the call."""

    __slots__ = ("deadlines", "number", "request_id", "sent", "tenant", "ticket", "traceparent")

    def __init__(self, request_id: str, tenant: str, deadlines: Deadlines, ticket: Ticket | None) -> None:
        self.request_id = request_id
        self.tenant = tenant
        self.deadlines = deadlines
        self.number = 1
        """Which attempt of its call it is."""
        self.sent = False
        self.ticket = ticket
        self.traceparent = ""

    def vacated(self) -> None:
        """See `core.ports.Attempt`."""
        if self.ticket is not None:
            self.ticket.leave(done=True)


class TargetGauges(dict[str, Callable[[int], None]]):
    """By target id, what counts the calls that it is answering: looked up in the tally once and then kept, for a bounded number."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def __missing__(self, target_id: str) -> Callable[[int], None]:
        if len(self) >= MOST_GAUGES:
            self.clear()
        self._tally.gauge("gatehouse_target_running", (target_id,), 0)
        gauge = self[target_id] = self._tally.counter("gatehouse_target_running", (target_id,))
        return gauge


def _nobody(events: Events | None) -> None:
    """Who is told by default."""


class Run:
    """One call while Dispatch carries it: its attempt of the moment."""

    __slots__ = (
        "asked",
        "attempt",
        "begun",
        "candidate",
        "characters",
        "counted",
        "failure",
        "model",
        "number",
        "pieces",
        "probe",
        "resume",
        "seconds",
        "target",
        "ticket",
        "usage",
        "visit",
    )

    def __init__(self, seconds: float, candidate: Target) -> None:
        self.seconds = seconds
        self.candidate = candidate
        """Who is to be asked, or is."""
        self.target: Target | None = None
        """Who is asked, until that is over."""
        self.model: Model | None = None
        self.asked: Asked | None = None
        """What was asked of the model without waiting, and then:"""
        self.resume: Callable[[Events | None], object] = _nobody
        """who is told that there are events, or that there is something to wait for;"""
        self.failure: Exception | None = None
        """why there is no answer. None then says that the model was never reached."""
        self.attempt: Attempt | None = None
        self.number = 0
        """Of the attempt; 0 before it is in the journal."""
        self.ticket: Ticket | None = None
        """Its place at the target's turnstile, where there is one."""
        self.probe = False
        """It tries a target that was left alone."""
        self.visit: Visit | None = None
        """Its work at the target, where the policy counts that."""
        self.begun = False
        self.counted = False
        self.usage: Usage | None = None
        """The target's last word."""
        self.pieces = 0
        """Pieces of content since then."""
        self.characters = 0
        """Characters in them."""
