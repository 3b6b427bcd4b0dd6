"""What the authority on meters remembers across a crash, and what it publishes.

Money that was granted to a worker and is neither returned nor booked is *live*; when the worker is dead it is *in doubt*
and still counts, until the worker's journal has been drained or is known to be lost.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from gatehouse.core.limits import Dimension


class LeaseRow(msgspec.Struct, frozen=True):
    """Money that one incarnation of a worker was given from one meter, as cumulative totals in units of 10^-10 USD.

    `booked` belongs to the drain: it is the sum of the charges in the ledger for this incarnation and meter.
    """

    incarnation: str
    meter: str
    granted: int
    returned: int = 0
    booked: int = 0

    @property
    def outstanding(self) -> int:
        """What may still be charged; never negative, even when charges passed what was granted."""
        return max(0, self.granted - self.returned - self.booked)


class LeaseStore(Protocol):
    """Where grants of money survive. Any method may raise Unavailable, and then nothing changed."""

    async def load(self) -> list[LeaseRow]:
        """Every row not yet forgotten, `booked` as the ledger has it."""

    async def save(self, rows: Sequence[LeaseRow]) -> None:
        """Make `granted` and `returned` durable, in one transaction; inserts unknown rows and leaves `booked` as it stands.

        The drain adds to `booked` in the transaction that writes the ledger rows, and only for rows that were not there yet.
        """

    async def forget(self, incarnation: str, meters: Sequence[str] | None = None) -> None:
        """Remove the incarnation's rows, or those of `meters`; a no-op for unknown ones."""

    async def totals(self, incarnation: str, meters: Sequence[str]) -> list[tuple[int, int]]:
        """For each meter, in their order: all that was ever charged to it, and `booked` of this incarnation's row.

        Both are 0 when unknown, and both are of one moment. Reads totals, never the ledger.
        """

    async def write_off(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """The journal is lost: charge each (meter, amount) as spent and forget the incarnation, in one transaction.

        A second time, when the incarnation has no rows, it is a no-op.
        """


class MeterState(msgspec.Struct, frozen=True):
    """One line of the authority's statement. The invariant is cap + over >= spent + live + in_doubt.

    `over` is what was charged above a hold and beyond every lease; it is 0 unless a provider used more than the upper bound.
    Windows and slots have no `spent`: what counts in the current minute, or is held, is `live`.
    """

    meter: str
    dimension: Dimension
    cap: int | None
    """None for a meter nobody has drawn from since the authority started."""
    spent: int
    live: int
    in_doubt: int
    over: int

    @property
    def balanced(self) -> bool:
        """Whether the invariant holds. A cap lowered below what is already spent or lent breaks it until the period ends."""
        return self.cap is None or self.cap + self.over >= self.spent + self.live + self.in_doubt
