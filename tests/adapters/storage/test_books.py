"""Books, ledger, leases and prices on SQLite and on PostgreSQL: the same suites, the same answers."""

import uuid
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.adapters.storage.books import SqlBooks
from gatehouse.adapters.storage.leases import SqlLeaseStore
from gatehouse.adapters.storage.ledger import SqlLedger, SqlPriceBook
from gatehouse.adapters.storage.sql import Database
from gatehouse.core.attribution import Attribution
from gatehouse.core.audit import AuditEvent
from gatehouse.core.leases import LeaseRow
from gatehouse.core.ledger import Batch, Group, Position, UsageQuery
from gatehouse.core.records import Closed
from gatehouse.testing.lease_contract import Charge, LeaseStoreContract
from gatehouse.testing.storage_contract import ELEVEN, METER, BooksContract, PriceBookContract, batch_of, closed_record


@pytest.fixture
def logged() -> list[AuditEvent]:
    """The audit events that were appended."""
    return []


@pytest.fixture
def books(database: Database, logged: list[AuditEvent]) -> SqlBooks:
    """Of one server."""
    return SqlBooks(database.run, lambda _, events: logged.extend(events), "server-1")


@pytest.fixture
def other_books(database: Database) -> SqlBooks:
    """Of another server on the same database."""
    return SqlBooks(database.run, lambda _, events: None, "server-2")


@pytest.fixture
def ledger(database: Database) -> SqlLedger:
    """On the same database."""
    return SqlLedger(database.read)


class TestSqlBooks(BooksContract):
    """The contract."""

    async def test_an_audit_log_that_refuses_takes_the_batch_back(self, database: Database, ledger: SqlLedger) -> None:
        """No row without its event: they are one transaction."""

        def refuse(_: object, events: Sequence[AuditEvent]) -> None:
            raise RuntimeError("the log is sealed")

        books = SqlBooks(database.run, refuse, "server-1")
        with pytest.raises(RuntimeError):
            await books.post(batch_of(closed_record()))
        assert await ledger.attempts("default", "req_1") == []
        assert await books.journals() == []

    async def test_an_operator_takes_over_the_journals_of_a_server_that_is_gone(self, books: SqlBooks, other_books: SqlBooks) -> None:
        """From then on they are ours to miss."""
        await other_books.register("w2")
        assert await books.take_over("server-2") == 1
        (state,) = await books.journals()
        assert (state.incarnation, state.seen, state.awaited) == ("w2", True, False)
        assert await other_books.journals() == []


class TestSqlLeases(LeaseStoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, database: Database) -> SqlLeaseStore:
        """On the same database as the books that charge."""
        return SqlLeaseStore(database.run)

    @pytest.fixture
    def charge(self, books: SqlBooks) -> Charge:
        """As the drain does it: through ledger rows."""
        reached: dict[str, int] = {}

        async def post(incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
            start = reached.get(incarnation, 0)
            reached[incarnation] = start + 1
            rows = [closed_record(f"{incarnation}-{start}-{meter}", charge=amount, meters=(meter,)) for meter, amount in charges]
            await books.post(batch_of(*rows, start=start, position=start + 1, incarnation=incarnation))

        return post

    async def test_a_row_that_was_there_already_books_nothing(self, store: SqlLeaseStore, books: SqlBooks) -> None:
        """Twice is once for meters and leases too."""
        await store.save([LeaseRow("w1", METER, 1000)])
        await books.post(batch_of(closed_record(charge=40)))
        await books.post(batch_of(closed_record(charge=40), start=100, position=200))
        assert await store.totals("w1", [METER]) == [(40, 40)]


class TestSqlPriceBook(PriceBookContract):
    """The contract."""

    @pytest.fixture
    def prices(self, database: Database) -> SqlPriceBook:
        """Empty."""
        return SqlPriceBook(database.run)


Moment = st.integers(0, 4 * 3600).map(lambda seconds: ELEVEN - 3600 + seconds)
Groups = st.lists(st.sampled_from((*get_args(Group), "tag:project", "tag:stage")), unique=True).map(tuple)
Tags = st.dictionaries(st.sampled_from(["project", "stage"]), st.sampled_from("12"))
Attributed = st.none() | st.builds(lambda tags, user: Attribution(tuple(sorted(tags.items())), user), Tags, st.sampled_from(["", "u_1"]))
Made = st.tuples(Moment, st.sampled_from("ab"), st.sampled_from(["x", None]), st.booleans(), st.integers(0, 9), Attributed)


@given(rows=st.lists(Made, max_size=20), start=st.none() | Moment, end=st.none() | Moment, groups=Groups)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_usage_is_what_adding_up_the_rows_gives(
    books: SqlBooks,
    ledger: SqlLedger,
    rows: list[tuple[float, str, str | None, bool, int, Attribution | None]],
    start: float | None,
    end: float | None,
    groups: tuple[str, ...],
) -> None:
    """For any rows, range and grouping: hours from sums and edges from rows never count a row twice or not at all."""
    example = uuid.uuid4().hex
    records = [
        closed_record(
            f"{example}-{index}", tenant=example, at=at, key_id=key, team=team, final=final, charge=charge, attribution=attribution
        )
        for index, (at, key, team, final, charge, attribution) in enumerate(rows)
    ]
    expected: dict[tuple[str | None, ...], tuple[int, int]] = {}
    for record in records:
        if (start is None or record.at >= start) and (end is None or record.at < end):
            group = tuple(_value(record, name) for name in groups)
            requests, charge = expected.get(group, (0, 0))
            expected[group] = requests + record.final, charge + record.charge
    await books.post(Batch(example, Position(), Position(1, 1), tuple(records)))
    found = await ledger.usage(UsageQuery(example, groups, start, end))
    assert {tuple(row.group.values()): (row.requests, row.charge) for row in found} == expected


def _value(record: Closed, group: str) -> str | None:
    attribution = record.attribution or Attribution()
    if group.startswith("tag:"):
        return dict(attribution.tags).get(group.removeprefix("tag:"))
    known = {"key": record.key_id, "model": record.model, "team": record.team, "target": record.target, "outcome": record.outcome}
    return {"day": "2026-01-01", "user": attribution.end_user or None, **known}[group]
