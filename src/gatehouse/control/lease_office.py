"""The one authority on meters: it lends slices of requests, tokens, slots and money to workers, and never more than there is.

For money the truth is the ledger: `spent` and `booked` are always read from the store, never added up here, so being told
something twice changes nothing. What is lent is durable before anybody hears of it. The invariant, published by
`statement`, is for every money meter

    cap + over >= spent + live + in doubt

Windows and slots live in memory: they are gone with this process, and so are the workers that drew on them.

Everything runs on one event loop. State changes only between awaits; an await stands for the disk alone.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from gatehouse.control.lease_meters import AnyMeter, MoneyLease, MoneyMeter, SlotMeter, WindowMeter, build_meter
from gatehouse.core.errors import Unavailable
from gatehouse.core.leases import LeaseStore, MeterState
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.ports import Clock

SHARE: Final = 4
"""A slice beyond what is needed is at most this part of what is left, so that several workers find some."""
FORGET_AFTER: Final = 120.0
"""Seconds without a draw after which an empty meter is no longer kept in memory."""
LIFETIME: Final = 1.0
"""Seconds for which a worker may use what it drew from a window. Longer saves messages and wastes that much of each minute."""


class Office:
    """Implements the steward's view of the authority and the drain's `Settlement`. An incarnation lives once: ids never come back."""

    def __init__(self, store: LeaseStore, clock: Clock, lifetime: float = LIFETIME) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._meters: dict[str, AnyMeter] = {}
        self._ended: set[str] = set()
        self._dirty: dict[tuple[str, str], MoneyLease] = {}
        self._changes = 0
        self._saved = 0
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        """Take up what the last office left: every lease it knew is in doubt until its journal is settled or lost."""
        for row in await self._store.load():
            meter = self._money(row.meter)
            meter.leases[row.incarnation] = MoneyLease(row)
            self._ended.add(row.incarnation)
        await self._read_totals("", [meter for meter in self._meters.values() if isinstance(meter, MoneyMeter)])

    # -- workers -----------------------------------------------------------------------------------------------

    async def acquire(self, incarnation: str, draws: tuple[Draw, ...]) -> Granted:
        """All or nothing; what was granted of money is durable when this returns.

        Raises:
            Unavailable: the store refuses, or the incarnation has ended.
        """
        meters = tuple(self._meter(draw) for draw in draws)
        if len(set(meters)) != len(meters):
            raise ValueError("a meter may be drawn from once in an acquire")
        if any(isinstance(meter, MoneyMeter) and meter.spent is None for meter in meters):
            await self._read_totals(incarnation, [meter for meter in meters if isinstance(meter, MoneyMeter)], unread=True)
        if incarnation in self._ended:
            raise Unavailable("This worker has ended.", code="steward_unavailable")
        now = self._clock.monotonic()
        free = tuple(meter.free(now) for meter in meters)
        if any(left < draw.need for left, draw in zip(free, draws, strict=True)):
            return _refusal(meters, draws, free, now)
        amounts = tuple(_slice(draw, left) for draw, left in zip(draws, free, strict=True))
        lent = False
        for meter, amount in zip(meters, amounts, strict=True):
            lease = meter.grant(incarnation, amount, now)
            if isinstance(lease, MoneyLease):
                self._mark(lease)
                lent = True
        stamp = int(now // 1)
        if lent:
            try:
                await self._persist()
            except BaseException:
                self.give_back(incarnation, [Unused(meter.id, amount, stamp) for meter, amount in zip(meters, amounts, strict=True)])
                raise
        remaining = tuple(left - amount for left, amount in zip(free, amounts, strict=True))
        return Granted(amounts, remaining=remaining, lifetime=self._lifetime, stamp=stamp)

    def give_back(self, incarnation: str, unused: Iterable[Unused]) -> None:
        """What was lent and not used. Unknown meters and amounts beyond what is out are ignored."""
        for item in unused:
            meter = self._meters.get(item.meter)
            if isinstance(meter, WindowMeter):
                meter.give_back(incarnation, item.amount, item.stamp)
            elif isinstance(meter, SlotMeter):
                meter.give_back(incarnation, item.amount)
            elif meter is not None and (lease := meter.give_back(incarnation, item.amount)) is not None:
                # Not worth a write of its own: until the next one the store has too much in doubt, never too little.
                self._mark(lease)

    def report_over(self, incarnation: str, meter_id: str, amount: int) -> None:
        """A charge went beyond its hold and everything else its worker had: it counts, whatever the cap."""
        meter = self._meters.get(meter_id)
        if isinstance(meter, WindowMeter):
            meter.report_over(incarnation, amount, self._clock.monotonic())
        elif isinstance(meter, MoneyMeter):
            self._mark(meter.report_over(incarnation, amount))

    def incarnation_died(self, incarnation: str) -> None:
        """Its slots are free at once; its money is in doubt; what it drew from windows may have been used."""
        self._ended.add(incarnation)
        for meter in self._meters.values():
            if isinstance(meter, SlotMeter):
                meter.out.pop(incarnation, None)

    # -- the drain ---------------------------------------------------------------------------------------------

    async def booked(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """The ledger has new charges on these meters; their totals are read afresh."""
        await self._read_totals(incarnation, [meter for name, _ in charges if isinstance(meter := self._meters.get(name), MoneyMeter)])

    async def incarnation_settled(self, incarnation: str) -> None:
        """The process is dead and its journal is in the ledger to the last record: what it held beyond that is free."""
        self.incarnation_died(incarnation)
        async with self._writing:
            self._clean(incarnation)
            await self._store.forget(incarnation)
        await self._close(incarnation)

    async def journal_lost(self, incarnation: str) -> None:
        """The journal is gone: whatever the incarnation still held is charged as spent."""
        self.incarnation_died(incarnation)
        await self._read_totals(incarnation, [meter for meter, _ in self._leases(incarnation)])
        await self._persist()
        charges = [(meter.id, lease.outstanding) for meter, lease in self._leases(incarnation) if lease.outstanding]
        async with self._writing:
            self._clean(incarnation)
            await self._store.write_off(incarnation, charges)
        await self._close(incarnation)

    # -- housekeeping ------------------------------------------------------------------------------------------

    def statement(self) -> tuple[MeterState, ...]:
        """Every meter in memory: those drawn from within two minutes or with anything outstanding."""
        now = self._clock.monotonic()
        ended = frozenset(self._ended)
        return tuple(
            meter.state(ended) if isinstance(meter, MoneyMeter) else meter.state(now) if isinstance(meter, WindowMeter) else meter.state()
            for meter in self._meters.values()
            if not isinstance(meter, MoneyMeter) or meter.spent is not None
        )

    def in_doubt(self) -> tuple[str, ...]:
        """Incarnations that have ended and whose money waits for their journal."""
        return tuple(sorted({lease.incarnation for name in self._ended for _, lease in self._leases(name) if lease.outstanding}))

    async def tidy(self) -> None:
        """Once in a while: write down what came back, forget what has long been empty. Raises Unavailable like the store."""
        now = self._clock.monotonic()
        old = [meter for meter in self._meters.values() if now - meter.touched >= FORGET_AFTER]
        for meter in old:
            if isinstance(meter, MoneyMeter):
                for lease in [lease for lease in meter.leases.values() if not lease.outstanding and lease.incarnation not in self._ended]:
                    await self._drop(meter, lease)
            elif isinstance(meter, WindowMeter):
                meter.free(now)
            if meter.idle and now - meter.touched >= FORGET_AFTER:
                self._meters.pop(meter.id, None)
        if self._dirty:
            await self._persist()

    # -- inside ------------------------------------------------------------------------------------------------

    def _meter(self, draw: Draw) -> AnyMeter:
        wanted = draw.meter
        meter = self._meters.get(wanted.id)
        if meter is None:
            meter = self._meters[wanted.id] = build_meter(wanted.id, wanted.dimension, self._lifetime)
        meter.cap = wanted.cap
        meter.touched = self._clock.monotonic()
        return meter

    def _money(self, meter_id: str) -> MoneyMeter:
        meter = self._meters.get(meter_id)
        if not isinstance(meter, MoneyMeter):
            meter = self._meters[meter_id] = MoneyMeter(meter_id)
            meter.touched = self._clock.monotonic()
        return meter

    def _leases(self, incarnation: str) -> list[tuple[MoneyMeter, MoneyLease]]:
        return [
            (meter, meter.leases[incarnation])
            for meter in self._meters.values()
            if isinstance(meter, MoneyMeter) and incarnation in meter.leases
        ]

    async def _read_totals(self, incarnation: str, meters: Sequence[MoneyMeter], *, unread: bool = False) -> None:
        """Mirror what the store has; with `unread`, only where nobody did so yet.

        One read at a time, and spent and booked change together: the sum never dips.
        """
        async with self._reading:
            if unread:
                meters = [meter for meter in meters if meter.spent is None]
            if not meters:
                return
            totals = await self._store.totals(incarnation, [meter.id for meter in meters])
            for meter, (spent, booked) in zip(meters, totals, strict=True):
                meter.spent = spent
                lease = meter.leases.get(incarnation)
                if lease is not None:
                    meter.over += lease.book(booked)

    def _mark(self, lease: MoneyLease) -> None:
        self._changes += 1
        self._dirty[lease.incarnation, lease.meter] = lease

    async def _persist(self) -> None:
        """Return when every change up to now is durable. Askers that wait for the same write share it."""
        ticket = self._changes
        async with self._writing:
            if self._saved >= ticket:
                return
            leases, self._dirty = self._dirty, {}
            upto = self._changes
            try:
                await self._store.save([lease.row() for lease in leases.values()])
            except BaseException:
                self._dirty = leases | self._dirty
                raise
            self._saved = upto

    def _clean(self, incarnation: str) -> None:
        for key in [key for key in self._dirty if key[0] == incarnation]:
            del self._dirty[key]

    async def _close(self, incarnation: str) -> None:
        """The store has forgotten the incarnation: take its leases off the meters in the moment their new totals are known."""
        leases = self._leases(incarnation)
        async with self._reading:
            totals = await self._store.totals(incarnation, [meter.id for meter, _ in leases])
            for (meter, _), (spent, _) in zip(leases, totals, strict=True):
                meter.spent = spent
                del meter.leases[incarnation]
        self._ended.discard(incarnation)

    async def _drop(self, meter: MoneyMeter, lease: MoneyLease) -> None:
        """Forget a lease that is used up. Should it be drawn on meanwhile, the new totals begin where the store was cleared."""
        async with self._writing:
            if lease.outstanding:
                return
            before = lease.row()
            lease.granted = lease.returned = lease.booked = 0
            try:
                await self._store.forget(lease.incarnation, [lease.meter])
            except BaseException:
                lease.granted += before.granted
                lease.returned += before.returned
                lease.booked += before.booked
                raise
            if not lease.granted:
                meter.leases.pop(lease.incarnation, None)
                self._dirty.pop((lease.incarnation, lease.meter), None)


class LocalOffice:
    """Implements the `LeaseOffice` port for a worker in the office's own process."""

    def __init__(self, office: Office, incarnation: str) -> None:
        self._office = office
        self._incarnation = incarnation

    async def acquire(self, draws: tuple[Draw, ...]) -> Granted:
        """See `LeaseOffice`."""
        return await self._office.acquire(self._incarnation, draws)

    def give_back(self, unused: Iterable[Unused]) -> None:
        """See `LeaseOffice`."""
        self._office.give_back(self._incarnation, unused)

    def report_over(self, meter_id: str, amount: int) -> None:
        """See `LeaseOffice`."""
        self._office.report_over(self._incarnation, meter_id, amount)


def _slice(draw: Draw, free: int) -> int:
    """What is needed and, as long as there is plenty, some of what is wanted beyond it."""
    extra = min(draw.want - draw.need, (free - draw.need) // SHARE)
    # Less than another call's worth would only lie stranded with one worker: then each hold is its own lease.
    return draw.need + extra if extra >= draw.need else draw.need


def _refusal(meters: Sequence[AnyMeter], draws: Sequence[Draw], free: Sequence[int], now: float) -> Granted:
    """Name the meter that takes longest: coming back after the others would only meet this one."""
    worst: tuple[float, int] | None = None
    for index, (meter, draw, left) in enumerate(zip(meters, draws, free, strict=True)):
        if left < draw.need:
            wait = meter.retry_after(draw.need, now)
            rank = (float("inf") if wait is None else wait, -index)
            if worst is None or rank > worst:
                worst = rank
    assert worst is not None
    wait, index = worst
    return Granted(refused=-index, retry_after=None if wait == float("inf") else wait, remaining=tuple(max(left, 0) for left in free))
