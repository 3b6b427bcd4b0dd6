"""Grants of money in SQL. `booked` and `meters` belong to the drain (`books`); here they are read, and written only for a lost journal."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update

from gatehouse.adapters.storage._run import Run
from gatehouse.adapters.storage._tables import LEASES, METERS
from gatehouse.core.leases import LeaseRow


class SqlLeaseStore:
    """Implements `LeaseStore`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def load(self) -> list[LeaseRow]:
        """See `LeaseStore`."""
        rows = select(LEASES.c.incarnation, LEASES.c.meter, LEASES.c.granted, LEASES.c.returned, LEASES.c.booked)
        return await self._run(lambda connection: [LeaseRow(*row) for row in connection.execute(rows)])

    async def save(self, rows: Sequence[LeaseRow]) -> None:
        """See `LeaseStore`."""
        if rows:
            await self._run(lambda connection: _save(connection, rows))

    async def forget(self, incarnation: str, meters: Sequence[str] | None = None) -> None:
        """See `LeaseStore`."""
        gone = delete(LEASES).where(LEASES.c.incarnation == incarnation)
        if meters is not None:
            gone = gone.where(LEASES.c.meter.in_(meters))
        await self._run(lambda connection: connection.execute(gone))

    async def totals(self, incarnation: str, meters: Sequence[str]) -> list[tuple[int, int]]:
        """See `LeaseStore`."""
        if not meters:
            return []
        return await self._run(lambda connection: _totals(connection, incarnation, meters))

    async def write_off(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """See `LeaseStore`."""
        await self._run(lambda connection: _write_off(connection, incarnation, charges))


def _totals(connection: Connection, incarnation: str, meters: Sequence[str]) -> list[tuple[int, int]]:
    # One statement, so that both numbers are of one moment whatever the isolation.
    own = LEASES.c.incarnation == incarnation
    mine = select(LEASES.c.meter, LEASES.c.booked).where(own, LEASES.c.meter.in_(meters)).subquery()
    both = METERS.outerjoin(mine, METERS.c.meter == mine.c.meter)
    rows = select(METERS.c.meter, METERS.c.spent, func.coalesce(mine.c.booked, 0)).select_from(both).where(METERS.c.meter.in_(meters))
    found = {meter: (spent, booked) for meter, spent, booked in connection.execute(rows)}
    return [found.get(meter, (0, 0)) for meter in meters]


def _save(connection: Connection, rows: Sequence[LeaseRow]) -> None:
    change = (
        update(LEASES)
        .where(LEASES.c.incarnation == bindparam("of"), LEASES.c.meter == bindparam("on"))
        .values(granted=bindparam("given"), returned=bindparam("back"))
    )
    for row in rows:
        values = {"of": row.incarnation, "on": row.meter, "given": row.granted, "back": row.returned}
        if connection.execute(change, values).rowcount == 0:
            connection.execute(insert(LEASES).values(**_new(LEASES, row.incarnation, row.meter, row.granted, row.returned, 0)))


def _write_off(connection: Connection, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
    gone = connection.execute(delete(LEASES).where(LEASES.c.incarnation == incarnation))
    if gone.rowcount == 0:
        return
    for meter, charge in sorted(charges):
        more = update(METERS).where(METERS.c.meter == meter).values(spent=METERS.c.spent + charge)
        if connection.execute(more).rowcount == 0:
            connection.execute(insert(METERS).values(**_new(METERS, meter, charge)))


def _new(table: Table, *values: Any) -> dict[str, Any]:
    return dict(zip((column.name for column in table.columns), values, strict=True))
