"""The authority on meters: never more than there is, whatever dies, is lost or comes late."""

import asyncio
from collections.abc import Sequence

import pytest

from gatehouse.control.lease_office import FORGET_AFTER, LIFETIME, LocalOffice, Office
from gatehouse.core.errors import Unavailable
from gatehouse.core.leases import LeaseRow, LeaseStore, MeterState
from gatehouse.core.limits import Dimension, Draw, Granted, Meter, Unused
from gatehouse.core.ports import LeaseOffice
from gatehouse.testing.fakes import FakeClock, FakeLeaseStore
from gatehouse.testing.lease_contract import Charge, LeaseOfficeContract, LeaseStoreContract

MONEY = Meter("key:a:money:total:all", Dimension.MONEY, 1000)
TEAM = Meter("team:t:money:total:all", Dimension.MONEY, 5000)
REQUESTS = Meter("key:a:requests", Dimension.REQUESTS, 10)
TOKENS = Meter("key:a:tokens", Dimension.TOKENS, 1000)
SLOTS = Meter("key:a:slots", Dimension.SLOTS, 4)


@pytest.fixture
def clock() -> FakeClock:
    """Stands still."""
    return FakeClock()


@pytest.fixture
def store() -> FakeLeaseStore:
    """Empty."""
    return FakeLeaseStore()


@pytest.fixture
def office(store: FakeLeaseStore, clock: FakeClock) -> Office:
    """Fresh."""
    return Office(store, clock)


def exactly(meter: Meter, amount: int) -> tuple[Draw, ...]:
    """A draw of this and no more."""
    return (Draw(meter, amount, amount),)


async def line(office: Office, meter: Meter) -> MeterState:
    """The statement's line of one meter."""
    return next(state for state in office.statement() if state.meter == meter.id)


class TestFakeStore(LeaseStoreContract):
    """The fake that everything here stands on is a lease store."""

    @pytest.fixture
    def store(self) -> LeaseStore:
        return FakeLeaseStore()

    @pytest.fixture
    def charge(self, store: LeaseStore) -> Charge:
        async def charge(incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
            assert isinstance(store, FakeLeaseStore)
            store.charge(incarnation, charges)

        return charge


class TestLocalOffice(LeaseOfficeContract):
    """The office in one's own process keeps the port's promises."""

    @pytest.fixture
    def authority(self) -> Office:
        return Office(FakeLeaseStore(), FakeClock())

    @pytest.fixture
    def office(self, authority: Office) -> LeaseOffice:
        return LocalOffice(authority, "w1")

    @pytest.fixture
    def other(self, authority: Office) -> LeaseOffice:
        return LocalOffice(authority, "w2")


# -- money -------------------------------------------------------------------------------------------------------


async def test_money_is_durable_before_anybody_hears_of_it(office: Office, store: FakeLeaseStore) -> None:
    """The row stands in the store when acquire returns."""
    await office.acquire("w1", exactly(MONEY, 100))
    assert list(store.rows.values()) == [LeaseRow("w1", MONEY.id, 100)]


async def test_windows_and_slots_are_not_written_down(office: Office, store: FakeLeaseStore) -> None:
    """No transaction for what may be lost."""
    await office.acquire("w1", (Draw(REQUESTS, 1, 1), Draw(SLOTS, 1, 1)))
    assert store.saves == 0


async def test_a_store_that_refuses_grants_nothing(office: Office, store: FakeLeaseStore) -> None:
    """The asker gets Unavailable and every meter of the draw is as before."""
    await office.acquire("w1", exactly(MONEY, 1))
    store.gone = True
    with pytest.raises(Unavailable):
        await office.acquire("w1", (Draw(MONEY, 100, 100), Draw(REQUESTS, 5, 5), Draw(SLOTS, 2, 2)))
    store.gone = False
    again = await office.acquire("w2", (Draw(MONEY, 999, 999), Draw(REQUESTS, 10, 10), Draw(SLOTS, 4, 4)))
    assert again.amounts == (999, 10, 4)


async def test_concurrent_grants_share_a_write(office: Office, store: FakeLeaseStore) -> None:
    """Workers that ask while one transaction runs wait for the next one together, and the sum never passes the cap."""
    await office.acquire("w0", exactly(MONEY, 40))
    before = store.saves
    answers = await asyncio.gather(*(office.acquire(f"w{n}", exactly(MONEY, 60)) for n in range(20)))
    assert sum(sum(answer.amounts) for answer in answers) == 960
    assert store.saves - before == 2


async def test_a_charge_moves_from_live_to_spent(office: Office, store: FakeLeaseStore) -> None:
    """Booking changes neither the sum nor what is free."""
    await office.acquire("w1", exactly(MONEY, 100))
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 0, 100, 0, 0)
    store.charge("w1", [(MONEY.id, 30)])
    await office.booked("w1", [(MONEY.id, 30)])
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 30, 70, 0, 0)


async def test_told_twice_is_told_once(office: Office, store: FakeLeaseStore) -> None:
    """Totals are read, not added up: a repeated or invented notice changes nothing."""
    await office.acquire("w1", exactly(MONEY, 100))
    store.charge("w1", [(MONEY.id, 30)])
    for _ in range(3):
        await office.booked("w1", [(MONEY.id, 30), ("key:nobody:money:total:all", 5)])
    assert (await line(office, MONEY)).live == 70


async def test_a_notice_that_cannot_be_followed_is_safe(office: Office, store: FakeLeaseStore) -> None:
    """When the store does not answer, spent and live both stay behind: their sum is right."""
    await office.acquire("w1", exactly(MONEY, 100))
    store.charge("w1", [(MONEY.id, 30)])
    store.gone = True
    with pytest.raises(Unavailable):
        await office.booked("w1", [(MONEY.id, 30)])
    state = await line(office, MONEY)
    assert state.spent + state.live == 100


async def test_what_was_spent_before_counts(store: FakeLeaseStore, clock: FakeClock) -> None:
    """A new office asks the store what a meter has spent."""
    store.charge("w0", [(MONEY.id, 990)])
    office = Office(store, clock)
    refused = await office.acquire("w1", exactly(MONEY, 11))
    assert (refused.refused, refused.remaining, refused.retry_after) == (0, (10,), None)
    assert (await office.acquire("w1", exactly(MONEY, 10))).amounts == (10,)


async def test_slices_shrink_near_the_cap(office: Office) -> None:
    """Beyond the need at most a quarter of what is left; less than another call's worth is not lent at all."""
    amounts = []
    while (granted := await office.acquire("w1", (Draw(MONEY, 50, 10_000),))).refused is None:
        amounts.append(granted.amounts[0])
    assert amounts == [287, 215, 162, 121, 50, 50, 50, 50]
    assert (await line(office, MONEY)).live == sum(amounts) <= 1000


async def test_a_dead_workers_money_is_in_doubt_until_its_journal_is_settled(office: Office, store: FakeLeaseStore) -> None:
    """It counts as long as nobody knows what became of it; then what was charged is spent and the rest is free."""
    await office.acquire("w1", exactly(MONEY, 600))
    office.incarnation_died("w1")
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 0, 0, 600, 0)
    assert office.in_doubt() == ("w1",)
    refused = await office.acquire("w2", exactly(MONEY, 500))
    assert (refused.refused, refused.retry_after) == (0, 1.0)
    store.charge("w1", [(MONEY.id, 100)])
    await office.booked("w1", [(MONEY.id, 100)])
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 100, 0, 500, 0)
    await office.incarnation_settled("w1")
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 100, 0, 0, 0)
    assert (office.in_doubt(), store.rows) == ((), {})
    assert (await office.acquire("w2", exactly(MONEY, 900))).amounts == (900,)


async def test_a_lost_journal_is_charged(office: Office, store: FakeLeaseStore) -> None:
    """Whatever nobody can account for is spent, once, however often it is said."""
    await office.acquire("w1", exactly(MONEY, 600))
    store.charge("w1", [(MONEY.id, 100)])
    office.incarnation_died("w1")
    for _ in range(2):
        await office.journal_lost("w1")
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 600, 0, 0, 0)
    assert store.charged[MONEY.id] == 600


async def test_after_a_crash_of_the_office_everything_lent_is_in_doubt(store: FakeLeaseStore, clock: FakeClock) -> None:
    """A new office knows what the old one had lent, before anybody asks it anything."""
    before = Office(store, clock)
    await before.acquire("w1", (Draw(MONEY, 600, 600), Draw(TEAM, 600, 600)))
    store.charge("w1", [(MONEY.id, 100), (TEAM.id, 100)])
    after = Office(store, clock)
    await after.open()
    assert after.in_doubt() == ("w1",)
    assert await line(after, MONEY) == MeterState(MONEY.id, Dimension.MONEY, None, 100, 0, 500, 0)
    refused = await after.acquire("w2", exactly(MONEY, 401))
    assert (refused.refused, refused.remaining) == (0, (400,))
    await after.incarnation_settled("w1")
    assert (await after.acquire("w2", exactly(MONEY, 900))).amounts == (900,)


async def test_the_ended_are_not_served(office: Office) -> None:
    """A late question of a dead worker is not answered with money."""
    office.incarnation_died("w1")
    with pytest.raises(Unavailable):
        await office.acquire("w1", exactly(MONEY, 1))


async def test_a_charge_above_its_hold_counts_beyond_the_cap(office: Office, store: FakeLeaseStore) -> None:
    """Reported before or after the drain finds it, it is counted once, and the statement says by how much."""
    await office.acquire("w1", exactly(MONEY, 1000))
    office.report_over("w1", MONEY.id, 200)
    assert await line(office, MONEY) == MeterState(MONEY.id, Dimension.MONEY, 1000, 0, 1200, 0, 200)
    store.charge("w1", [(MONEY.id, 1200)])
    await office.booked("w1", [(MONEY.id, 1200)])
    state = await line(office, MONEY)
    assert (state.spent, state.live, state.over, state.balanced) == (1200, 0, 200, True)


async def test_the_drain_may_find_an_excess_before_its_report(office: Office, store: FakeLeaseStore) -> None:
    """The journal can be quicker than the socket; nothing is counted twice or forgotten."""
    await office.acquire("w1", exactly(MONEY, 100))
    store.charge("w1", [(MONEY.id, 150)])
    await office.booked("w1", [(MONEY.id, 150)])
    await office.acquire("w1", exactly(MONEY, 10))
    assert (await line(office, MONEY)).live == 10
    office.report_over("w1", MONEY.id, 50)
    state = await line(office, MONEY)
    assert (state.spent, state.live, state.over) == (150, 10, 50)


async def test_a_lowered_cap_stops_grants(office: Office) -> None:
    """The newest cap counts; what is out stays out."""
    await office.acquire("w1", exactly(MONEY, 500))
    lower = Meter(MONEY.id, Dimension.MONEY, 400)
    refused = await office.acquire("w1", exactly(lower, 1))
    assert (refused.refused, refused.remaining) == (0, (0,))
    assert not (await line(office, MONEY)).balanced


# -- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.999])
async def test_a_window_is_full_for_a_minute_and_the_leases(office: Office, clock: FakeClock, offset: float) -> None:
    """Nothing more until no window can contain both the last use of the old grant and the first of a new one."""
    clock.advance(offset)
    await office.acquire("w1", exactly(REQUESTS, 10))
    clock.advance(60 + LIFETIME - 0.001)
    refused = await office.acquire("w2", exactly(REQUESTS, 1))
    assert refused.refused == 0
    assert refused.retry_after is not None
    clock.advance(refused.retry_after)
    assert (await office.acquire("w2", exactly(REQUESTS, 10))).amounts == (10,)


async def test_retry_advice_is_the_moment_when_enough_is_free(office: Office, clock: FakeClock) -> None:
    """Small needs may come back sooner than large ones."""
    for _ in range(5):
        await office.acquire("w1", exactly(REQUESTS, 2))
        clock.advance(5)
    small = await office.acquire("w2", exactly(REQUESTS, 1))
    large = await office.acquire("w2", exactly(REQUESTS, 7))
    assert small.retry_after is not None
    assert large.retry_after is not None
    assert large.retry_after - small.retry_after == pytest.approx(15)
    clock.advance(small.retry_after)
    assert (await office.acquire("w2", exactly(REQUESTS, 2))).amounts == (2,)


async def test_unused_amounts_leave_the_second_that_they_were_granted_in(office: Office, clock: FakeClock) -> None:
    """What was used counts until its own time is over, and what was not used does not count at all."""
    first = await office.acquire("w1", exactly(TOKENS, 500))
    clock.advance(30)
    second = await office.acquire("w1", exactly(TOKENS, 500))
    office.give_back("w1", [Unused(TOKENS.id, 400, second.stamp)])
    assert (await line(office, TOKENS)).live == 600
    clock.advance(33)
    assert (await line(office, TOKENS)).live == 100
    office.give_back("w1", [Unused(TOKENS.id, 500, first.stamp), Unused(TOKENS.id, 500, second.stamp + 1)])
    assert (await line(office, TOKENS)).live == 100  # of a second that is over, or in which nothing was granted
    office.give_back("w1", [Unused(TOKENS.id, 60, second.stamp)])
    assert (await line(office, TOKENS)).live == 40


async def test_a_worker_gives_back_only_its_own(office: Office) -> None:
    """Another incarnation's grants are not touched."""
    granted = await office.acquire("w1", exactly(TOKENS, 600))
    await office.acquire("w2", exactly(TOKENS, 100))
    office.give_back("w2", [Unused(TOKENS.id, 600, granted.stamp)])
    assert (await line(office, TOKENS)).live == 600


async def test_the_dead_leave_their_windows_counted(office: Office) -> None:
    """What a dead worker drew may have been used."""
    await office.acquire("w1", exactly(REQUESTS, 10))
    office.incarnation_died("w1")
    assert (await office.acquire("w2", exactly(REQUESTS, 1))).refused == 0


async def test_windows_do_not_notice_when_somebody_sets_the_time(office: Office, clock: FakeClock) -> None:
    """Security scenario 40: an hour forwards or back frees nothing and blocks nothing."""
    await office.acquire("w1", exactly(REQUESTS, 10))
    clock.jump(3600)
    assert (await office.acquire("w2", exactly(REQUESTS, 1))).refused == 0
    clock.jump(-7200)
    clock.advance(63)
    assert (await office.acquire("w2", exactly(REQUESTS, 10))).amounts == (10,)


async def test_tokens_used_beyond_the_hold_fill_the_window(office: Office, clock: FakeClock) -> None:
    """They count for as long as others, and the statement stays balanced."""
    await office.acquire("w1", exactly(TOKENS, 1000))
    office.report_over("w1", TOKENS.id, 300)
    state = await line(office, TOKENS)
    assert (state.live, state.over, state.balanced) == (1300, 300, True)
    clock.advance(63)
    assert (await office.acquire("w1", exactly(TOKENS, 1000))).amounts == (1000,)
    assert (await line(office, TOKENS)).over == 0


# -- slots -------------------------------------------------------------------------------------------------------


async def test_slots_stay_out_until_they_come_back_or_their_worker_dies(office: Office, clock: FakeClock) -> None:
    """Time does not free them."""
    await office.acquire("w1", exactly(SLOTS, 3))
    clock.advance(3600)
    refused = await office.acquire("w2", exactly(SLOTS, 2))
    assert (refused.refused, refused.retry_after, refused.remaining) == (0, 1.0, (1,))
    office.give_back("w1", [Unused(SLOTS.id, 1)])
    assert (await office.acquire("w2", exactly(SLOTS, 2))).amounts == (2,)
    office.incarnation_died("w1")
    assert (await office.acquire("w2", exactly(SLOTS, 2))).amounts == (2,)


# -- answers -----------------------------------------------------------------------------------------------------


async def test_the_refusal_names_what_takes_longest(office: Office, clock: FakeClock) -> None:
    """Somebody who waited for the others would only meet this one."""
    await office.acquire("w1", (Draw(REQUESTS, 10, 10), Draw(SLOTS, 4, 4)))
    refused = await office.acquire("w2", (Draw(SLOTS, 1, 1), Draw(REQUESTS, 1, 1), Draw(TOKENS, 1, 1)))
    assert refused.refused == 1
    never = await office.acquire("w2", (Draw(REQUESTS, 1, 1), Draw(TOKENS, 1001, 1001)))
    assert (never.refused, never.retry_after) == (1, None)


async def test_a_meter_is_drawn_from_once(office: Office) -> None:
    """Two draws on one meter would each see what the other takes."""
    with pytest.raises(ValueError, match="once"):
        await office.acquire("w1", (*exactly(MONEY, 1), *exactly(MONEY, 1)))


# -- housekeeping ------------------------------------------------------------------------------------------------


async def test_nothing_grows(office: Office, store: FakeLeaseStore, clock: FakeClock) -> None:
    """Meters that are empty and long unused leave memory, used-up leases leave the store; living ones stay."""
    for day in range(50):
        meter = Meter(f"key:a:money:day:{day}", Dimension.MONEY, 1000)
        await office.acquire("w1", (Draw(meter, 100, 100), Draw(REQUESTS, 1, 1), Draw(SLOTS, 1, 1)))
        store.charge("w1", [(meter.id, 60)])
        await office.booked("w1", [(meter.id, 60)])
        office.give_back("w1", [Unused(meter.id, 40), Unused(SLOTS.id, 1)])
        clock.advance(100)
        await office.tidy()
        assert len(office.statement()) <= 5
    await office.acquire("w1", exactly(MONEY, 5))
    clock.advance(FORGET_AFTER)
    await office.tidy()
    assert [state.meter for state in office.statement()] == [MONEY.id]
    assert list(store.rows.values()) == [LeaseRow("w1", MONEY.id, 5)]


async def test_tidying_writes_down_what_came_back(office: Office, store: FakeLeaseStore) -> None:
    """So that after a crash no more is in doubt than need be."""
    await office.acquire("w1", exactly(MONEY, 500))
    office.give_back("w1", [Unused(MONEY.id, 450)])
    await office.tidy()
    assert list(store.rows.values()) == [LeaseRow("w1", MONEY.id, 500, 450)]


async def test_a_lease_drawn_on_while_it_is_forgotten_begins_anew(office: Office, store: FakeLeaseStore, clock: FakeClock) -> None:
    """Neither the store nor memory mixes the old totals with the new ones."""
    await office.acquire("w1", exactly(MONEY, 100))
    office.give_back("w1", [Unused(MONEY.id, 100)])
    clock.advance(FORGET_AFTER)
    tidying = asyncio.ensure_future(office.tidy())
    granted = asyncio.ensure_future(office.acquire("w1", exactly(MONEY, 70)))
    await asyncio.gather(tidying, granted)
    assert list(store.rows.values()) == [LeaseRow("w1", MONEY.id, 70)]
    assert (await line(office, MONEY)).live == 70


async def test_a_failed_tidying_changes_nothing(office: Office, store: FakeLeaseStore, clock: FakeClock) -> None:
    """The store refuses to forget: the lease stands as before."""
    await office.acquire("w1", exactly(MONEY, 100))
    office.give_back("w1", [Unused(MONEY.id, 100)])
    clock.advance(FORGET_AFTER)
    store.gone = True
    with pytest.raises(Unavailable):
        await office.tidy()
    store.gone = False
    await office.tidy()
    assert (store.rows, office.statement()) == ({}, ())


async def test_settling_is_repeated_after_a_failure(office: Office, store: FakeLeaseStore) -> None:
    """The drain tells at least once: a refusal of the store leaves the money in doubt, the next time frees it."""
    await office.acquire("w1", exactly(MONEY, 600))
    store.gone = True
    for end in (office.incarnation_settled, office.journal_lost):
        with pytest.raises(Unavailable):
            await end("w1")
    assert (await line(office, MONEY)).in_doubt == 600
    store.gone = False
    await office.incarnation_settled("w1")
    assert (await office.acquire("w2", exactly(MONEY, 1000))).amounts == (1000,)


async def test_an_answer_nobody_waits_for_is_undone(office: Office, store: FakeLeaseStore) -> None:
    """A question that is cancelled while the store writes leaves nothing lent."""
    asked: asyncio.Task[Granted] = asyncio.ensure_future(office.acquire("w1", (Draw(MONEY, 600, 600), Draw(SLOTS, 4, 4))))
    while not store.rows and not any(state.live for state in office.statement()):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (await office.acquire("w2", (Draw(MONEY, 1000, 1000), Draw(SLOTS, 4, 4)))).amounts == (1000, 4)
