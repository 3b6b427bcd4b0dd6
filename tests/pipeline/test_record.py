"""The Record stage and its bookkeeper: what is written of a call, whatever became of it, and what is counted."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.attribution import Attribution
from gatehouse.core.calls import Call, ImagePart, Message, TextPart, Tool
from gatehouse.core.errors import Forbidden, Unavailable, UpstreamFailed
from gatehouse.core.identity import Principal, Role
from gatehouse.core.money import Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.records import STAGES as NAMES
from gatehouse.core.records import Closed, MeterHold, Opened, StageTime
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline import bookkeeping
from gatehouse.pipeline.bookkeeping import Bookkeeper, Commitments
from gatehouse.pipeline.exchange import Exchange, Head, Lost
from gatehouse.pipeline.order import ORDER
from gatehouse.pipeline.stages.record import Record
from gatehouse.testing.fakes import FakeClock, FakeJournal, FakeTally

KEY = bytes(range(32))
STAGES = ("record", "identify", "read")
PRICE = Price("p-1", 1, 2, 3, 4, 5, 6, 7)
LAB = Target("lab/qwen3", "lab", "qwen3", price=PRICE)
OTHER = Target("other/gpt", "other", "gpt")
CALL = Call(model="assistant", messages=(Message("user", "hello"),))
ERRORS = ("gatehouse_journal_errors_total", ())


class Desk:
    """A bookkeeper and a Record stage over fakes."""

    def __init__(self, offload: Callable[[Callable[[], bytes]], Awaitable[bytes]] | None = None) -> None:
        self.journal, self.clock, self.tally = FakeJournal(), FakeClock(), FakeTally()
        self.policy = "cfg-1"
        self.books = Bookkeeper(self.journal, self.clock, self.tally, Commitments(KEY), self.policy, offload)
        self.stage = Record(self.books, self.tally, STAGES, sample=2)

    async def admitted(self, request_id: str = "req_1") -> Exchange:
        """A call that has passed every stage up to Dispatch, one millisecond each."""
        x = Exchange(request_id, Head("POST", "/v1/chat/completions", {}), None, cast("Any", None))
        x.clock_start, x.started_at = self.clock.monotonic(), self.clock.now()
        await self.stage.admit(x)
        for _ in STAGES:
            x.entered += 1
            self.clock.advance(0.001)
            x.marks.append(self.clock.monotonic())
        x.principal = Principal("ab12cd34", "test", frozenset({Role.DEVELOPER}), tenant="red", team="blue")
        x.call = CALL
        x.plan = Plan("assistant", (LAB, OTHER))
        x.money_holds = (MeterHold("key:m", 700), MeterHold("team:m", 700))
        x.ceiling = 700
        return x

    def closed(self, place: int = -1) -> Closed:
        """A closed record."""
        record = self.journal.records[place]
        assert isinstance(record, Closed)
        return record


@pytest.fixture
def desk() -> Desk:
    """With an empty journal."""
    return Desk()


async def test_an_attempt_is_opened_before_anything_is_sent(desk: Desk) -> None:
    """With who, where, under which price and policy, and the hold; the exchange says so too."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    (record,) = desk.journal.records
    assert record == Opened(
        request_id="req_1",
        attempt=1,
        at=desk.clock.now(),
        tenant="red",
        team="blue",
        key_id="ab12cd34",
        operation="chat",
        model="assistant",
        target="lab/qwen3",
        price="p-1",
        holds=(MeterHold("key:m", 700), MeterHold("team:m", 700)),
        hold=700,
        policy="cfg-1",
        commitment=Commitments(KEY).of(CALL),
    )
    assert (x.attempts, x.opened, x.target) == (1, True, LAB)


async def test_a_call_that_cannot_be_recorded_is_not_made(desk: Desk) -> None:
    """opened raises and the exchange is as it was: no attempt, no target."""
    x = await desk.admitted()
    desk.journal.broken = True
    with pytest.raises(Unavailable):
        desk.books.opened(x, LAB)
    assert (x.attempts, x.opened, x.target) == (0, False, None)
    with pytest.raises(Unavailable):
        await desk.books.durable()


async def test_durable_waits_for_the_disk(desk: Desk) -> None:
    """Everything opened before is flushed."""
    desk.books.opened(await desk.admitted(), LAB)
    await desk.books.durable()
    assert desk.journal.synced == 1


async def test_a_completed_call(desk: Desk) -> None:
    """Its closed record holds usage, charge, meters, times and flags, and ends the call."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    desk.clock.advance(0.1)
    x.outcome, x.usage, x.charge = Outcome.COMPLETED, Usage(input=3, output=4), Money(99)
    x.cache, x.first_event = "miss", 0.05
    x.flags.append("estimated_usage")
    desk.stage.settle(x)
    assert desk.closed() == Closed(
        request_id="req_1",
        attempt=1,
        at=desk.clock.now(),
        tenant="red",
        team="blue",
        key_id="ab12cd34",
        operation="chat",
        model="assistant",
        target="lab/qwen3",
        target_model="qwen3",
        price="p-1",
        outcome="completed",
        error="",
        usage=Usage(input=3, output=4),
        charge=99,
        meters=("key:m", "team:m"),
        cache="miss",
        traffic="live",
        flags=("estimated_usage",),
        duration_us=desk.closed().duration_us,
        first_event_us=50_000,
        stages=(),
        policy="cfg-1",
        commitment=Commitments(KEY).of(CALL),
        final=True,
        marks=(x.clock_start, *x.marks),
    )
    assert desk.closed().duration_us == pytest.approx(103_000, abs=2)
    assert [(time.stage, round(time.start, -3), round(time.took, -2)) for time in desk.closed().times()] == [
        ("record", 0, 1000),
        ("identify", 1000, 1000),
        ("read", 2000, 1000),
    ]


async def test_a_fallback_has_a_record_for_each_attempt(desk: Desk) -> None:
    """A failed attempt is booked without usage; the last record has all of it, so that the rows add up to the call."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    desk.books.attempt_failed(x, UpstreamFailed("no", code="upstream_timeout"))
    assert not x.opened
    desk.books.opened(x, OTHER)
    x.outcome, x.usage, x.charge = Outcome.COMPLETED, Usage(input=3), Money(9)
    desk.stage.settle(x)
    kinds = [(type(record).__name__, record.attempt, record.target) for record in desk.journal.records]
    assert kinds == [("Opened", 1, "lab/qwen3"), ("Closed", 1, "lab/qwen3"), ("Opened", 2, "other/gpt"), ("Closed", 2, "other/gpt")]
    failed, last = desk.closed(1), desk.closed(3)
    assert (failed.outcome, failed.error, failed.usage, failed.charge, failed.final) == ("failed", "upstream_timeout", Usage(), 0, False)
    assert (failed.times(), failed.flags, failed.first_event_us) == ((), (), -1)
    assert (last.outcome, last.charge, last.price, last.final) == ("completed", 9, "", True)


async def test_a_call_whose_every_attempt_has_ended_gets_an_end_of_its_own(desk: Desk) -> None:
    """Attempt 0, at the target that was asked last: a key of its own beside the failed attempts."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    x.error = UpstreamFailed("no", code="upstream_unreachable")
    desk.books.attempt_failed(x, x.error)
    desk.books.attempt_failed(x, x.error)
    x.outcome = Outcome.FAILED
    desk.stage.settle(x)
    assert [(record.attempt, getattr(record, "final", None)) for record in desk.journal.records] == [(1, None), (1, False), (0, True)]
    assert (desk.closed().target, desk.closed().error) == ("lab/qwen3", "upstream_unreachable")


async def test_a_call_that_nobody_identified(desk: Desk) -> None:
    """Has a record in the house's own books, without a key, and nothing the caller sent."""
    x = Exchange("req_1", Head("POST", "/v1/chat/completions", {}), None, cast("Any", None))
    await desk.stage.admit(x)
    x.entered = 2
    x.clock_start = desk.clock.monotonic()
    x.marks = [desk.clock.monotonic()]
    desk.clock.advance(0.002)
    x.outcome, x.error = Outcome.REFUSED, Forbidden("no")
    desk.stage.settle(x)
    record = desk.closed()
    assert (record.tenant, record.key_id, record.model, record.target, record.attempt) == ("default", "", "", "", 0)
    assert (record.outcome, record.error, record.charge, record.meters) == ("refused", "forbidden", 0, ())
    assert (record.commitment, record.first_event_us, record.final) == (b"", -1, True)
    # The stage that refused never ended: it took until the call did.
    assert record.times() == (StageTime("record", 0, 0), StageTime("identify", 0, record.times()[1].took))
    assert record.times()[1].took == pytest.approx(2000, abs=2)


def test_the_names_of_the_stages_are_those_of_the_pipeline() -> None:
    """Records name stages by their place, so the list in core and the pipeline's order are the same."""
    assert tuple(stage.name for stage in ORDER) == NAMES


async def test_a_refused_call_is_committed_to_as_it_was(desk: Desk) -> None:
    """Who asked what is provable also for what was not let through."""
    x = await desk.admitted()
    x.outcome = Outcome.REFUSED
    desk.stage.settle(x)
    assert Commitments(KEY).proves(CALL, desk.closed().commitment)


async def test_the_commitment_is_made_once(desk: Desk) -> None:
    """Opened and closed say the same, whatever a later stage does to the call."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    x.call = msgspec.structs.replace(CALL, max_tokens=5)
    desk.stage.settle(x)
    first = desk.journal.records[0]
    assert first.commitment == desk.closed().commitment == Commitments(KEY).of(CALL)


async def test_a_full_disk_at_the_end_of_a_call_keeps_its_record_waiting(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Settling never raises; the record is counted, and goes before the next one once there is room; until then nothing opens. The log
    says when that begins and when it is over, and not for each call."""
    x, y, z = [await desk.admitted(name) for name in "xyz"]
    desk.books.opened(x, LAB)
    desk.journal.broken = True
    x.outcome, z.outcome = Outcome.COMPLETED, Outcome.REFUSED
    desk.stage.settle(x)
    desk.stage.settle(z)
    assert (desk.books.waiting, desk.tally.counts[ERRORS]) == (2, 2)
    with pytest.raises(Unavailable):
        desk.books.opened(y, LAB)
    assert (desk.books.waiting, y.attempts) == (2, 0)
    desk.journal.broken = False
    desk.books.opened(y, LAB)
    assert [(record.request_id, type(record).__name__) for record in desk.journal.records] == [
        ("x", "Opened"),
        ("x", "Closed"),
        ("z", "Closed"),
        ("y", "Opened"),
    ]
    assert desk.books.waiting == 0
    assert [(line.levelname, line.message.partition(":")[0]) for line in caplog.records] == [
        ("ERROR", "call x"),
        ("WARNING", "calls can be recorded again"),
    ]


async def test_what_waits_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound an end is lost, which is counted and logged with the call's id."""
    monkeypatch.setattr(bookkeeping, "MOST_WAITING", 2)
    desk.journal.broken = True
    for number in range(3):
        x = await desk.admitted(f"req_{number}")
        x.outcome = Outcome.REFUSED
        desk.stage.settle(x)
    assert (desk.books.waiting, desk.tally.counts[ERRORS]) == (2, 3)
    assert next(record.message for record in caplog.records if record.levelname == "CRITICAL").startswith("call req_2:")


async def test_a_record_that_cannot_be_made_does_not_stop_settling(desk: Desk) -> None:
    """A fault of ours is logged and counted, and the gauge comes back."""
    x = await desk.admitted()
    x.outcome = Outcome.COMPLETED
    x.call = cast("Any", object())
    desk.stage.settle(x)
    assert desk.tally.counts[ERRORS] == 1
    assert desk.tally.gauges["gatehouse_running", ()] == 0


async def test_counters_have_labels_from_closed_sets(desk: Desk) -> None:
    """The configured model, the target, outcome, error and cache; tokens by bucket, those that are not zero."""
    x = await desk.admitted()
    assert desk.tally.gauges["gatehouse_running", ()] == 1
    desk.books.opened(x, LAB)
    x.outcome, x.usage, x.charge = Outcome.COMPLETED, Usage(input=3, cached_input=2, output=4), Money(99)
    x.first_event, x.cache = 0.25, "miss"
    desk.stage.settle(x)
    assert desk.tally.gauges["gatehouse_running", ()] == 0
    assert desk.tally.counts == {
        ("gatehouse_requests_total", ("assistant", "lab/qwen3", "completed", "", "miss")): 1,
        ("gatehouse_tokens_total", ("assistant", "lab/qwen3", "input")): 3,
        ("gatehouse_tokens_total", ("assistant", "lab/qwen3", "cached_input")): 2,
        ("gatehouse_tokens_total", ("assistant", "lab/qwen3", "output")): 4,
        ("gatehouse_cost_usd_units_total", ("assistant", "lab/qwen3")): 99,
    }
    assert desk.tally.values["gatehouse_time_to_first_event_seconds", ("assistant",)] == [0.25]
    assert desk.tally.values["gatehouse_request_duration_seconds", ("assistant", "completed")] == [pytest.approx(0.003)]


async def test_findings_of_guard_rules_are_counted(desk: Desk) -> None:
    """Each rule that flagged the call counts once, whatever else flagged it."""
    x = await desk.admitted()
    x.flags += ["guard:github-token", "over_hold", "guard:hidden-text"]
    desk.stage.settle(x)
    counted = {labels: number for (name, labels), number in desk.tally.counts.items() if name == "gatehouse_guard_findings_total"}
    assert counted == {("github-token",): 1, ("hidden-text",): 1}


async def test_a_model_that_never_resolved_is_no_label(desk: Desk) -> None:
    """Whatever name a caller sends, the series stay those of the configuration."""
    x = await desk.admitted()
    x.plan, x.outcome, x.error = None, Outcome.REFUSED, Forbidden("no")
    desk.stage.settle(x)
    assert desk.tally.counts == {("gatehouse_requests_total", ("", "", "refused", "forbidden", "bypass")): 1}


async def test_stage_times_are_counted_for_some_calls(desk: Desk) -> None:
    """Every second one here; each call's own times are in its record."""
    for number in range(4):
        x = await desk.admitted(f"req_{number}")
        x.outcome = Outcome.COMPLETED
        desk.stage.settle(x)
    for name in STAGES:
        assert desk.tally.values["gatehouse_stage_duration_seconds", (name,)] == [pytest.approx(0.001)] * 2


async def ended(desk: Desk, number: int, kind: int) -> Exchange:
    """A call that has ended as one of seven kinds do."""
    x = await desk.admitted(f"req_{number}")
    x.outcome, x.usage, x.charge, x.first_event = Outcome.COMPLETED, Usage(input=number, output=kind), Money(10 * number), 0.5
    match kind:
        case 1:
            x.plan = Plan("other", (OTHER,))
        case 2:
            x.cache, x.usage, x.charge = "hit", Usage(), Money(0)
        case 3:
            x.outcome, x.error = Outcome.REFUSED, Forbidden("no")
        case 4:
            x.flags.append("guard:github-token")
        case 5:
            x.plan, x.first_event = None, -1.0
        case 6:
            x.outcome = Outcome.CLIENT
        case _:
            pass
    if kind in {0, 1, 4}:
        desk.books.opened(x, OTHER if kind == 1 else LAB)
    return x


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
async def test_calls_that_end_together_are_written_and_counted_as_one_by_one(kinds: list[int]) -> None:
    """Whatever ends beside them: each has its own record, and the counters stand where they would."""
    desks = [Desk(), Desk()]
    for desk, together in zip(desks, (True, False), strict=True):
        calls = [await ended(desk, number, kind) for number, kind in enumerate(kinds)]
        if together:
            desk.stage.settle_all(calls)
        else:
            for x in calls:
                desk.stage.settle(x)
    one, other = desks
    assert one.journal.records == other.journal.records
    assert (one.tally.counts, one.tally.gauges) == (other.tally.counts, other.tally.gauges)
    assert {key: sorted(values) for key, values in one.tally.values.items()} == {
        key: sorted(values) for key, values in other.tally.values.items()
    }


async def test_an_end_that_cannot_be_recorded_keeps_no_other_from_it(desk: Desk) -> None:
    """One record cannot be made, and the disk refuses all others: they wait, in their order, and the counters go on."""
    calls = [await ended(desk, number, 0) for number in range(3)]
    calls[1].flags = cast("Any", None)
    desk.journal.broken = True
    desk.books.closed(calls)
    assert (desk.books.waiting, desk.tally.counts[ERRORS]) == (2, 3)
    desk.journal.broken = False
    desk.stage.settle_all([await ended(desk, 3, 2)])
    assert [record.request_id for record in desk.journal.records[3:]] == ["req_0", "req_2", "req_3"]


@pytest.mark.parametrize("waits", [True, False])
async def test_an_end_that_no_disk_will_take_keeps_nobody_from_opening(
    desk: Desk, waits: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is given up, counted and logged without its words; what else waits is written, and calls go on."""
    append = desk.journal.append

    def picky(record: Opened | Closed) -> None:
        if "odd words" in getattr(record, "flags", ()):
            raise UnicodeEncodeError("utf-8", "odd words", 0, 1, "no")
        append(record)

    odd, other = [await ended(desk, number, 0) for number in range(2)]
    odd.flags.append("odd words")
    desk.journal.broken = waits
    if waits:
        desk.stage.settle_all([odd, other])
        assert desk.books.waiting == 2
    desk.journal.broken = False
    monkeypatch.setattr(desk.journal, "append", picky)
    desk.books._append = picky
    if not waits:
        desk.books._write(desk.books._record(odd, None, 1, 0.0, 0.0))
    x = await desk.admitted("next")
    desk.books.opened(x, LAB)
    assert (x.opened, desk.books.waiting) == (True, 0)
    assert "call req_0: its end is not recorded: UnicodeEncodeError" in caplog.text
    assert "odd words" not in caplog.text
    if waits:
        assert [record.request_id for record in desk.journal.records[2:]] == ["req_1", "next"]


async def test_nobody_ends() -> None:
    """A turn in which no call ended writes nothing and counts nothing."""
    desk = Desk()
    desk.stage.settle_all([])
    assert (desk.journal.records, desk.tally.counts) == ([], {})


async def test_attempts_that_begin_together(desk: Desk) -> None:
    """Each has the record that it would have alone; of which there can be none is as it was, and says why."""
    alone, *together = [await desk.admitted(name) for name in ("x", "x", "broken", "y")]
    desk.books.opened(alone, LAB)
    together[1].call = cast("Any", object())
    left = desk.books.opened_all([(x, LAB) for x in together], lambda *told: pytest.fail("the disk takes everything"))
    assert [(x.request_id, type(fault)) for x, fault in left] == [("broken", TypeError)]
    one, first, second = desk.journal.records
    assert one == first
    assert second.request_id == "y"
    assert [(x.attempts, x.attempt, x.opened, x.target) for x in together] == [(1, 1, True, LAB), (0, 0, False, None), (1, 1, True, LAB)]


async def test_attempts_that_the_disk_refuses_together(desk: Desk) -> None:
    """Who asked for them is told of each; while an older end still waits for the disk, nothing opens at all."""
    told: list[str] = []
    calls = [await desk.admitted(name) for name in "xy"]
    desk.journal.broken = True
    assert desk.books.opened_all([(x, LAB) for x in calls], lambda record, error: told.append(f"{record.request_id} {error.code}")) == []
    assert told == ["x unavailable", "y unavailable"]
    gone = await desk.admitted("gone")
    gone.outcome = Outcome.REFUSED
    desk.stage.settle(gone)
    later = [await desk.admitted(name) for name in "ab"]
    left = desk.books.opened_all([(x, LAB) for x in later], lambda *told: pytest.fail("nothing was posted"))
    assert [(x, type(fault)) for x, fault in left] == [(x, Unavailable) for x in later]
    assert not any(x.opened or x.attempts for x in later)


async def test_a_large_call_is_committed_to_beside_the_loop() -> None:
    """commit hands it over; opened finds it done. A small one is not worth a thread."""
    handed: list[int] = []

    async def offload(work: Callable[[], bytes]) -> bytes:
        handed.append(1)
        return work()

    desk = Desk(offload)
    x = await desk.admitted()
    await desk.books.commit(x)
    assert (x.commitment, handed) == (b"", [])
    for content in ("x" * 300_000, (TextPart("look"), ImagePart("data:" + "A" * 300_000))):
        x = await desk.admitted()
        x.call = Call(model="assistant", messages=(Message("user", content),))
        await desk.books.commit(x)
        assert x.commitment == Commitments(KEY).of(x.call)
    assert len(handed) == 2
    desk.books.opened(x, LAB)
    assert desk.journal.records[-1].commitment == x.commitment


@given(st.binary(min_size=32, max_size=100), st.text(max_size=200))
def test_a_commitment_is_hmac_sha256_over_the_canonical_call(key: bytes, text: str) -> None:
    """Anybody with the key and the call can check it with a standard library."""
    call = Call(model="m", messages=(Message("user", text),))
    canonical = msgspec.msgpack.encode(call, order="deterministic")
    assert Commitments(key).of(call) == hmac.new(key, canonical, hashlib.sha256).digest()


def test_commitments_tell_calls_apart_and_not_the_order_of_keys() -> None:
    """One other character is another call; a JSON object's key order is not."""
    commitments = Commitments(KEY)
    one = Call(model="m", messages=(Message("user", "a"),), tools=(Tool("t", parameters={"a": 1, "b": {"c": 2, "d": 3}}),))
    same = msgspec.structs.replace(one, tools=(Tool("t", parameters={"b": {"d": 3, "c": 2}, "a": 1}),))
    other = msgspec.structs.replace(one, messages=(Message("user", "b"),))
    assert commitments.of(one) == commitments.of(same)
    assert not commitments.proves(other, commitments.of(one))
    assert not Commitments(b"x" * 32).proves(one, commitments.of(one))


def test_a_short_key_is_refused_and_none_is_shown() -> None:
    """32 bytes at least; the repr says nothing."""
    with pytest.raises(ValueError, match="32 bytes"):
        Commitments(b"short")
    assert repr(Commitments(KEY)) == "Commitments(***)"


async def test_both_records_carry_what_the_call_is_booked_under() -> None:
    """Worked out with the first record and the same in the last, and in that of a call that was refused before any target."""
    journal, clock = FakeJournal(), FakeClock()
    made = Attribution((("project", "apollo"),), "u_1")
    asked: list[Exchange] = []

    def attribute(x: Exchange) -> Attribution:
        asked.append(x)
        return made

    books = Bookkeeper(journal, clock, FakeTally(), Commitments(KEY), "cfg-1", attribute=attribute)
    desk = Desk()
    x = await desk.admitted()
    books.opened(x, LAB)
    books.attempt_failed(x, UpstreamFailed("no", code="upstream_broken"))
    books.closed([x])
    refused = await desk.admitted("req_2")
    books.closed([refused])
    assert [record.attribution for record in journal.records] == [made] * 4
    assert asked == [x, refused]


async def test_an_attempt_that_was_overtaken_has_a_row_with_what_it_used(desk: Desk) -> None:
    """Each attempt is paid in its own row, at its own price; together they are what the call has cost."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    desk.books.opened(x, OTHER)
    read = Usage(input=40)
    x.lost = Lost(read, Money(7))
    x.usage, x.charge = Usage(input=90, output=3), Money(30)
    desk.books.overtaken(x, 1, LAB, read, Money(7))
    x.outcome = Outcome.COMPLETED
    desk.stage.settle(x)
    loser, winner = desk.closed(-2), desk.closed(-1)
    assert (loser.attempt, loser.target, loser.price, loser.error, loser.outcome, loser.final) == (
        1,
        "lab/qwen3",
        "p-1",
        "overtaken",
        "failed",
        False,
    )
    assert (loser.usage, loser.charge, loser.flags) == (read, 7, ("estimated_usage",))
    assert (winner.attempt, winner.target, winner.usage, winner.charge, winner.final) == (
        2,
        "other/gpt",
        Usage(input=50, output=3),
        23,
        True,
    )


async def test_the_first_attempt_may_be_the_one_that_answers(desk: Desk) -> None:
    """The last record is that of the attempt that stands, not of the one that was opened last."""
    x = await desk.admitted()
    desk.books.opened(x, LAB)
    desk.books.opened(x, OTHER)
    desk.books.overtaken(x, 2, OTHER, Usage(), Money(0))
    x.attempt, x.target, x.outcome = 1, LAB, Outcome.COMPLETED
    desk.stage.settle(x)
    assert [(desk.closed(place).attempt, desk.closed(place).target) for place in (-2, -1)] == [(2, "other/gpt"), (1, "lab/qwen3")]
    assert desk.closed(-2).flags == ()
