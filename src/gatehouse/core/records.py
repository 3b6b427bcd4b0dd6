"""What is remembered of a call: the two journal records and what the ledger and the audit log are made from.

Opened is written after the last admit and before bytes go upstream; Closed before the last byte leaves. A refused call has
only a Closed. The drain turns each Closed into a ledger row and one audit event; an Opened without a Closed, after its
process died, is closed as `lost` and charged its hold.
"""

from operator import sub
from typing import Final

import msgspec

from gatehouse.core.attribution import Attribution
from gatehouse.core.usage import Usage

STAGES: Final = ("record", "identify", "read", "authorise", "route", "limit", "guard", "cache", "dispatch")
"""The names of the pipeline's stages, in order."""


class MeterHold(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How much of a money meter was held: what `lost` costs, and where the charge is booked."""

    meter: str
    amount: int


class Opened(msgspec.Struct, frozen=True, array_like=True, tag="o", gc=False):
    """`at` is seconds since the epoch. `holds` are money holds only: what else is held dies with the process."""

    request_id: str
    attempt: int
    at: float
    tenant: str
    team: str | None
    key_id: str
    operation: str
    model: str
    target: str
    price: str
    """The price snapshot's id, or "" when unknown."""
    holds: tuple[MeterHold, ...]
    hold: int
    """The most that this attempt may cost, in units of 10^-10 USD: what it is charged when it is lost, with a budget or without."""
    policy: str
    """Version of configuration and guard policy that decided."""
    commitment: bytes
    """Keyed commitment (HMAC) to the canonical call: proves later what was asked without telling it."""
    attribution: Attribution | None = None
    """Cost tags, end user and trace, as far as policy keeps them; None when there is nothing of it."""
    beside: "Opened | None" = None
    """Another attempt of the call that was open when this one began: it goes on at the same time, and has a hold of its own."""


class StageTime(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Microseconds from the start of the call at which a stage's admit began, and how long it took."""

    stage: str
    start: int
    took: int


class Closed(msgspec.Struct, frozen=True, array_like=True, tag="c", gc=False):
    """The end of one attempt, or of a call that never had one (attempt 0, target "")."""

    request_id: str
    attempt: int
    at: float
    tenant: str
    team: str | None
    key_id: str
    """"" when the caller was never identified."""
    operation: str
    model: str
    """As resolved; "" when it never was, so that a caller's words never become a label."""
    target: str
    target_model: str
    price: str
    outcome: str
    error: str
    """The error's code, or ""."""
    usage: Usage
    charge: int
    meters: tuple[str, ...]
    """Money meters the charge is booked on."""
    cache: str
    """hit, miss or bypass."""
    traffic: str
    """The traffic class: live, batch, shadow, canary, probe."""
    flags: tuple[str, ...]
    """estimated_usage, over_hold, guard findings ("guard:<rule>") ..."""
    duration_us: int
    first_event_us: int
    """-1 when there was none."""
    stages: tuple[StageTime, ...]
    policy: str
    commitment: bytes
    final: bool
    """True on the last Closed of a call: exactly one a call has it, and becomes its audit event."""
    attribution: Attribution | None = None
    """As in Opened. Never part of the audit event: the log keeps for ever what may be personal here."""
    marks: tuple[float, ...] = ()
    """Instead of `stages`, as the process that carried the call noted them: seconds of its own clock at which the call began, and at
    which each stage of `STAGES` that it entered ended. A stage that never ended lasted until the call did."""

    def times(self) -> tuple[StageTime, ...]:
        """When each stage began and how long it took."""
        if not self.marks:
            return self.stages
        start = self.marks[0]
        marks = [int((mark - start) * 1e6) for mark in self.marks]
        return tuple(map(StageTime, STAGES, marks, map(sub, marks[1:], marks)))


Record = Opened | Closed
