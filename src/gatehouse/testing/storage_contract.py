"""What every storage behind the drain must do, as test classes to inherit from, and the records they are tested with.

class TestSqlBooks(BooksContract):
    @pytest.fixture
    def books(self) -> Books: ...
    @pytest.fixture
    def other_books(self) -> Books: ...
    @pytest.fixture
    def ledger(self) -> LedgerReader: ...
    @pytest.fixture
    def logged(self) -> list[AuditEvent]: ...
"""

from typing import Any, Final

import msgspec
import pytest

from gatehouse.core.attribution import Attribution
from gatehouse.core.audit import AuditEvent
from gatehouse.core.errors import InvalidRequest, Unavailable
from gatehouse.core.ledger import Batch, Books, LedgerReader, Position, PriceBook, UsageQuery
from gatehouse.core.records import Closed, MeterHold, Opened, StageTime
from gatehouse.core.usage import Price, Usage

METER: Final = "key:ab12cd34:money:month:2026-01"
OTHER_METER: Final = "team:blue:money:month:2026-01"
HOUR: Final = 3600.0
ELEVEN: Final = 1_767_265_200.0
"""2026-01-01 11:00:00 UTC, a full hour."""


def opened_record(request_id: str = "req_1", attempt: int = 1, hold: int = 1000, **changes: Any) -> Opened:
    """An attempt that began, with `hold` held on METER; `changes` replace fields."""
    record = Opened(
        request_id=request_id,
        attempt=attempt,
        at=ELEVEN + 0.25,
        tenant="default",
        team="blue",
        key_id="ab12cd34",
        operation="chat",
        model="assistant",
        target="lab/qwen3",
        price="p-1",
        holds=(MeterHold(METER, hold),),
        hold=hold,
        policy="cfg-1",
        commitment=b"c" * 32,
    )
    return msgspec.structs.replace(record, **changes)


def closed_record(request_id: str = "req_1", attempt: int = 1, charge: int = 100, **changes: Any) -> Closed:
    """A completed call that cost `charge`, booked on METER; `changes` replace fields."""
    record = Closed(
        request_id=request_id,
        attempt=attempt,
        at=ELEVEN + 1.5,
        tenant="default",
        team="blue",
        key_id="ab12cd34",
        operation="chat",
        model="assistant",
        target="lab/qwen3",
        target_model="qwen3",
        price="p-1",
        outcome="completed",
        error="",
        usage=Usage(input=10, cached_input=2, cache_write=1, output=5, reasoning=3, audio_input=4, audio_output=6),
        charge=charge,
        meters=(METER,),
        cache="miss",
        traffic="live",
        flags=("estimated_usage",),
        duration_us=1_250_000,
        first_event_us=250_000,
        stages=(StageTime("record", 0, 3), StageTime("identify", 3, 7)),
        policy="cfg-1",
        commitment=b"c" * 32,
        final=True,
    )
    return msgspec.structs.replace(record, **changes)


def batch_of(*rows: Closed, start: int = 0, position: int = 100, incarnation: str = "w1", **changes: Any) -> Batch:
    """A batch of `rows` between two bytes of the first file."""
    return Batch(incarnation, Position(1, start), Position(1, position), rows, **changes)


class BooksContract:
    """Fixtures: `books` of one server and `other_books` of another on the same empty database, `ledger` on it, and `logged`, which
    holds the audit events that were appended."""

    async def test_a_row_comes_back_field_for_field(self, books: Books, ledger: LedgerReader) -> None:
        """Buckets, lists, bytes, flags and the absence of a team survive."""
        rows = [
            closed_record("req_1"),
            closed_record("req_2", team=None, flags=(), stages=(), meters=(), commitment=b"", first_event_us=-1),
            closed_record("req_3", attribution=Attribution((("cost.center", "7"), ("project", 'ä "b"')), "u_1", "4b" * 16)),
            closed_record("req_4", attribution=Attribution(peer="2001:db8::7")),
        ]
        posted = await books.post(batch_of(*rows))
        assert posted.inserted == 4
        assert await ledger.attempts("default", "req_1") == [rows[0]]
        assert await ledger.attempts("default", "req_2") == [rows[1]]
        assert await ledger.attempts("default", "req_3") == [rows[2]]
        assert await ledger.attempts("default", "req_4") == [rows[3]]

    async def test_a_row_of_another_tenant_is_not_there(self, books: Books, ledger: LedgerReader) -> None:
        """Asked for by its id, listed, or summed."""
        await books.post(batch_of(closed_record("req_1", tenant="red")))
        assert await ledger.attempts("default", "req_1") == []
        assert (await ledger.requests("default", 10, None)).rows == ()
        assert await ledger.usage(UsageQuery("default")) == []
        assert len(await ledger.attempts("red", "req_1")) == 1

    async def test_posting_twice_is_once(self, books: Books, ledger: LedgerReader, logged: list[AuditEvent]) -> None:
        """The key is request id and attempt: neither row, charge, sum nor audit event appears a second time."""
        first = closed_record("req_1", charge=100)
        await books.post(batch_of(first))
        again = await books.post(batch_of(first, closed_record("req_2", charge=7), start=100, position=200))
        assert (again.inserted, again.booked) == (1, ((METER, 7),))
        same_batch = await books.post(batch_of(*[closed_record("req_3", charge=1)] * 2, start=200, position=300))
        assert (same_batch.inserted, same_batch.booked) == (1, ((METER, 1),))
        (total,) = await ledger.usage(UsageQuery("default"))
        assert (total.requests, total.charge) == (3, 108)
        assert [event.subject for event in logged] == ["req_1", "req_2", "req_3"]

    async def test_a_batch_must_begin_where_the_last_one_ended(self, books: Books, ledger: LedgerReader) -> None:
        """A drain that is behind the times changes nothing and is told."""
        await books.post(batch_of(closed_record("req_1")))
        with pytest.raises(Unavailable):
            await books.post(batch_of(closed_record("req_2")))
        with pytest.raises(Unavailable):
            await books.post(batch_of(closed_record("req_2"), start=99))
        assert await ledger.attempts("default", "req_2") == []

    async def test_nothing_follows_a_settled_journal(self, books: Books) -> None:
        """Its process is dead and the books are closed."""
        await books.post(batch_of(closed_record("req_1"), settled=True))
        with pytest.raises(Unavailable):
            await books.post(batch_of(closed_record("req_2"), start=100, position=200))

    async def test_charges_go_to_every_meter_of_a_row(self, books: Books) -> None:
        """Each meter of a call is charged all of it."""
        posted = await books.post(batch_of(closed_record("a", charge=5, meters=(METER, OTHER_METER)), closed_record("b", charge=7)))
        assert dict(posted.booked) == {METER: 12, OTHER_METER: 5}

    async def test_a_lost_row_charges_what_each_meter_held(self, books: Books) -> None:
        """The batch says so by request id and attempt; other rows of the batch are charged as they say."""
        lost = closed_record("a", charge=50, outcome="lost", meters=(METER, OTHER_METER))
        holds = {("a", 1): (MeterHold(METER, 50), MeterHold(OTHER_METER, 40))}
        posted = await books.post(batch_of(lost, closed_record("b", charge=1), holds=holds))
        assert dict(posted.booked) == {METER: 51, OTHER_METER: 40}

    async def test_one_audit_event_a_call(self, books: Books, logged: list[AuditEvent]) -> None:
        """Failed attempts have a row and no event; events of the batch itself come first."""
        alarm = AuditEvent(ELEVEN, "system", "journal.damaged", "gatehouse", "default", "w1", "failed")
        failed = closed_record("req_1", 1, 0, outcome="failed", error="upstream_unreachable", final=False)
        await books.post(batch_of(failed, closed_record("req_1", 2, charge=1_500_000), events=(alarm,)))
        assert [(event.kind, event.subject, event.outcome) for event in logged] == [
            ("system", "w1", "failed"),
            ("call", "req_1", "completed"),
        ]
        assert logged[1].detail["cost_usd"] == "0.00015"
        assert logged[1].commitment == b"c" * 32

    async def test_values_no_database_takes_are_booked_nevertheless(self, books: Books, ledger: LedgerReader) -> None:
        """A NUL in a text and a number beyond 64 bits are tamed, and neighbours stay as they are; a drain must never stand still."""
        odd = closed_record("req_1", team="bl\x00ue", usage=Usage(input=2**63 + 5))
        posted = await books.post(batch_of(closed_record("req_0"), odd, closed_record("req_2")))
        assert posted.inserted == 3
        (kept,) = await ledger.attempts("default", "req_1")
        assert kept.usage.input >= 2**63 - 1
        assert kept.team is not None
        assert kept.team.startswith("bl")
        assert await ledger.attempts("default", "req_2") == [closed_record("req_2")]

    async def test_the_place_reached_and_open_calls_are_kept(self, books: Books) -> None:
        """A new drain goes on from there; what ended is dropped; what is kept again replaces what was kept."""
        await books.post(batch_of(position=100, keep_open=(opened_record("a"), opened_record("b", hold=5))))
        (state,) = await books.journals()
        assert (state.incarnation, state.position, state.seen, state.settled, state.damaged) == ("w1", Position(1, 100), True, False, False)
        assert {record.request_id: record for record in state.open} == {"a": opened_record("a"), "b": opened_record("b", hold=5)}
        failed = closed_record("b", 1, 0, final=False)
        await books.post(batch_of(start=100, position=200, ended=("a", "unknown"), keep_open=(failed,), damaged=True))
        await books.post(batch_of(start=200, position=300, settled=True))
        (state,) = await books.journals()
        assert (state.position, state.settled, state.damaged) == (Position(1, 300), True, True)
        assert state.open == (failed,)
        await books.forget("w1")
        await books.forget("w1")
        assert await books.journals() == []

    async def test_a_registered_journal_is_awaited_until_it_is_seen(self, books: Books) -> None:
        """Registering twice is once, and changes nothing of a journal that is being read."""
        await books.register("w1")
        await books.register("w1")
        (state,) = await books.journals()
        assert (state.seen, state.awaited, state.position) == (False, True, Position())
        await books.post(batch_of(closed_record()))
        await books.register("w1")
        (state,) = await books.journals()
        assert (state.seen, state.awaited, state.position) == (True, False, Position(1, 100))

    async def test_servers_do_not_see_each_others_journals(self, books: Books, other_books: Books) -> None:
        """One database serves several data directories: what is not on our disk may be on theirs."""
        await books.register("w1")
        await other_books.post(batch_of(closed_record("req_9"), incarnation="w2"))
        assert [state.incarnation for state in await books.journals()] == ["w1"]
        assert [state.incarnation for state in await other_books.journals()] == ["w2"]

    async def test_usage_counts_calls_once_and_every_attempts_money(self, books: Books, ledger: LedgerReader) -> None:
        """A request is its final row; tokens and cost are those of all rows; totals are exact integers."""
        await books.post(
            batch_of(
                closed_record("a", 1, charge=3, final=False, outcome="failed", target="lab/one"),
                closed_record("a", 2, charge=10**17 + 1, target="lab/two"),
                closed_record("b", 1, charge=10**17 + 2, key_id="k2", team=None, model="tiny", target="lab/two"),
            )
        )
        (total,) = await ledger.usage(UsageQuery("default"))
        assert (total.requests, total.input_tokens, total.output_tokens, total.charge) == (2, 51, 42, 2 * 10**17 + 6)
        assert total.cost_usd == "20000000.0000000006"
        by_target = await ledger.usage(UsageQuery("default", ("target",)))
        assert [(row.group, row.requests) for row in by_target] == [({"target": "lab/one"}, 0), ({"target": "lab/two"}, 2)]
        by_many = await ledger.usage(UsageQuery("default", ("team", "day", "outcome", "key", "model")))
        assert [tuple(row.group.values()) for row in by_many] == [
            (None, "2026-01-01", "completed", "k2", "tiny"),
            ("blue", "2026-01-01", "completed", "ab12cd34", "assistant"),
            ("blue", "2026-01-01", "failed", "ab12cd34", "assistant"),
        ]

    async def test_usage_by_tags_and_end_users_adds_up(self, books: Books, ledger: LedgerReader) -> None:
        """Each call is in exactly one row of every grouping, those without a value under None; whole hours and edges alike."""
        apollo, vega = (("cost_center", "7"), ("project", "apollo")), (("project", "vega"),)
        rows = [
            closed_record("a", charge=1, attribution=Attribution(apollo, "u_1")),
            closed_record("b", charge=2, at=ELEVEN + HOUR + 5, attribution=Attribution(apollo, "u_2")),
            closed_record("c", charge=4, attribution=Attribution(vega, "u_1"), model="tiny"),
            closed_record("d", charge=8, attribution=Attribution((), "u_2")),
            closed_record("e", charge=16, attribution=Attribution((), "", "4b" * 16)),
            closed_record("f", charge=32, model="tiny"),
            closed_record("f", 2, charge=64, final=False, outcome="failed", attribution=Attribution(vega)),
        ]
        await books.post(batch_of(*rows))

        async def by(*groups: str, start: float | None = None, end: float | None = None) -> dict[tuple[str | None, ...], tuple[int, int]]:
            found = await ledger.usage(UsageQuery("default", groups, start, end))
            return {tuple(row.group.values()): (row.requests, row.charge) for row in found}

        assert await by("tag:project") == {(None,): (3, 8 + 16 + 32), ("apollo",): (2, 3), ("vega",): (1, 4 + 64)}
        assert await by("user") == {(None,): (2, 16 + 32 + 64), ("u_1",): (2, 5), ("u_2",): (2, 10)}
        assert await by("tag:project", "model") == {
            (None, "assistant"): (2, 24),
            (None, "tiny"): (1, 32),
            ("apollo", "assistant"): (2, 3),
            ("vega", "assistant"): (0, 64),
            ("vega", "tiny"): (1, 4),
        }
        assert await by("model", "tag:cost_center", "user", end=ELEVEN + HOUR) == await by(
            "model", "tag:cost_center", "user", start=ELEVEN + 1, end=ELEVEN + 2
        )
        assert await by("tag:project", start=ELEVEN + HOUR - 1, end=ELEVEN + HOUR + 10) == {("apollo",): (1, 2)}
        assert await by("tag:unknown") == {(None,): (6, 127)}

    async def test_a_range_is_half_open_to_the_microsecond(self, books: Books, ledger: LedgerReader) -> None:
        """Whole hours come from sums and the edges from rows; together they are exactly the range."""
        moments = (ELEVEN - 1e-6, ELEVEN, ELEVEN + HOUR - 1, ELEVEN + HOUR, ELEVEN + 2 * HOUR, ELEVEN + 13 * HOUR)
        await books.post(batch_of(*(closed_record(f"r{index}", charge=1 << index, at=at) for index, at in enumerate(moments))))
        cases: tuple[tuple[float | None, float | None, set[int]], ...] = (
            (None, None, {0, 1, 2, 3, 4, 5}),
            (ELEVEN, None, {1, 2, 3, 4, 5}),
            (None, ELEVEN, {0}),
            (ELEVEN, ELEVEN + HOUR, {1, 2}),
            (ELEVEN + 10, ELEVEN + 2 * HOUR + 10, {2, 3, 4}),
            (ELEVEN + 10, ELEVEN + HOUR - 10, set()),
            (ELEVEN + HOUR - 2, ELEVEN + HOUR, {2}),
            (ELEVEN + 13 * HOUR, ELEVEN + 14 * HOUR, {5}),
            (ELEVEN + 50 * HOUR, None, set()),
            (ELEVEN + 5, ELEVEN + 5, set()),
        )
        for start, end, expected in cases:
            rows = await ledger.usage(UsageQuery("default", (), start, end))
            assert sum(row.charge for row in rows) == sum(1 << index for index in expected)
            assert sum(row.requests for row in rows) == len(expected)
            days = await ledger.usage(UsageQuery("default", ("day",), start, end))
            assert sum(row.charge for row in days if row.group["day"] == "2026-01-02") == (32 if 5 in expected else 0)

    async def test_lists_page_from_the_newest_call_on(self, books: Books, ledger: LedgerReader) -> None:
        """Only final rows; equal moments are told apart by id; what comes meanwhile does not move the next page."""
        rows = [closed_record(f"r{index}", at=ELEVEN + index // 2) for index in range(5)]
        await books.post(batch_of(*rows, closed_record("r0", 9, final=False, at=ELEVEN + 99)))
        page = await ledger.requests("default", 2, None)
        assert [row.request_id for row in page.rows] == ["r4", "r3"]
        await books.post(batch_of(closed_record("new", at=ELEVEN + 50), start=100, position=200))
        page = await ledger.requests("default", 2, page.next_cursor)
        assert [row.request_id for row in page.rows] == ["r2", "r1"]
        page = await ledger.requests("default", 2, page.next_cursor)
        assert [row.request_id for row in page.rows] == ["r0"]
        assert page.next_cursor is None

    async def test_a_made_up_cursor_is_the_callers_fault(self, ledger: LedgerReader) -> None:
        """And never reaches the database."""
        for cursor in ("", "x", "12", ".r1", "1e5.r1", "\u0663.r1", "9" * 30 + ".r", "1.\x00", "1;drop.r"):
            with pytest.raises(InvalidRequest) as refused:
                await ledger.requests("default", 2, cursor)
            assert refused.value.param == "cursor"

    async def test_attempts_stand_in_their_order(self, books: Books, ledger: LedgerReader) -> None:
        """The final one last, also when it is attempt 0, which only ends the call."""
        rows = [
            closed_record("a", 0, at=ELEVEN + 3),
            closed_record("a", 2, at=ELEVEN + 2, final=False),
            closed_record("a", 1, at=ELEVEN + 1, final=False),
        ]
        await books.post(batch_of(*rows))
        assert [row.attempt for row in await ledger.attempts("default", "a")] == [1, 2, 0]


class PriceBookContract:
    """Fixture: `prices`, empty."""

    async def test_a_snapshot_stays_as_it_was_first_kept(self, prices: PriceBook) -> None:
        """A row that names it must mean the same for ever."""
        first = Price("p-1", 1, 2, 3, 4, 5, 6, 9 * 10**18)
        await prices.keep([first, Price("p-2", 0, 0, 0, 0, 0, 0, 0)])
        await prices.keep([Price("p-1", 9, 9, 9, 9, 9, 9, 9)])
        await prices.keep([])
        assert await prices.price("p-1") == first
        assert await prices.price("p-3") is None
