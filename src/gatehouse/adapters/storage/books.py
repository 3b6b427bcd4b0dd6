"""The drain's books in SQL: rows, sums, meters, leases, audit events and the place reached, in one transaction a batch."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import DataError

from gatehouse.adapters.storage._rows import MICROS, RowWriter, insert_ignoring, tags_text, tame
from gatehouse.adapters.storage._run import Run
from gatehouse.adapters.storage._tables import JOURNAL_OPEN, JOURNALS
from gatehouse.core.audit import AuditEvent
from gatehouse.core.errors import Unavailable
from gatehouse.core.ledger import Batch, JournalState, Position, Posted, audit_event
from gatehouse.core.records import Closed, MeterHold, Record

logger = logging.getLogger("gatehouse.storage")

Append = Callable[[Connection, Sequence[AuditEvent]], None]
"""Adds events to the audit log inside the transaction of what they tell about."""

_HOUR: Final = 3600 * MICROS
_HOUR_COLUMNS: Final = ("hour", "tenant", "key_id", "team", "model", "target", "outcome")
_SUM_COLUMNS: Final = ("requests", "input_tokens", "output_tokens", "charge")
_Sum = list[int]
_HourKey = tuple[int | str, ...]


class SqlBooks:
    """Implements `Books` for the journals of one server (one data directory)."""

    def __init__(self, run: Run, append: Append, server: str) -> None:
        self._run = run
        self._append = append
        self._server = server
        self._rows = RowWriter()
        self._registered: set[str] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Record).decode

    async def journals(self) -> list[JournalState]:
        """See `Books`."""
        return await self._run(self._journals)

    async def register(self, incarnation: str) -> None:
        """See `Books`."""
        self._registered.add(incarnation)
        await self._run(lambda connection: self._register(connection, incarnation))

    async def take_over(self, server: str) -> int:
        """Answer for the journals of `server`, whose data directory is gone for good: the next drain counts them as lost.

        Returns how many there are. For an operator: done while that server lives, its journals are settled too early.
        """
        theirs = update(JOURNALS).where(JOURNALS.c.server == server).values(server=self._server, seen=True)
        return await self._run(lambda connection: connection.execute(theirs).rowcount)

    async def post(self, batch: Batch) -> Posted:
        """See `Books`."""
        return await self._run(lambda connection: self._post(connection, batch))

    async def forget(self, incarnation: str) -> None:
        """See `Books`."""

        def work(connection: Connection) -> None:
            connection.execute(delete(JOURNAL_OPEN).where(JOURNAL_OPEN.c.incarnation == incarnation))
            connection.execute(delete(JOURNALS).where(JOURNALS.c.incarnation == incarnation))

        await self._run(work)

    def _journals(self, connection: Connection) -> list[JournalState]:
        kept: dict[str, list[Record]] = defaultdict(list)
        mine = select(JOURNALS.c.incarnation).where(JOURNALS.c.server == self._server)
        for row in connection.execute(select(JOURNAL_OPEN).where(JOURNAL_OPEN.c.incarnation.in_(mine))):
            kept[row.incarnation].append(self._decode(bytes(row.record)))
        return [
            JournalState(
                row.incarnation,
                Position(row.file, row.position),
                seen=row.seen,
                awaited=not row.seen and row.incarnation in self._registered,
                settled=row.settled,
                damaged=row.damaged,
                open=tuple(kept[row.incarnation]),
            )
            for row in connection.execute(select(JOURNALS).where(JOURNALS.c.server == self._server))
        ]

    def _register(self, connection: Connection, incarnation: str) -> None:
        if connection.execute(select(JOURNALS.c.file).where(JOURNALS.c.incarnation == incarnation)).first() is None:
            first = Position()
            connection.execute(
                insert(JOURNALS).values(
                    incarnation=incarnation,
                    server=self._server,
                    file=first.file,
                    position=first.offset,
                    seen=False,
                    settled=False,
                    damaged=False,
                )
            )

    def _post(self, connection: Connection, batch: Batch) -> Posted:
        self._register(connection, batch.incarnation)
        mine = JOURNALS.c.incarnation == batch.incarnation
        stands = connection.execute(select(JOURNALS.c.file, JOURNALS.c.position, JOURNALS.c.settled).where(mine).with_for_update()).one()
        if stands.settled or Position(stands.file, stands.position) != batch.start:
            raise Unavailable(
                "Somebody else has read this journal.", code="journal_moved", detail=f"{batch.incarnation}: {stands} is not {batch.start}"
            )
        inserted = self._insert(connection, batch.rows)
        booked = _charges(inserted, batch.holds)
        if booked:
            _add_to_meters(connection, batch.incarnation, booked)
        _add_to_hours(connection, inserted)
        _add_to_tag_hours(connection, [row for row in inserted if row.attribution is not None])
        events = [*batch.events, *(audit_event(row) for row in inserted if row.final)]
        if events:
            self._append(connection, events)
        self._keep_open(connection, batch)
        values: dict[str, Any] = {"file": batch.position.file, "position": batch.position.offset, "seen": True, "settled": batch.settled}
        if batch.damaged:
            values["damaged"] = True
        connection.execute(update(JOURNALS).where(mine).values(values))
        return Posted(len(inserted), tuple(booked.items()))

    def _insert(self, connection: Connection, rows: tuple[Closed, ...]) -> Sequence[Closed]:
        """Insert what is not there yet, and return it."""
        if not rows:
            return rows
        statement = insert_ignoring(connection.dialect)
        values = [self._rows.row(row) for row in rows]
        # Nearly always all are new, and one statement tells. Else one by one: which was there already, or is not fit to be stored?
        savepoint = connection.begin_nested()
        try:
            if connection.exec_driver_sql(statement, values).rowcount == len(rows):
                savepoint.commit()
                return rows
        except (DataError, OverflowError, ValueError):
            logger.warning("a batch of %d ledger rows holds values that are not fit to be stored; they are booked one by one", len(rows))
        savepoint.rollback()
        return [
            row for row, columns in zip(rows, values, strict=True) if connection.exec_driver_sql(statement, tame(columns)).rowcount == 1
        ]

    def _keep_open(self, connection: Connection, batch: Batch) -> None:
        table = JOURNAL_OPEN.c
        gone = {*batch.ended, *(record.request_id for record in batch.keep_open)}
        if gone:
            connection.execute(delete(JOURNAL_OPEN).where(table.incarnation == batch.incarnation, table.request_id.in_(sorted(gone))))
        if batch.keep_open:
            connection.execute(
                insert(JOURNAL_OPEN),
                [
                    {"incarnation": batch.incarnation, "request_id": record.request_id, "record": self._encode(record)}
                    for record in batch.keep_open
                ],
            )


def _charges(rows: Iterable[Closed], holds: dict[tuple[str, int], tuple[MeterHold, ...]]) -> dict[str, int]:
    charges: dict[str, int] = defaultdict(int)
    for row in rows:
        held = holds.get((row.request_id, row.attempt)) if holds else None
        if held is not None:
            for hold in held:
                charges[hold.meter] += hold.amount
        elif row.charge:
            for meter in row.meters:
                charges[meter] += row.charge
    return charges


def _add_to_meters(connection: Connection, incarnation: str, booked: dict[str, int]) -> None:
    # In one order everywhere, so that two servers on one database cannot wait for each other.
    meters = sorted(booked.items())
    mark = _mark(connection)
    connection.exec_driver_sql(
        f"INSERT INTO meters (meter, spent) VALUES ({mark}, {mark}) "  # noqa: S608 - the marks are ours
        "ON CONFLICT (meter) DO UPDATE SET spent = meters.spent + excluded.spent",
        meters,
    )
    connection.exec_driver_sql(
        f"UPDATE leases SET booked = booked + {mark} WHERE incarnation = {mark} AND meter = {mark}",  # noqa: S608
        [(charge, incarnation, meter) for meter, charge in meters],
    )


def _add_to_hours(connection: Connection, rows: Iterable[Closed]) -> None:
    sums: dict[_HourKey, _Sum] = {}
    for row in rows:
        _add(sums, _hour_key(row), row)
    _upsert(connection, "usage_hours", _HOUR_COLUMNS, sums)


def _add_to_tag_hours(connection: Connection, rows: Iterable[Closed]) -> None:
    sums: dict[_HourKey, _Sum] = {}
    for row in rows:
        assert row.attribution is not None
        tags, end_user = tags_text(row.attribution), row.attribution.end_user
        if tags or end_user:
            _add(sums, (*_hour_key(row), tags, end_user), row)
    _upsert(connection, "usage_tag_hours", (*_HOUR_COLUMNS, "tags", "end_user"), sums)


def _hour_key(row: Closed) -> _HourKey:
    return (round(row.at * MICROS) // _HOUR, row.tenant, row.key_id, row.team or "", row.model, row.target, row.outcome)


def _add(sums: dict[_HourKey, _Sum], key: _HourKey, row: Closed) -> None:
    total = sums.get(key)
    if total is None:
        total = sums[key] = [0, 0, 0, 0]
    total[0] += row.final
    total[1] += row.usage.input_total
    total[2] += row.usage.output_total
    total[3] += row.charge


def _upsert(connection: Connection, table: str, keys: tuple[str, ...], sums: dict[_HourKey, _Sum]) -> None:
    if not sums:
        return
    marks = ", ".join([_mark(connection)] * (len(keys) + len(_SUM_COLUMNS)))
    raised = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in _SUM_COLUMNS)
    connection.exec_driver_sql(
        f"INSERT INTO {table} ({', '.join((*keys, *_SUM_COLUMNS))}) VALUES ({marks}) "  # noqa: S608 - every name is ours
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {raised}",
        [tame((*key, *sums[key])) for key in sorted(sums)],
    )


def _mark(connection: Connection) -> str:
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"
