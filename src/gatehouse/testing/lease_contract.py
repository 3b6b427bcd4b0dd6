"""What every lease store and every way to the lease office must do, as test classes to inherit from.

class TestSqlLeases(LeaseStoreContract):
    @pytest.fixture
    def store(self) -> LeaseStore: ...
    @pytest.fixture
    def charge(self) -> Charge: ...
"""

from collections.abc import Awaitable, Callable, Sequence

from gatehouse.core.leases import LeaseRow, LeaseStore
from gatehouse.core.limits import Dimension, Draw, Meter, Unused
from gatehouse.core.ports import LeaseOffice

Charge = Callable[[str, Sequence[tuple[str, int]]], Awaitable[None]]
"""Books charges (meter, amount) of an incarnation the way the drain does."""

MONEY = Meter("key:a:money:total:all", Dimension.MONEY, 1000)
OTHER = Meter("key:b:money:total:all", Dimension.MONEY, 1000)
REQUESTS = Meter("key:a:requests", Dimension.REQUESTS, 100)
SLOTS = Meter("key:a:slots", Dimension.SLOTS, 4)


class LeaseStoreContract:
    """Fixtures: `store`, empty; `charge`, which books on the same database."""

    async def test_a_saved_row_is_loaded(self, store: LeaseStore) -> None:
        """Granted and returned come back as they were saved last."""
        await store.save([LeaseRow("w1", MONEY.id, 100), LeaseRow("w2", MONEY.id, 50)])
        await store.save([LeaseRow("w1", MONEY.id, 130, 20)])
        rows = {(row.incarnation, row.meter): row for row in await store.load()}
        assert rows == {("w1", MONEY.id): LeaseRow("w1", MONEY.id, 130, 20), ("w2", MONEY.id): LeaseRow("w2", MONEY.id, 50)}

    async def test_booked_belongs_to_the_drain(self, store: LeaseStore, charge: Charge) -> None:
        """Saving a row, whatever it says of booked, leaves what the drain has added."""
        await store.save([LeaseRow("w1", MONEY.id, 100)])
        await charge("w1", [(MONEY.id, 30)])
        await store.save([LeaseRow("w1", MONEY.id, 150, 0, 7)])
        await charge("w1", [(MONEY.id, 5)])
        assert await store.load() == [LeaseRow("w1", MONEY.id, 150, 0, 35)]

    async def test_totals_are_of_the_meter_and_of_the_incarnation(self, store: LeaseStore, charge: Charge) -> None:
        """spent counts every incarnation's charges, booked only this one's; order is that of the question, unknown is 0."""
        await store.save([LeaseRow("w1", MONEY.id, 100), LeaseRow("w2", MONEY.id, 100), LeaseRow("w1", OTHER.id, 100)])
        await charge("w1", [(MONEY.id, 30), (OTHER.id, 4)])
        await charge("w2", [(MONEY.id, 20)])
        assert await store.totals("w1", ["nobody's", OTHER.id, MONEY.id]) == [(0, 0), (4, 4), (50, 30)]
        assert await store.totals("w3", [MONEY.id]) == [(50, 0)]
        assert await store.totals("w1", []) == []

    async def test_a_charge_without_a_lease_is_spent(self, store: LeaseStore, charge: Charge) -> None:
        """The meter's total rises; no row appears."""
        await charge("w1", [(MONEY.id, 30)])
        assert (await store.totals("w1", [MONEY.id]), await store.load()) == ([(30, 0)], [])

    async def test_forget_takes_an_incarnation_or_some_of_its_meters(self, store: LeaseStore, charge: Charge) -> None:
        """What was spent stays spent; others' rows stay; forgetting twice is once."""
        await store.save([LeaseRow("w1", MONEY.id, 100), LeaseRow("w1", OTHER.id, 100), LeaseRow("w2", MONEY.id, 100)])
        await charge("w1", [(MONEY.id, 30)])
        await store.forget("w1", [MONEY.id])
        await store.forget("w1", [])
        assert {(row.incarnation, row.meter) for row in await store.load()} == {("w1", OTHER.id), ("w2", MONEY.id)}
        await store.forget("w1")
        await store.forget("w1")
        assert await store.load() == [LeaseRow("w2", MONEY.id, 100)]
        assert await store.totals("w1", [MONEY.id]) == [(30, 0)]

    async def test_a_row_saved_after_it_was_forgotten_begins_anew(self, store: LeaseStore, charge: Charge) -> None:
        """Its booked is 0: what was booked before does not reduce what is outstanding now."""
        await store.save([LeaseRow("w1", MONEY.id, 100)])
        await charge("w1", [(MONEY.id, 100)])
        await store.forget("w1", [MONEY.id])
        await store.save([LeaseRow("w1", MONEY.id, 10)])
        assert await store.load() == [LeaseRow("w1", MONEY.id, 10)]

    async def test_a_write_off_charges_and_forgets_once(self, store: LeaseStore) -> None:
        """The second time there are no rows, and nothing is charged."""
        await store.save([LeaseRow("w1", MONEY.id, 100), LeaseRow("w1", OTHER.id, 100)])
        for _ in range(2):
            await store.write_off("w1", [(MONEY.id, 70), (OTHER.id, 1)])
        assert await store.load() == []
        assert await store.totals("w1", [MONEY.id, OTHER.id]) == [(70, 0), (1, 0)]

    async def test_amounts_are_64_bit(self, store: LeaseStore) -> None:
        """Nine hundred million dollars in units of 10^-10 USD."""
        await store.save([LeaseRow("w1", MONEY.id, 9 * 10**18)])
        assert await store.load() == [LeaseRow("w1", MONEY.id, 9 * 10**18)]


class LeaseOfficeContract:
    """Fixtures: `office` and `other`, the ports of two living workers at one fresh authority."""

    async def test_at_least_what_is_needed_at_most_what_is_wanted(self, office: LeaseOffice) -> None:
        """With plenty left, something beyond the need is lent; never more than was wanted."""
        granted = await office.acquire((Draw(MONEY, 10, 30), Draw(REQUESTS, 1, 1)))
        assert granted.refused is None
        assert granted.amounts == (30, 1)
        assert granted.remaining == (970, 99)

    async def test_all_or_nothing(self, office: LeaseOffice, other: LeaseOffice) -> None:
        """One meter that has too little refuses the whole, is named, and nothing was taken from the others."""
        refused = await office.acquire((Draw(MONEY, 10, 10), Draw(SLOTS, 5, 5), Draw(REQUESTS, 1, 1)))
        assert (refused.amounts, refused.refused, refused.remaining) == ((), 1, (1000, 4, 100))
        granted = await other.acquire((Draw(MONEY, 1000, 1000), Draw(SLOTS, 4, 4), Draw(REQUESTS, 100, 100)))
        assert granted.amounts == (1000, 4, 100)

    async def test_two_workers_share_one_cap(self, office: LeaseOffice, other: LeaseOffice) -> None:
        """What one has the other cannot get, and never more than a part of what is left goes to one."""
        first = await office.acquire((Draw(MONEY, 10, 1000),))
        assert 10 <= first.amounts[0] < 500
        refused = await other.acquire((Draw(MONEY, 1000 - first.amounts[0] + 1, 1000),))
        assert refused.refused == 0
        granted = await other.acquire((Draw(MONEY, 1000 - first.amounts[0], 1000),))
        assert granted.amounts == (1000 - first.amounts[0],)

    async def test_what_comes_back_can_be_drawn_by_others(self, office: LeaseOffice, other: LeaseOffice) -> None:
        """In the order in which it was sent: a question asked after giving back finds it there."""
        granted = await office.acquire((Draw(MONEY, 1000, 1000), Draw(SLOTS, 4, 4), Draw(REQUESTS, 100, 100)))
        meters = (MONEY, SLOTS, REQUESTS)
        office.give_back([Unused(meter.id, amount, granted.stamp) for meter, amount in zip(meters, granted.amounts, strict=True)])
        await self._barrier(office)
        again = await other.acquire((Draw(MONEY, 1000, 1000), Draw(SLOTS, 4, 4), Draw(REQUESTS, 100, 100)))
        assert again.amounts == (1000, 4, 100)

    async def test_a_window_takes_nothing_back_from_later_seconds(self, office: LeaseOffice) -> None:
        """An amount under an older stamp than any grant that still counts is ignored: it is no longer counted anyway."""
        await office.acquire((Draw(REQUESTS, 100, 100),))
        office.give_back([Unused(REQUESTS.id, 100, -1)])
        refused = await office.acquire((Draw(REQUESTS, 1, 1),))
        assert refused.refused == 0
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= 60 + refused.lifetime + 1

    async def test_more_than_the_cap_never_helps_to_wait(self, office: LeaseOffice) -> None:
        """A need that no wait can meet is refused without an advice."""
        for meter in (MONEY, SLOTS, REQUESTS):
            refused = await office.acquire((Draw(meter, meter.cap + 1, meter.cap + 1),))
            assert (refused.refused, refused.retry_after) == (0, None)

    async def test_a_report_counts_beyond_the_cap(self, office: LeaseOffice, other: LeaseOffice) -> None:
        """What a provider used beyond every lease leaves less for everybody."""
        await office.acquire((Draw(MONEY, 500, 500),))
        office.report_over(MONEY.id, 600)
        await self._barrier(office)
        refused = await other.acquire((Draw(MONEY, 1, 1),))
        assert (refused.refused, refused.remaining) == (0, (0,))

    async def test_unknown_meters_are_ignored(self, office: LeaseOffice) -> None:
        """Neither call raises for a meter that nobody drew from."""
        office.give_back([Unused("key:nobody:slots", 5)])
        office.report_over("key:nobody:requests", 5)
        await self._barrier(office)

    @staticmethod
    async def _barrier(office: LeaseOffice) -> None:
        await office.acquire((Draw(Meter("key:barrier:requests", Dimension.REQUESTS, 1000), 1, 1),))
