"""Limits and the meters they are measured on.

A meter counts one dimension for one subject over one window. Workers spend from leases on meters that the lease office
grants; the invariant, for each meter with a cap, is cap >= spent + live + in doubt.
"""

import enum
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from gatehouse.core.money import Money

Period = Literal["day", "month", "total"]


class Budget(msgspec.Struct, frozen=True):
    """At most `usd` (units of 10^-10) in each calendar day or month (UTC), or in all."""

    usd: Money
    period: Period = "month"


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subject may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget: Budget | None = None


class Dimension(enum.StrEnum):
    """requests and tokens count in a sliding minute, slots are held while a call runs, money is spent for good."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    SLOTS = "slots"
    MONEY = "money"


class Meter(msgspec.Struct, frozen=True):
    """`id` is stable and unique: "<subject>:<dimension>" and, for money, ":<period>:<start>" ("key:ab12cd34:money:month:2026-11")."""

    id: str
    dimension: Dimension
    cap: int
    """Requests, tokens, slots, or units of 10^-10 USD."""


class Draw(msgspec.Struct, frozen=True):
    """What a worker asks of a meter: at least `need` now; up to `want` so that the next calls need no round trip."""

    meter: Meter
    need: int
    want: int


class Granted(msgspec.Struct, frozen=True):
    """An all-or-nothing answer to several draws, in their order.

    `amounts` is empty when refused; then `refused` is the index of the meter that has too little and `retry_after` the
    seconds until it may have enough (None: not by waiting). `remaining` is what each meter has left beyond all leases.
    Requests and tokens may be used for `lifetime` seconds after they were *asked for*; what is left then is given back
    under `stamp`, the office's name for the moment of this grant. Money and slots do not age and are given back when idle.
    """

    amounts: tuple[int, ...] = ()
    refused: int | None = None
    retry_after: float | None = None
    remaining: tuple[int, ...] = ()
    lifetime: float = 1.0
    stamp: int = 0


class Unused(msgspec.Struct, frozen=True, array_like=True):
    """A leased amount that goes back; `stamp` is that of its grant (0 for money and slots)."""

    meter: str
    amount: int
    stamp: int = 0


class Hold(msgspec.Struct, frozen=True, gc=False):
    """An upper bound of what one call may use of one meter, taken before it runs and trued up when it ends.

    `stamp` is that of the grant it was taken from.
    """

    meter: Meter
    amount: int
    stamp: int = 0


class Holds(msgspec.Struct, frozen=True, gc=False):
    """What one call holds: a hold for each meter of its caller, in their order. Calls of one caller share all but the amounts."""

    meters: tuple[Meter, ...] = ()
    amounts: tuple[int, ...] = ()
    stamps: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.meters)

    def __iter__(self) -> Iterator[Hold]:
        return map(Hold, self.meters, self.amounts, self.stamps)

    def __getitem__(self, index: int) -> Hold:
        return Hold(self.meters[index], self.amounts[index], self.stamps[index])


NO_HOLDS: Final = Holds()


def budget_period(period: Period, now: float) -> tuple[str, float, float]:
    """The calendar period (UTC) that `now` falls in: its name in a meter's id, and its start and end, in seconds since the epoch."""
    if period == "total":
        return "all", float("-inf"), float("inf")
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return start.strftime("%Y-%m-%d"), start.timestamp(), (start + timedelta(days=1)).timestamp()
    start = start.replace(day=1)
    return start.strftime("%Y-%m"), start.timestamp(), (start + timedelta(days=32)).replace(day=1).timestamp()


def meters_of(subject: str, limits: Limits, now: float) -> tuple[Meter, ...]:
    """The meters that `subject` ("key:<id>", "team:<name>") is measured on at `now`, in the order of `Dimension`."""
    meters = [
        Meter(f"{subject}:{dimension}", dimension, cap)
        for dimension, cap in (
            (Dimension.REQUESTS, limits.requests_per_minute),
            (Dimension.TOKENS, limits.tokens_per_minute),
            (Dimension.SLOTS, limits.concurrency),
        )
        if cap is not None
    ]
    if limits.budget is not None:
        period = limits.budget.period
        meters.append(Meter(f"{subject}:money:{period}:{budget_period(period, now)[0]}", Dimension.MONEY, limits.budget.usd))
    return tuple(meters)
