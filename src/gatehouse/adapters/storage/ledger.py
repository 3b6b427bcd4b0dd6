"""What may be asked of the ledger. Whole hours come from their sums; only the edges of a range read rows, through the index.

What tags and end users are booked under is summed apart, for those calls that have any: a report without them never looks there."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, case, func, or_, select, tuple_

from gatehouse.adapters.storage._rows import MICROS, closed_of, day_name
from gatehouse.adapters.storage._run import Run
from gatehouse.adapters.storage._tables import LEDGER, PRICE_SNAPSHOTS, USAGE_HOURS, USAGE_TAG_HOURS
from gatehouse.core.attribution import TAG_GROUP
from gatehouse.core.errors import InvalidRequest
from gatehouse.core.ledger import Page, UsageQuery, UsageRow
from gatehouse.core.records import Closed
from gatehouse.core.usage import Price

HOUR: Final = 3600 * MICROS
_GroupKey = tuple[str | int | None, ...]


class SqlLedger:
    """Implements `LedgerReader`. `read` serves what may take long, so that a report never stands in the drain's way."""

    def __init__(self, read: Run) -> None:
        self._read = read

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """See `LedgerReader`."""
        return await self._read(lambda connection: usage(connection, query))

    async def attempts(self, tenant: str, request_id: str) -> list[Closed]:
        """See `LedgerReader`."""
        rows = (
            select(LEDGER)
            .where(LEDGER.c.request_id == request_id, LEDGER.c.tenant == tenant)
            .order_by(LEDGER.c.final, LEDGER.c.at, LEDGER.c.attempt)
        )
        return await self._read(lambda connection: [closed_of(row) for row in connection.execute(rows)])

    async def requests(self, tenant: str, limit: int, cursor: str | None) -> Page:
        """See `LedgerReader`."""
        rows = select(LEDGER).where(LEDGER.c.tenant == tenant, LEDGER.c.final.is_(True))
        if cursor is not None:
            rows = rows.where(tuple_(LEDGER.c.at, LEDGER.c.request_id) < tuple_(*_place(cursor)))
        rows = rows.order_by(LEDGER.c.at.desc(), LEDGER.c.request_id.desc()).limit(limit + 1)
        found = await self._read(lambda connection: list(connection.execute(rows)))
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            tuple(closed_of(row) for row in found[:limit]),
            next_cursor=None if last is None else f"{last.at}.{last.request_id}",
        )


class SqlPriceBook:
    """Implements `PriceBook`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def keep(self, prices: Sequence[Price]) -> None:
        """See `PriceBook`."""
        new = {price.snapshot: msgspec.json.encode(price).decode() for price in prices}
        if not new:
            return

        def work(connection: Connection) -> None:
            known = set(connection.scalars(select(PRICE_SNAPSHOTS.c.snapshot).where(PRICE_SNAPSHOTS.c.snapshot.in_(new))))
            missing = [{"snapshot": snapshot, "price": text} for snapshot, text in new.items() if snapshot not in known]
            if missing:
                connection.execute(PRICE_SNAPSHOTS.insert(), missing)

        await self._run(work)

    async def price(self, snapshot: str) -> Price | None:
        """See `PriceBook`."""
        one = select(PRICE_SNAPSHOTS.c.price).where(PRICE_SNAPSHOTS.c.snapshot == snapshot)
        text = await self._run(lambda connection: connection.scalar(one))
        return None if text is None else msgspec.json.decode(text, type=Price)


def usage(connection: Connection, query: UsageQuery) -> list[UsageRow]:
    """One row a group."""
    sums: dict[_GroupKey, list[int]] = {}

    def add(key: _GroupKey, amounts: Sequence[Any], sign: int) -> None:
        total = sums.setdefault(key, [0, 0, 0, 0])
        for place, amount in enumerate(amounts):
            total[place] += sign * int(amount)

    named = tuple(name for name in query.groups if _attributed(name))
    for part in _parts(query):
        for row in connection.execute(part.all):
            add(_key(query.groups, row[:-4], {}), row[-4:], 1)
        if not named:
            continue
        for row in connection.execute(part.tagged):
            *plain, tags, end_user = row[:-4]
            add(_key(query.groups, plain, _values(named, tags, end_user)), row[-4:], 1)
            # It was among all of them as well, where nothing is known of tags.
            add(_key(query.groups, plain, {}), row[-4:], -1)
    rows = []
    for key in sorted(sums, key=lambda values: tuple((value is not None, value) for value in values)):
        requests, input_tokens, output_tokens, charge = sums[key]
        if named and not any(sums[key]):
            continue
        group: dict[str, str | None] = {name: _shown(name, value) for name, value in zip(query.groups, key, strict=True)}
        rows.append(UsageRow(group, requests, input_tokens, output_tokens, charge))
    return rows


def _attributed(group: str) -> bool:
    """Whether a group is one that only some calls have a value of: a tag, or the end user."""
    return group == "user" or group.startswith(TAG_GROUP)


def _values(named: tuple[str, ...], tags: str, end_user: str) -> dict[str, str | None]:
    """What a row of the tagged says of the groups asked for."""
    kept: dict[str, str] = msgspec.json.decode(tags) if tags else {}
    return {name: (end_user or None) if name == "user" else kept.get(name.removeprefix(TAG_GROUP)) for name in named}


def _key(groups: tuple[str, ...], plain: Sequence[Any], values: dict[str, str | None]) -> _GroupKey:
    """The values of all groups in the order they were asked for; `plain` are those of the columns."""
    columns = iter(plain)
    return tuple(values.get(name) if _attributed(name) else next(columns) for name in groups)


class _Part(msgspec.Struct, frozen=True):
    """One stretch of time: all of it by its columns, and the tagged of it by tags and end user too."""

    all: Select[Any]
    tagged: Select[Any]


def _parts(query: UsageQuery) -> Iterator[_Part]:
    """The range as whole hours and what sticks out on either side."""
    start = None if query.start is None else round(query.start * MICROS)
    end = None if query.end is None else round(query.end * MICROS)
    first = None if start is None else -(-start // HOUR)
    last = None if end is None else end // HOUR
    if first is not None and last is not None and first >= last:
        yield _rows(query, start, end)
        return
    if start is not None and first is not None and start < first * HOUR:
        yield _rows(query, start, first * HOUR)
    yield _Part(_hours(query, USAGE_HOURS, first, last), _hours(query, USAGE_TAG_HOURS, first, last))
    if end is not None and last is not None and last * HOUR < end:
        yield _rows(query, last * HOUR, end)


def _hours(query: UsageQuery, hours: Table, first: int | None, last: int | None) -> Select[Any]:
    table = hours.c
    columns: dict[str, ColumnElement[Any]] = {
        "key": table.key_id,
        "model": table.model,
        "team": table.team,
        "target": table.target,
        "outcome": table.outcome,
        "day": table.hour // 24,
    }
    groups = [columns[name].label(f"group_{name}") for name in query.groups if not _attributed(name)]
    if hours is USAGE_TAG_HOURS:
        groups += [table.tags.label("tags"), table.end_user.label("end_user")]
    sums = [func.coalesce(func.sum(column), 0) for column in (table.requests, table.input_tokens, table.output_tokens, table.charge)]
    rows = select(*groups, *sums).where(table.tenant == query.tenant)
    if first is not None:
        rows = rows.where(table.hour >= first)
    if last is not None:
        rows = rows.where(table.hour < last)
    return rows.group_by(*groups).having(func.count() > 0)


def _rows(query: UsageQuery, start: int | None, end: int | None) -> _Part:
    table = LEDGER.c
    columns: dict[str, ColumnElement[Any]] = {
        "key": table.key_id,
        "model": table.model,
        "team": func.coalesce(table.team, ""),
        "target": table.target,
        "outcome": table.outcome,
        "day": table.at // (24 * HOUR),
    }
    groups = [columns[name].label(f"group_{name}") for name in query.groups if not _attributed(name)]
    sums = [
        func.sum(case((table.final.is_(True), 1), else_=0)),
        func.sum(table.input + table.cached_input + table.cache_write + table.audio_input),
        func.sum(table.output + table.reasoning + table.audio_output),
        func.sum(table.charge),
    ]

    def grouped(extra: list[ColumnElement[Any]]) -> Select[Any]:
        rows = select(*groups, *extra, *sums).where(table.tenant == query.tenant, table.at >= start, table.at < end)
        return rows.group_by(*groups, *extra).having(func.count() > 0)

    tagged = grouped([table.tags, table.end_user]).where(or_(table.tags != "", table.end_user != ""))
    return _Part(grouped([]), tagged)


def _shown(name: str, value: str | int | None) -> str | None:
    if name == "day":
        return day_name(int(value or 0))
    if name == "team" and value == "":
        return None
    return None if value is None else str(value)


def _place(cursor: str) -> tuple[int, str]:
    at, dot, request_id = cursor.partition(".")
    if not dot or not at.isascii() or not at.isdecimal() or len(at) > 18 or not request_id or "\x00" in request_id:
        raise InvalidRequest("The cursor is not one that this list gave out.", param="cursor")
    return int(at), request_id
