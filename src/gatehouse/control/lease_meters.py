"""The arithmetic of one meter at the authority: what is free, who has how much. Pure; the office drives it and keeps it durable.

Three kinds, because the dimensions age differently: money is spent for good, slots are held, a window forgets.
"""

import math
from collections import deque
from typing import Final

from gatehouse.core.leases import LeaseRow, MeterState
from gatehouse.core.limits import Dimension

WINDOW: Final = 60.0
"""Seconds in which requests and tokens are counted."""
SOON: Final = 1.0
"""Retry advice, in seconds, when what is missing may be given back any moment."""


class MoneyLease:
    """One incarnation's money from one meter, as cumulative totals; a mirror of its `LeaseRow`."""

    __slots__ = ("_assumed", "booked", "granted", "incarnation", "meter", "returned")

    def __init__(self, row: LeaseRow) -> None:
        self._assumed = 0
        self.incarnation = row.incarnation
        self.meter = row.meter
        self.granted = row.granted
        self.returned = row.returned
        self.booked = row.booked

    @property
    def outstanding(self) -> int:
        """What may still be charged."""
        return max(0, self.granted - self.returned - self.booked)

    def book(self, total: int) -> int:
        """The ledger has `total` for this lease. Returns what that is beyond everything granted.

        Such an excess counts as granted at once: its report may come later than the drain that found it.
        """
        self.booked = total
        excess = self.booked + self.returned - self.granted
        if excess <= 0:
            return 0
        self._assumed += excess
        self.granted += excess
        return excess

    def exceed(self, amount: int) -> int:
        """The worker reports `amount` charged beyond everything granted. Returns how much of it was not known yet."""
        known = min(self._assumed, amount)
        self._assumed -= known
        self.granted += amount - known
        return amount - known

    def row(self) -> LeaseRow:
        """The totals as they stand."""
        return LeaseRow(self.incarnation, self.meter, self.granted, self.returned, self.booked)


class MoneyMeter:
    """free = cap - spent - everything outstanding. `spent` is None until the store was asked."""

    __slots__ = ("cap", "id", "leases", "over", "spent", "touched")

    def __init__(self, meter_id: str) -> None:
        self.id = meter_id
        self.cap: int | None = None
        self.spent: int | None = None
        self.leases: dict[str, MoneyLease] = {}
        self.over = 0
        self.touched = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing here needs to be remembered beside the store."""
        return not self.leases

    def free(self, now: float) -> int:
        """What may be granted; negative after a charge beyond the cap."""
        if self.cap is None or self.spent is None:
            return 0
        return self.cap - self.spent - sum(lease.outstanding for lease in self.leases.values())

    def grant(self, incarnation: str, amount: int, now: float) -> MoneyLease:
        """Lend `amount`; the lease has to be made durable before anybody is told."""
        lease = self._lease(incarnation)
        lease.granted += amount
        return lease

    def report_over(self, incarnation: str, amount: int) -> MoneyLease:
        """Count what was charged beyond every lease."""
        lease = self._lease(incarnation)
        self.over += lease.exceed(amount)
        return lease

    def _lease(self, incarnation: str) -> MoneyLease:
        lease = self.leases.get(incarnation)
        if lease is None:
            lease = self.leases[incarnation] = MoneyLease(LeaseRow(incarnation, self.id, 0))
        return lease

    def give_back(self, incarnation: str, amount: int) -> MoneyLease | None:
        """Take back at most what is outstanding."""
        lease = self.leases.get(incarnation)
        if lease is not None:
            lease.returned += min(amount, lease.outstanding)
        return lease

    def retry_after(self, need: int, now: float) -> float | None:
        """Only what is lent can come back; what is spent cannot."""
        if self.cap is None or self.spent is None or self.spent + need > self.cap:
            return None
        return SOON

    def state(self, ended: frozenset[str]) -> MeterState:
        """The statement's line; leases of `ended` incarnations are in doubt."""
        doubt = sum(lease.outstanding for name, lease in self.leases.items() if name in ended)
        live = sum(lease.outstanding for lease in self.leases.values()) - doubt
        return MeterState(self.id, Dimension.MONEY, self.cap, self.spent or 0, live, doubt, self.over)


class SlotMeter:
    """free = cap - what is out."""

    __slots__ = ("cap", "id", "out", "touched")

    def __init__(self, meter_id: str) -> None:
        self.id = meter_id
        self.cap: int | None = None
        self.out: dict[str, int] = {}
        self.touched = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing here needs to be remembered."""
        return not self.out

    def free(self, now: float) -> int:
        """What may be granted."""
        return (self.cap or 0) - sum(self.out.values())

    def grant(self, incarnation: str, amount: int, now: float) -> None:
        """Lend `amount`."""
        self.out[incarnation] = self.out.get(incarnation, 0) + amount

    def give_back(self, incarnation: str, amount: int) -> None:
        """Take back at most what is out."""
        left = self.out.get(incarnation, 0) - amount
        if left > 0:
            self.out[incarnation] = left
        else:
            self.out.pop(incarnation, None)

    def retry_after(self, need: int, now: float) -> float | None:
        """A slot may come back any moment, unless there are not that many."""
        return SOON if need <= (self.cap or 0) else None

    def state(self) -> MeterState:
        """The statement's line."""
        return MeterState(self.id, Dimension.SLOTS, self.cap, 0, sum(self.out.values()), 0, 0)


class _Granted:
    """What one incarnation was granted in one second."""

    __slots__ = ("amount", "incarnation", "over", "second")

    def __init__(self, second: int, incarnation: str) -> None:
        self.second = second
        self.incarnation = incarnation
        self.amount = 0
        self.over = 0


class WindowMeter:
    """Never more than `cap` in any 60 seconds, whatever the workers do with their leases in the meantime.

    A grant of second s is used at the latest at s + 1 + lifetime. Two uses fall into one window only when the later grant
    was made less than 60 s after that, so grants count for `60 + lifetime + 1` seconds from the start of their second.
    """

    __slots__ = ("_counted", "_grants", "_kept", "_over", "cap", "dimension", "id", "touched")

    def __init__(self, meter_id: str, dimension: Dimension, lifetime: float) -> None:
        self.id = meter_id
        self.dimension = dimension
        self.cap: int | None = None
        self.touched = 0.0
        self._kept = WINDOW + lifetime + 1.0
        self._grants: deque[_Granted] = deque()
        self._counted = 0
        self._over = 0

    @property
    def idle(self) -> bool:
        """Whether nothing here needs to be remembered (as of the last look)."""
        return not self._grants

    def free(self, now: float) -> int:
        """What may be granted; forgets what no window of now or later can contain."""
        grants = self._grants
        while grants and grants[0].second + self._kept <= now:
            past = grants.popleft()
            self._counted -= past.amount
            self._over -= past.over
        return (self.cap or 0) - self._counted

    def grant(self, incarnation: str, amount: int, now: float) -> int:
        """Lend `amount`; returns the stamp under which it can come back."""
        granted = self._entry(incarnation, math.floor(now))
        granted.amount += amount
        self._counted += amount
        return granted.second

    def report_over(self, incarnation: str, amount: int, now: float) -> None:
        """Count what was used without a lease."""
        entry = self._entry(incarnation, math.floor(now))
        entry.amount += amount
        entry.over += amount
        self._counted += amount
        self._over += amount

    def give_back(self, incarnation: str, amount: int, stamp: int) -> None:
        """Forget up to `amount` of what this incarnation was granted in the second `stamp`.

        In no other: what it was granted earlier was used, or came back by itself. Taken from there instead, the amount would be free for
        what is left of that second's time, and what was not used would count for all of its own.
        """
        for granted in reversed(self._grants):
            if granted.second < stamp:
                return
            if granted.second == stamp and granted.incarnation == incarnation:
                part = min(granted.amount, amount)
                granted.amount -= part
                self._counted -= part
                return

    def retry_after(self, need: int, now: float) -> float | None:
        """Seconds until enough of the window has passed; None when `need` alone is more than the cap."""
        if self.cap is None or need > self.cap:
            return None
        free = self.free(now)
        for granted in self._grants:
            free += granted.amount
            if free >= need:
                return max(granted.second + self._kept - now, 0.0)
        return SOON

    def state(self, now: float) -> MeterState:
        """The statement's line."""
        self.free(now)
        return MeterState(self.id, self.dimension, self.cap, 0, self._counted, 0, self._over)

    def _entry(self, incarnation: str, second: int) -> _Granted:
        for granted in reversed(self._grants):
            if granted.second != second:
                break
            if granted.incarnation == incarnation:
                return granted
        granted = _Granted(second, incarnation)
        self._grants.append(granted)
        return granted


AnyMeter = MoneyMeter | SlotMeter | WindowMeter


def build_meter(meter_id: str, dimension: Dimension, lifetime: float) -> AnyMeter:
    """An empty meter of the kind that `dimension` needs."""
    if dimension is Dimension.MONEY:
        return MoneyMeter(meter_id)
    if dimension is Dimension.SLOTS:
        return SlotMeter(meter_id)
    return WindowMeter(meter_id, dimension, lifetime)
