"""What Dispatch needs of whoever keeps the journal of attempts."""

from collections.abc import Sequence
from typing import Protocol

from gatehouse.core.errors import GatehouseError
from gatehouse.core.money import Money
from gatehouse.core.plans import Target
from gatehouse.core.ports import Refused
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange


class Books(Protocol):
    """Implemented by `bookkeeping.Bookkeeper`."""

    def commits_beside(self, x: Exchange) -> bool:
        """Whether `commit` has something to wait for."""

    async def commit(self, x: Exchange) -> None:
        """Make the commitment of a large call beside the loop, before `opened` needs it."""

    def opened(self, x: Exchange, target: Target) -> None:
        """Write that an attempt at `target` begins: `x.attempts`, `x.target` and `x.opened` say so too."""

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        """The same of several, at the end of this turn of the loop, before anything is sent; those of which nothing will be written,
        each with why. `refused` is told of each that cannot be written then."""
        ...

    def not_opened(self, x: Exchange) -> None:
        """Take back what `x` says of an attempt whose record was refused."""

    async def durable(self) -> None:
        """Return when what was written is on disk."""

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        """Write that the attempt failed and that another follows."""

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: Money) -> None:
        """Write that attempt number `attempt` was stopped because another began first, and what it used."""
