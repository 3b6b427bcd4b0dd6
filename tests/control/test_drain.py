"""The drain over real journals and real books: what was appended is posted once, whatever dies or fails in between."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from gatehouse.adapters.storage._tables import JOURNAL_OPEN, LEDGER, METERS
from gatehouse.adapters.storage.books import SqlBooks
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.storage.ledger import SqlLedger
from gatehouse.adapters.storage.shelf import FileJournalShelf
from gatehouse.adapters.storage.sql import Database
from gatehouse.control.drain import Drain
from gatehouse.core.attribution import Attribution
from gatehouse.core.audit import AuditEvent
from gatehouse.core.errors import Unavailable
from gatehouse.core.ledger import Batch, Position, Posted
from gatehouse.core.records import Opened, Record
from gatehouse.testing.fakes import FakeClock, FakeTally
from gatehouse.testing.storage_contract import METER, closed_record, opened_record


class Settlements:
    """Writes down what it is told. `broken` raises instead, as an office whose database is away."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.charges: dict[str, int] = {}
        self.broken = False

    async def booked(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        self._say("booked", incarnation)
        for meter, amount in charges:
            self.charges[meter] = self.charges.get(meter, 0) + amount

    async def incarnation_settled(self, incarnation: str) -> None:
        self._say("settled", incarnation)

    async def journal_lost(self, incarnation: str) -> None:
        self._say("lost", incarnation)

    def _say(self, what: str, incarnation: str) -> None:
        if self.broken:
            raise Unavailable("away")
        self.told.append((what, incarnation))

    def ends(self) -> list[tuple[str, str]]:
        return [entry for entry in self.told if entry[0] != "booked"]


class FlakyBooks(SqlBooks):
    """Real books whose answer may be lost: `before` raises before the transaction, `after` when it is committed."""

    before = False
    after = False

    async def post(self, batch: Batch) -> Posted:
        if self.before:
            self.before = False
            raise Unavailable("away")
        posted = await super().post(batch)
        if self.after:
            self.after = False
            raise Unavailable("no answer")
        return posted


class House:
    """One data directory: journals, a database, and a drain that can be restarted."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.root = folder / "journals"
        self.database = database
        self.logged: list[AuditEvent] = []
        self.settlements = Settlements()
        self.tally = FakeTally()
        self.ledger = SqlLedger(database.read)
        self.shelf = FileJournalShelf(self.root)
        self.restart()

    def restart(self, batch: int = 2000) -> None:
        """A new steward: nothing is remembered but what is on disk."""
        self.books = FlakyBooks(self.database.run, lambda _, events: self.logged.extend(events), "server")
        self.drain = Drain(self.shelf, self.books, self.settlements, FakeClock(), self.tally, batch)

    def worker(self, name: str = "w1", rotate_bytes: int = 1_000_000) -> JournalWriter:
        return JournalWriter.open(self.root, name, rotate_bytes)

    async def rows(self, request_id: str) -> list[tuple[int, str, int, bool]]:
        """attempt, outcome, charge and final of every row of a call."""
        return [(row.attempt, row.outcome, row.charge, row.final) for row in await self.ledger.attempts("default", request_id)]

    async def spent(self) -> dict[str, int]:
        found = await self.database.read(lambda connection: list(connection.execute(select(METERS.c.meter, METERS.c.spent))))
        return {row.meter: row.spent for row in found}

    async def kept(self) -> int:
        return await self.database.read(lambda connection: connection.scalar(select(func.count()).select_from(JOURNAL_OPEN)) or 0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """On SQLite."""
    database = await Database.open("sqlite:///test.db", tmp_path)
    yield House(tmp_path, database)
    await database.close()


async def test_what_was_appended_is_posted_once(house: House) -> None:
    """From every journal, living ones too; a second pass finds nothing new."""
    one, two = house.worker("w1"), house.worker("w2")
    for worker, name in ((one, "a"), (two, "b")):
        worker.append(opened_record(name))
        worker.append(closed_record(name, charge=5))
    assert await house.drain.drain_now() == 2
    assert await house.drain.drain_now() == 0
    assert await house.rows("a") == [(1, "completed", 5, True)]
    assert await house.spent() == {METER: 10}
    assert sorted(house.settlements.told) == [("booked", "w1"), ("booked", "w2")]
    assert [event.subject for event in house.logged] == ["a", "b"]
    one.append(closed_record("c", 0, 0, outcome="refused"))
    assert await house.drain.drain_now() == 1
    await one.close()
    await two.close()


async def test_a_call_that_died_with_its_process_is_charged_its_hold(house: House) -> None:
    """Closed as lost, with one audit event; then the incarnation is settled and its files are gone."""
    worker = house.worker()
    worker.append(opened_record("a", hold=700, attribution=Attribution((("project", "apollo"),), "u_1")))
    worker.append(closed_record("b", charge=5))
    await house.drain.drain_now()
    assert await house.rows("a") == []
    await worker.close()
    await house.drain.drain_now()
    (row,) = await house.ledger.attempts("default", "a")
    assert (row.outcome, row.charge, row.flags, row.final, row.meters) == ("lost", 700, ("lost",), True, (METER,))
    assert row.attribution == Attribution((("project", "apollo"),), "u_1")
    assert await house.spent() == {METER: 705}
    assert house.settlements.told == [("booked", "w1"), ("booked", "w1"), ("settled", "w1")]
    assert [(event.subject, event.outcome) for event in house.logged] == [("b", "completed"), ("a", "lost")]
    assert list(house.root.iterdir()) == []
    assert await house.books.journals() == []


def beside(name: str = "a") -> tuple[Opened, Opened]:
    """Two attempts of a call that run at the same time, held for separately."""
    first = opened_record(name, 1, hold=700)
    return first, msgspec.structs.replace(opened_record(name, 2, hold=700), beside=first)


@pytest.mark.parametrize("loser", [1, 2])
@pytest.mark.parametrize("restart", [False, True])
async def test_two_attempts_at_the_same_time_are_two_rows(house: House, loser: int, restart: bool) -> None:
    """Whichever was overtaken: each has its own row with its own charge, and nothing counts as lost, wherever the drain stopped."""
    worker = house.worker()
    records: list[Record] = [*beside(), closed_record("a", loser, 3, outcome="failed", final=False), closed_record("a", 3 - loser, 5)]
    for record in records:
        worker.append(record)
        if restart:
            await house.drain.drain_now()
            house.restart()
    await house.drain.drain_now()
    assert sorted(await house.rows("a")) == sorted([(loser, "failed", 3, False), (3 - loser, "completed", 5, True)])
    assert await house.spent() == {METER: 8}
    await worker.close()
    await house.drain.drain_now()
    assert len(await house.rows("a")) == 2


@pytest.mark.parametrize(("closed", "charged"), [(0, {1: 700, 2: 700}), (1, {1: 3, 2: 700}), (2, {1: 700, 2: 3})])
async def test_a_process_that_dies_in_a_race_is_charged_the_hold_of_each_attempt_that_was_open(
    house: House, closed: int, charged: dict[int, int]
) -> None:
    """Nobody can tell what either target billed; one that had ended is not charged twice. The call has one end."""
    worker = house.worker()
    for record in beside():
        worker.append(record)
    if closed:
        worker.append(closed_record("a", closed, 3, outcome="failed", final=False))
    await house.drain.drain_now()
    house.restart()
    await worker.close()
    await house.drain.drain_now()
    rows = await house.rows("a")
    assert {attempt: charge for attempt, _, charge, _ in rows} == charged
    assert sum(final for *_, final in rows) == 1
    assert await house.spent() == {METER: sum(charged.values())}


async def test_a_restarted_drain_knows_what_is_open(house: House) -> None:
    """The opened record stands before the place reached; its end, or its loss, is matched all the same."""
    worker = house.worker()
    for name in ("a", "b"):
        worker.append(opened_record(name, hold=700))
    await house.drain.drain_now()
    house.restart()
    worker.append(closed_record("a", charge=1))
    await house.drain.drain_now()
    house.restart()
    await worker.close()
    await house.drain.drain_now()
    assert await house.rows("a") == [(1, "completed", 1, True)]
    assert await house.rows("b") == [(1, "lost", 700, True)]


async def test_full_files_go_while_their_open_calls_stay_known(house: House) -> None:
    """A worker may live for months and a call for hours: neither keeps old files on the disk."""
    worker = house.worker(rotate_bytes=1000)
    for name in ("long", "lost"):
        worker.append(opened_record(name, hold=700))
    for number in range(20):
        worker.append(closed_record(f"r{number}", charge=1))
    await house.drain.drain_now()
    await house.drain.drain_now()
    assert min(int(path.stem) for path in house.root.glob("w1/*.log")) > 1
    assert await house.kept() == 2
    house.restart()
    worker.append(closed_record("long", charge=9))
    await house.drain.drain_now()
    assert await house.kept() == 1
    await worker.close()
    house.restart()
    await house.drain.drain_now()
    assert await house.rows("long") == [(1, "completed", 9, True)]
    assert await house.rows("lost") == [(1, "lost", 700, True)]
    assert (await house.spent(), await house.kept()) == ({METER: 729}, 0)


async def test_a_call_that_goes_on_after_its_record_was_kept_ends_once(house: House) -> None:
    """Kept as opened, failed and opened again in a later file, then completed: nothing of it is left to be lost."""
    worker = house.worker(rotate_bytes=1000)
    worker.append(opened_record("a", 1))
    for number in range(10):
        worker.append(closed_record(f"r{number}", charge=0))
    await house.drain.drain_now()
    assert await house.kept() == 1
    worker.append(closed_record("a", 1, 0, outcome="failed", final=False))
    await house.drain.drain_now()
    worker.append(opened_record("a", 2))
    worker.append(closed_record("a", 2, 7))
    await house.drain.drain_now()
    assert await house.kept() == 0
    house.restart()
    await worker.close()
    await house.drain.drain_now()
    assert await house.rows("a") == [(1, "failed", 0, False), (2, "completed", 7, True)]
    assert len([event for event in house.logged if event.subject == "a"]) == 1


async def test_a_process_that_died_between_two_attempts_ends_the_call(house: House) -> None:
    """The failed attempt cost nothing, nothing was open: attempt 0 only says that the call is lost."""
    worker = house.worker()
    worker.append(opened_record("a", 1))
    worker.append(closed_record("a", 1, 0, outcome="failed", final=False))
    await worker.close()
    await house.drain.drain_now()
    assert await house.rows("a") == [(1, "failed", 0, False), (0, "lost", 0, True)]
    assert await house.spent() == {}


async def test_an_attempt_whose_end_is_missing_is_charged_when_the_next_one_begins(house: House) -> None:
    """Its closed record can only have been among damaged bytes: the hold is what is known."""
    worker = house.worker()
    worker.append(opened_record("a", 1, hold=700))
    worker.append(opened_record("a", 2, hold=600))
    worker.append(closed_record("a", 2, 7))
    worker.append(opened_record("b", 1, hold=50))
    worker.append(closed_record("b", 2, 3))
    await house.drain.drain_now()
    assert sorted(await house.rows("a")) == [(1, "lost", 700, False), (2, "completed", 7, True)]
    assert sorted(await house.rows("b")) == [(1, "lost", 50, False), (2, "completed", 3, True)]
    assert await house.spent() == {METER: 760}
    await worker.close()


async def test_books_that_refuse_hold_up_one_journal_and_lose_nothing(house: House) -> None:
    """The others are drained; who asked is told; the next pass goes on."""
    workers = [house.worker(name) for name in ("w1", "w2")]
    for worker, name in zip(workers, "ab", strict=True):
        worker.append(closed_record(name, charge=5))
    house.books.before = True
    with pytest.raises(Unavailable):
        await house.drain.drain_now()
    assert (await house.rows("a"), await house.rows("b")) == ([], [(1, "completed", 5, True)])
    assert await house.drain.drain_now() == 1
    assert await house.spent() == {METER: 10}
    for worker in workers:
        await worker.close()


async def test_a_commit_whose_answer_was_lost_is_not_repeated(house: House) -> None:
    """The books say where they stand, and the drain goes on from there."""
    worker = house.worker()
    worker.append(opened_record("a"))
    worker.append(closed_record("a", charge=5))
    worker.append(opened_record("b", hold=70))
    house.books.after = True
    with pytest.raises(Unavailable):
        await house.drain.drain_now()
    assert await house.drain.drain_now() == 0
    worker.append(closed_record("b", charge=6))
    assert await house.drain.drain_now() == 1
    assert await house.spent() == {METER: 11}
    await worker.close()


async def test_an_office_that_cannot_be_told_is_told_later(house: House) -> None:
    """Settling is repeated until it is through; the files stay until then."""
    worker = house.worker()
    worker.append(opened_record("a", hold=70))
    await worker.close()
    house.settlements.broken = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await house.drain.drain_now()
    assert (house.root / "w1").exists()
    house.restart()
    house.settlements.broken = False
    await house.drain.drain_now()
    assert house.settlements.ends() == [("settled", "w1")]
    assert await house.spent() == {METER: 70}
    assert (await house.books.journals(), list(house.root.iterdir())) == ([], [])


async def test_a_crash_after_the_files_were_removed_is_not_taken_for_a_loss(house: House) -> None:
    """Settled in the books and not on disk: only forgetting was left to do."""
    await house.books.post(Batch("w1", Position(), Position(1, 9), (closed_record(),), settled=True))
    await house.drain.drain_now()
    assert house.settlements.told == [("settled", "w1")]
    assert await house.books.journals() == []


async def test_damage_is_told_charged_and_kept(house: House) -> None:
    """What can be read is posted; the lease office charges what nobody can account for; the files wait for an operator."""
    worker = house.worker()
    for name in ("a", "b", "c"):
        worker.append(closed_record(name, charge=5))
    await worker.close()
    path = house.root / "w1" / "1.log"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    await house.drain.drain_now()
    assert [len(await house.rows(name)) for name in ("a", "b", "c")] == [1, 0, 1]
    assert house.settlements.ends() == [("lost", "w1")]
    assert [event.action for event in house.logged] == ["journal.damaged", "chat", "chat"]
    assert house.tally.counts["gatehouse_journal_errors_total", ()] == 1
    assert (house.root.parent / "journals-damaged" / "w1" / "1.log").read_bytes() == bytes(content)
    assert await house.drain.drain_now() == 0
    assert await house.books.journals() == []


async def test_damage_in_a_living_journal_is_remembered_until_its_end(house: House) -> None:
    """Also by a steward that was started after it was found."""
    worker = house.worker()
    worker.append(closed_record("a"))
    path = house.root / "w1" / "1.log"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
    worker.append(closed_record("b"))
    await house.drain.drain_now()
    house.restart()
    await worker.close()
    await house.drain.drain_now()
    assert house.settlements.ends() == [("lost", "w1")]


async def test_a_journal_that_is_gone_is_a_loss(house: House) -> None:
    """Its open calls are charged their holds, its leases are written off, and the audit log says so."""
    worker = house.worker()
    worker.append(opened_record("a", hold=70))
    await house.drain.drain_now()
    await worker.close()
    shutil.rmtree(house.root)
    await house.drain.drain_now()
    assert house.settlements.ends() == [("lost", "w1")]
    assert await house.rows("a") == [(1, "lost", 70, True)]
    assert [event.action for event in house.logged] == ["journal.lost", "chat"]
    assert await house.books.journals() == []


async def test_a_worker_that_is_starting_is_not_a_loss(house: House) -> None:
    """Registered by this steward and not on disk yet: it may still come. By an earlier one: it never will."""
    await house.books.register("w1")
    await house.drain.drain_now()
    assert house.settlements.told == []
    worker = house.worker()
    await house.drain.drain_now()
    await worker.close()
    await house.drain.drain_now()
    assert house.settlements.told == [("settled", "w1")]
    await house.books.register("w2")
    house.restart()
    await house.drain.drain_now()
    assert house.settlements.told == [("settled", "w1"), ("lost", "w2")]
    assert house.logged == []


async def test_who_asks_while_a_pass_runs_gets_the_next_one(house: House) -> None:
    """Everything appended before asking is posted when the answer comes, and many who ask share one pass."""
    worker = house.worker()
    worker.append(closed_record("a"))
    running = asyncio.ensure_future(house.drain.drain_now())
    while not house.settlements.told:
        await asyncio.sleep(0)
    worker.append(closed_record("b"))
    posted = await asyncio.gather(*(house.drain.drain_now() for _ in range(20)))
    assert await house.rows("b") == [(1, "completed", 100, True)]
    assert (await running, sorted(posted)) == (1, [0] * 19 + [1])
    await worker.close()


async def test_a_failed_pass_answers_nobody_else(house: House) -> None:
    """Who waited behind it makes a pass of its own instead of taking its word."""
    worker = house.worker()
    worker.append(closed_record("a"))
    house.books.before = True
    answers = await asyncio.gather(house.drain.drain_now(), house.drain.drain_now(), return_exceptions=True)
    assert isinstance(answers[0], Unavailable)
    assert answers[1] == 1
    await worker.close()


Step = st.one_of(
    st.tuples(st.sampled_from(["begin", "fail", "end", "refuse"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["drain", "drain", "restart", "kill", "before", "after"]), st.integers(1, 4)),
)


class Model:
    """What must be in the ledger, told by the same steps."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.calls = 0
        self.open: dict[int, tuple[str, int, bool]] = {}
        """By slot: request id, attempt, and whether that attempt is open."""
        self.rows: dict[str, set[tuple[int, str, int, bool]]] = {}

    def step(self, what: str, slot: int, append: Callable[[Record], None]) -> None:
        call = self.open.get(slot)
        if what == "refuse":
            name = self._name()
            append(closed_record(name, 0, 0, outcome="refused"))
            self._row(name, 0, "refused", 0, final=True)
        elif what == "begin" and (call is None or not call[2]):
            name, attempt = (self._name(), 1) if call is None else (call[0], call[1] + 1)
            append(opened_record(name, attempt, hold=1000 + attempt))
            self.open[slot] = (name, attempt, True)
        elif what == "fail" and call is not None and call[2]:
            append(closed_record(call[0], call[1], 0, outcome="failed", final=False))
            self._row(call[0], call[1], "failed", 0, final=False)
            self.open[slot] = (call[0], call[1], False)
        elif what == "end" and call is not None:
            attempt = call[1] if call[2] else 0
            append(closed_record(call[0], attempt, 10 + attempt))
            self._row(call[0], attempt, "completed", 10 + attempt, final=True)
            del self.open[slot]

    def kill(self) -> None:
        for name, attempt, is_open in self.open.values():
            self._row(name, attempt if is_open else 0, "lost", 1000 + attempt if is_open else 0, final=True)
        self.open.clear()

    def _name(self) -> str:
        self.calls += 1
        return f"{self.prefix}-{self.calls}"

    def _row(self, name: str, attempt: int, outcome: str, charge: int, *, final: bool) -> None:
        self.rows.setdefault(name, set()).add((attempt, outcome, charge, final))


@given(steps=st.lists(Step, max_size=60), rotate=st.sampled_from([500, 2000, 100_000]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_happens_each_call_is_in_the_ledger_once(house: House, steps: list[tuple[str, int]], rotate: int) -> None:
    """Any order of calls, deaths, restarts, refused and unanswered commits: rows, charges, audit events and files come out exact."""
    house.logged.clear()
    before = (await house.spent()).get(METER, 0)
    example = f"x{len(await house.database.read(lambda connection: list(connection.execute(select(LEDGER.c.request_id)))))}"
    model = Model(example)
    lives = 0
    worker = house.worker(f"{example}-{lives}", rotate)
    for what, number in [*steps, ("kill", 1), ("restart", 1), ("drain", 1), ("drain", 1), ("drain", 1)]:
        if what == "drain":
            try:
                await house.drain.drain_now()
            except Unavailable:
                continue
        elif what == "restart":
            house.restart(batch=number)
        elif what == "kill":
            await worker.close()
            model.kill()
            lives += 1
            worker = house.worker(f"{example}-{lives}", rotate)
        elif what in {"before", "after"}:
            setattr(house.books, what, True)
        else:
            model.step(what, number, worker.append)
    await worker.close()
    await house.drain.drain_now()
    found: dict[str, set[tuple[int, str, int, bool]]] = {}
    query = select(LEDGER.c.request_id, LEDGER.c.attempt, LEDGER.c.outcome, LEDGER.c.charge, LEDGER.c.final)
    mine = query.where(LEDGER.c.request_id.startswith(f"{example}-"))
    for name, *row in await house.database.read(lambda connection: list(connection.execute(mine))):
        found.setdefault(name, set()).add((row[0], row[1], row[2], row[3]))
    assert found == model.rows
    assert (await house.spent()).get(METER, 0) - before == sum(row[2] for rows in model.rows.values() for row in rows)
    assert sorted(event.subject for event in house.logged) == sorted(model.rows)
    assert (list(house.root.iterdir()), await house.books.journals(), await house.kept()) == ([], [], 0)
