"""The ledger's vocabulary and ports: how journals become rows, and what may be asked of the rows afterwards.

A journal is read by one drain and posted in batches; a batch is one transaction, so that rows, meters, audit events and
the place reached are kept together or not at all. (request id, attempt) is the key of a row: posting twice is once.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from gatehouse.core.audit import AuditEvent
from gatehouse.core.money import format_usd
from gatehouse.core.records import Closed, MeterHold, Record
from gatehouse.core.usage import Price


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in a journal: the file's number (from 1) and the byte in it."""

    file: int = 1
    offset: int = 0


class JournalInfo(msgspec.Struct, frozen=True):
    """A journal as it was found. What was appended before the survey lies before `end`; a dead one never grows again."""

    incarnation: str
    alive: bool
    files: tuple[int, ...]
    """Numbers of the files that exist, ascending."""
    end: Position


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a journal that hold no readable record although records follow: [start, end) of one file."""

    incarnation: str
    file: int
    start: int
    end: int


class Slice(msgspec.Struct, frozen=True):
    """Records of one file, and where to go on: behind them or at the start of the next file. `caught_up`: nothing more for now."""

    records: tuple[Record, ...]
    position: Position
    caught_up: bool
    damage: tuple[Damage, ...] = ()
    torn: int = 0
    """Bytes at the very end of a dead journal that were never a whole record: nobody was told that they were kept."""


class JournalShelf(Protocol):
    """The journals of one data directory, for the one who drains them."""

    async def survey(self) -> list[JournalInfo]:
        """Every journal that exists. Raises Unavailable when the disk refuses."""

    async def read(self, journal: JournalInfo, position: Position, limit: int, until: Position | None = None) -> Slice:
        """Up to `limit` records from `position`, none behind `until`, where a record ends. Raises Unavailable when the disk refuses."""

    async def discard(self, incarnation: str, before: int | None = None) -> None:
        """Remove the files numbered below `before`, or the whole journal; a no-op where nothing is."""

    async def set_aside(self, incarnation: str) -> None:
        """Move a damaged journal out of the drain's way and keep it for whoever looks into it."""


class JournalState(msgspec.Struct, frozen=True):
    """What the books know of a journal.

    `seen`: its files were found at least once. `awaited`: not seen, but registered by this very process, so they may still
    come. `open` are records of calls that had not ended in files which are posted and gone.
    """

    incarnation: str
    position: Position
    seen: bool
    awaited: bool
    settled: bool
    damaged: bool
    open: tuple[Record, ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """One transaction's worth of a journal."""

    incarnation: str
    start: Position
    """Where the batch begins: the books refuse one that does not begin where the last one ended."""
    position: Position
    """Where the journal is read up to once this is posted."""
    rows: tuple[Closed, ...] = ()
    holds: dict[tuple[str, int], tuple[MeterHold, ...]] = {}
    """What each meter is charged for a lost row, by (request id, attempt); other rows charge their meters `charge` each."""
    keep_open: tuple[Record, ...] = ()
    """Open calls in files that this batch leaves behind."""
    ended: tuple[str, ...] = ()
    """Request ids kept open before that have ended."""
    events: tuple[AuditEvent, ...] = ()
    """Audit events beside those of the rows."""
    settled: bool = False
    """The journal is complete and its process is dead: nothing more will come."""
    damaged: bool = False


class Posted(msgspec.Struct, frozen=True):
    """What a batch did. `booked` is (meter id, units of 10^-10 USD), one entry a meter."""

    inserted: int
    booked: tuple[tuple[str, int], ...] = ()


class Books(Protocol):
    """Where the drain keeps what it read."""

    async def journals(self) -> list[JournalState]:
        """Every journal of this server that has not been forgotten."""

    async def register(self, incarnation: str) -> None:
        """Know of a journal before anything is lent to its process, so that its loss is noticed; a no-op when known."""

    async def post(self, batch: Batch) -> Posted:
        """Keep a batch, all or nothing.

        Raises:
            Unavailable: the database refuses, or somebody else has posted from this journal since; ask for `journals` again.
        """

    async def forget(self, incarnation: str) -> None:
        """The journal is settled and its files are gone."""


class Settlement(Protocol):
    """Who is told what the drain found: the office that grants leases. Each is told at least once, after the transaction."""

    async def booked(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """These amounts (meter id, units) of the incarnation's leases are spent now."""

    async def incarnation_settled(self, incarnation: str) -> None:
        """The process is dead and its journal is posted to the last record: what it held beyond that is free."""

    async def journal_lost(self, incarnation: str) -> None:
        """The journal is gone or damaged: what the incarnation held and nobody can account for is charged."""


Group = Literal["key", "model", "team", "target", "day", "outcome", "user"]
"""What usage can be grouped by, beside tags ("tag:<name>")."""


class UsageQuery(msgspec.Struct, frozen=True):
    """Rows of `tenant` that ended in [start, end), seconds since the epoch; None is unbounded."""

    tenant: str
    groups: tuple[str, ...] = ()
    """Each a Group or "tag:<name>"; a call without the tag, or without an end user, is in the row where the value is None."""
    start: float | None = None
    end: float | None = None


class UsageRow(msgspec.Struct, frozen=True):
    """One group. `requests` counts calls; tokens and money are those of every attempt."""

    group: dict[str, str | None]
    requests: int
    input_tokens: int
    output_tokens: int
    charge: int

    @property
    def cost_usd(self) -> str:
        """The exact cost as a decimal string."""
        return format_usd(self.charge)


class Page(msgspec.Struct, frozen=True):
    """Final rows, newest first. `next_cursor` is None on the last page; it stays good while new calls arrive."""

    rows: tuple[Closed, ...]
    next_cursor: str | None


class LedgerReader(Protocol):
    """Questions about what happened; never asked on the way of a call."""

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """One row a group, in the order of the groups' values."""

    async def attempts(self, tenant: str, request_id: str) -> list[Closed]:
        """Every row of a call in the order in which they ended; empty when `tenant` has no such call."""

    async def requests(self, tenant: str, limit: int, cursor: str | None) -> Page:
        """The calls of `tenant` that ended last. Raises InvalidRequest for a cursor that is not one of ours."""


class PriceBook(Protocol):
    """Price snapshots by the id that ledger rows carry."""

    async def keep(self, prices: Sequence[Price]) -> None:
        """Remember them; a snapshot that is known stays as it is."""

    async def price(self, snapshot: str) -> Price | None:
        """The price under this id."""


def audit_event(row: Closed) -> AuditEvent:
    """The one audit event of a call, from its final row."""
    detail = {"policy": row.policy, "attempt": str(row.attempt), "cost_usd": format_usd(row.charge), "cache": row.cache}
    if row.model:
        detail["model"] = row.model
    if row.target:
        detail["target"] = row.target
    if row.team:
        detail["team"] = row.team
    if row.error:
        detail["error"] = row.error
    if row.flags:
        detail["flags"] = ",".join(row.flags)
    return AuditEvent(
        at=row.at,
        kind="call",
        action=row.operation,
        actor=row.key_id,
        tenant=row.tenant,
        subject=row.request_id,
        outcome=row.outcome,
        detail=detail,
        commitment=row.commitment,
    )
