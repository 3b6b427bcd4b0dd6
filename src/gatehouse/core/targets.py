"""How targets are, as one process tells another: who is left alone and why, and how much work is before whom.

Durations are relative (seconds from now): processes share no clock.
"""

from typing import Literal, Protocol

import msgspec

Condition = Literal["closed", "half_open", "open", "resting", "quarantined"]
"""closed: asked as usual. open: failed too often. half_open: open no longer, a few calls try it. resting: said Retry-After.
quarantined: refused our credentials."""


class TargetState(msgspec.Struct, frozen=True, array_like=True):
    """What one process knows of a target. `own` is False when it only repeats what another process said."""

    target: str
    condition: Condition = "closed"
    seconds: float = 0.0
    """Until it is asked again; 0 when it is asked."""
    reason: str = ""
    """The code of the error that put it out, "ping" for a failed health check."""
    running: int = 0
    """Calls it is answering, where the model's policy counts them."""
    work: int = 0
    """Tokens of work in them."""
    first_event: float = -1.0
    """Smoothed seconds to the first event; -1 when not measured."""
    own: bool = True
    age: float = 0.0
    """Seconds since `first_event` was measured last."""


class TargetNews(Protocol):
    """The way to the other processes of this server, or of all servers."""

    def tell(self, states: tuple[TargetState, ...]) -> None:
        """Let the others know; never awaits, never raises."""
