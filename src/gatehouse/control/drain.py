"""The drain: journals become ledger rows, charged meters and audit events; whoever died with a call open is settled.

Everything it remembers between passes can be rebuilt from books and journals, so whatever goes wrong, it forgets and begins
again where the books stand. A row is posted once however often it is read.
"""

import asyncio
import logging
from typing import Final

import msgspec

from gatehouse.core.audit import AuditEvent
from gatehouse.core.errors import Unavailable
from gatehouse.core.ledger import Batch, Books, Damage, JournalInfo, JournalShelf, JournalState, Position, Settlement, Slice
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock, Tally
from gatehouse.core.records import Closed, MeterHold, Opened, Record
from gatehouse.core.usage import Usage

logger = logging.getLogger("gatehouse.drain")

BATCH: Final = 2000
"""Records a transaction: tens of milliseconds, so that leases and keys never wait long for the writer."""
LOST: Final = "lost"
"""The flag of a row that stands for a call whose process died."""


KEPT: Final = 0
"""In place of a file's number: the record is kept in the books."""


class _Open:
    """How far one journal is posted, and which of its calls have not ended."""

    __slots__ = ("calls", "damaged", "kept", "position")

    def __init__(self, position: Position, *, damaged: bool) -> None:
        self.position = position
        self.damaged = damaged
        self.calls: dict[str, tuple[Record, int]] = {}
        """By request id, the last record and the number of the file it stands in."""
        self.kept: frozenset[str] = frozenset()
        """Request ids of which the books keep a record."""


class Drain:
    """Reads every journal of this server into the books. One instance a data directory; passes never overlap."""

    def __init__(self, shelf: JournalShelf, books: Books, settlement: Settlement, clock: Clock, tally: Tally, batch: int = BATCH) -> None:
        self._shelf = shelf
        self._books = books
        self._settlement = settlement
        self._clock = clock
        self._tally = tally
        self._batch = batch
        self._open: dict[str, _Open] = {}
        self._turn = asyncio.Lock()
        self._begun = 0
        self._good = 0
        """The number of the last pass that reached every journal."""

    async def drain_now(self) -> int:
        """Post everything that was appended before this was called; the number of rows that are new.

        Raises:
            Unavailable: a journal or the books cannot be used; the others were drained nevertheless.
        """
        ticket = self._begun
        async with self._turn:
            if self._good > ticket:
                # A pass that began after we asked has seen all that we ask for.
                return 0
            self._begun += 1
            number = self._begun
            posted = await self._pass()
            self._good = number
            return posted

    async def _pass(self) -> int:
        known = {state.incarnation: state for state in await self._books.journals()}
        journals = await self._shelf.survey()
        posted = 0
        failure: Unavailable | None = None
        for journal in journals:
            try:
                posted += await self._drain(journal, known.get(journal.incarnation))
            except Unavailable as error:
                self._open.pop(journal.incarnation, None)
                failure = failure or error
                logger.warning("journal %s: %s", journal.incarnation, error.detail or error.message)
            except BaseException:
                self._open.pop(journal.incarnation, None)
                raise
        found = {journal.incarnation for journal in journals}
        for state in known.values():
            if state.incarnation not in found and not state.awaited:
                await self._missing(state)
        if failure is not None:
            raise failure
        return posted

    async def _drain(self, journal: JournalInfo, state: JournalState | None) -> int:
        posted = 0
        if state is None or not state.settled:
            here = await self._recall(journal, state)
            if journal.files and journal.files[0] < here.position.file:
                await self._shelf.discard(journal.incarnation, before=here.position.file)
            while here.position < journal.end or not journal.alive:
                read = await self._shelf.read(journal, here.position, self._batch)
                settled = read.caught_up and not journal.alive
                posted += await self._post(journal, here, read, settled=settled)
                if read.caught_up:
                    break
            if journal.alive:
                return posted
            damaged = here.damaged
        else:
            damaged = state.damaged
        await self._settle(journal.incarnation, damaged=damaged)
        return posted

    async def _recall(self, journal: JournalInfo, state: JournalState | None) -> _Open:
        """What is open in the journal as far as it is posted: from memory, or after a restart from books and the current file."""
        here = self._open.get(journal.incarnation)
        position = state.position if state is not None else Position()
        if here is not None and here.position == position:
            return here
        here = _Open(position, damaged=state is not None and state.damaged)
        if state is not None:
            here.kept = frozenset(record.request_id for record in state.open)
            here.calls = {record.request_id: (record, KEPT) for record in state.open}
            at = Position(position.file, 0)
            while at < position:
                read = await self._shelf.read(journal, at, self._batch, until=position)
                for record in read.records:
                    _follow(here.calls, record, position.file)
                at = read.position
                if read.caught_up:
                    break
        self._open[journal.incarnation] = here
        return here

    async def _post(self, journal: JournalInfo, here: _Open, read: Slice, *, settled: bool) -> int:
        calls = dict(here.calls)
        rows: list[Closed] = []
        holds: dict[tuple[str, int], tuple[MeterHold, ...]] = {}
        now = self._clock.now()
        for record in read.records:
            for before in _follow(calls, record, here.position.file):
                _end(before, rows, holds, now, final=False)
            if isinstance(record, Closed):
                rows.append(record)
        if settled:
            for record, _ in calls.values():
                _end(record, rows, holds, now, final=True)
            calls.clear()
        # Files before the new position will be removed: what is open in them moves into the books.
        leaving = {name: record for name, (record, file) in calls.items() if file != KEPT and file < read.position.file}
        batch = Batch(
            incarnation=journal.incarnation,
            start=here.position,
            position=read.position,
            rows=tuple(rows),
            holds=holds,
            keep_open=tuple(leaving.values()),
            ended=tuple(here.kept - calls.keys()),
            events=tuple(self._alarm(damage, now) for damage in read.damage),
            settled=settled,
            damaged=bool(read.damage),
        )
        if read.torn:
            logger.warning("journal %s: %d bytes at its end were not a whole record and are left out", journal.incarnation, read.torn)
        if read.position == here.position and not (rows or settled or batch.events):
            return 0
        posted = await self._books.post(batch)
        here.calls = calls | {name: (record, KEPT) for name, record in leaving.items()}
        here.kept = here.kept & calls.keys() | leaving.keys()
        here.damaged = here.damaged or batch.damaged
        here.position = read.position
        if posted.booked:
            await self._settlement.booked(journal.incarnation, posted.booked)
        return posted.inserted

    async def _settle(self, incarnation: str, *, damaged: bool) -> None:
        """The process is dead and the books are complete. Each step may be repeated after a crash."""
        if damaged:
            await self._settlement.journal_lost(incarnation)
            await self._shelf.set_aside(incarnation)
        else:
            await self._settlement.incarnation_settled(incarnation)
            await self._shelf.discard(incarnation)
        await self._books.forget(incarnation)
        self._open.pop(incarnation, None)

    async def _missing(self, state: JournalState) -> None:
        """Known to the books, and no files: we stopped before we could forget it, its process died before it began, or it is lost."""
        if not state.seen:
            # Should it have held something nevertheless, that is charged.
            await self._settlement.journal_lost(state.incarnation)
        elif not state.settled:
            logger.critical("journal %s is gone from the disk: whatever its process still held is charged", state.incarnation)
            self._tally.count("gatehouse_journal_errors_total")
            now = self._clock.now()
            rows: list[Closed] = []
            holds: dict[tuple[str, int], tuple[MeterHold, ...]] = {}
            known = self._open.pop(state.incarnation, None)
            open_calls = [record for record, _ in known.calls.values()] if known is not None else list(state.open)
            for record in open_calls:
                _end(record, rows, holds, now, final=True)
            await self._books.post(
                Batch(
                    incarnation=state.incarnation,
                    start=state.position,
                    position=state.position,
                    rows=tuple(rows),
                    holds=holds,
                    events=(_event(now, "journal.lost", state.incarnation, {}),),
                    settled=True,
                    damaged=True,
                )
            )
            await self._settlement.journal_lost(state.incarnation)
        elif state.damaged:
            await self._settlement.journal_lost(state.incarnation)
        else:
            await self._settlement.incarnation_settled(state.incarnation)
        await self._books.forget(state.incarnation)

    def _alarm(self, damage: Damage, now: float) -> AuditEvent:
        logger.critical(
            "journal %s: bytes %d to %d of file %d cannot be read; what stood there is charged as held and the files are kept",
            damage.incarnation, damage.start, damage.end, damage.file,
        )  # fmt: skip
        self._tally.count("gatehouse_journal_errors_total")
        place = {"file": str(damage.file), "start": str(damage.start), "end": str(damage.end)}
        return _event(now, "journal.damaged", damage.incarnation, place)


def _follow(calls: dict[str, tuple[Record, int]], record: Record, file: int) -> tuple[Opened, ...]:
    """Keep track of what is open. Returns what was opened and never closed although its call went on."""
    name = record.request_id
    entry = calls.pop(name, None)
    open_before = _open_attempts(entry[0]) if entry is not None else ()
    if isinstance(record, Opened):
        calls[name] = (record, file)
        beside = record.beside.attempt if record.beside is not None else 0
        return tuple(each for each in open_before if each.attempt != beside)
    left = tuple(each for each in open_before if each.attempt != record.attempt)
    if record.final:
        return left
    if len(left) == 1 and len(open_before) == 2:
        # One of two attempts at the same time has ended, and the other goes on.
        calls[name] = (left[0], file)
        return ()
    calls[name] = (record, file)
    return left


def _open_attempts(record: Record) -> tuple[Opened, ...]:
    """Those that a record says are open: one, or two that run at the same time."""
    if isinstance(record, Closed):
        return ()
    alone = msgspec.structs.replace(record, beside=None) if record.beside is not None else record
    return (alone,) if record.beside is None else (record.beside, alone)


def _end(record: Record, rows: list[Closed], holds: dict[tuple[str, int], tuple[MeterHold, ...]], now: float, *, final: bool) -> None:
    last = _open_attempts(record)[-1:] or (record,)
    for each in (*_open_attempts(record)[:-1], *last):
        row, held = lost_row(each, now, final=final and each is last[0])
        rows.append(row)
        if held:
            holds[row.request_id, row.attempt] = held


def lost_row(record: Record, now: float, *, final: bool) -> tuple[Closed, tuple[MeterHold, ...]]:
    """The end of a call whose process died with it, and what its meters are charged.

    An Opened is charged its hold, since nobody can tell what the target billed. A Closed that was not the last word of its
    call costs nothing more: attempt 0 only ends the call.
    """
    common = (record.tenant, record.team, record.key_id, record.operation, record.model, record.target)
    opened = record if isinstance(record, Opened) else None
    closed = record if isinstance(record, Closed) else None
    held = opened.holds if opened is not None else ()
    row = Closed(
        record.request_id,
        opened.attempt if opened is not None else 0,
        now,
        *common,
        target_model=closed.target_model if closed is not None else "",
        price=record.price,
        outcome=Outcome.LOST.value,
        error="",
        usage=Usage(),
        charge=opened.hold if opened is not None else 0,
        meters=tuple(hold.meter for hold in held),
        cache=closed.cache if closed is not None else "bypass",
        traffic=closed.traffic if closed is not None else "live",
        flags=(LOST,),
        duration_us=0,
        first_event_us=-1,
        stages=(),
        policy=record.policy,
        commitment=record.commitment,
        final=final,
        attribution=record.attribution,
    )
    return row, held


def _event(now: float, action: str, incarnation: str, detail: dict[str, str]) -> AuditEvent:
    return AuditEvent(now, "system", action, "gatehouse", "default", incarnation, "failed", detail)
