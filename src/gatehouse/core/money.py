"""Money as an integer number of 10^-10 USD, so that a sum over millions of calls is exact to the last digit.

Core, journal and SQL carry the integer; the wire carries a decimal string. Binary floating point never touches money.
"""

from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, NewType

Money = NewType("Money", int)
"""Units of 10^-10 USD. May be negative only as a difference; a charge never is."""

UNITS_PER_USD: Final = 10**10
ZERO: Final = Money(0)
_LARGEST: Final = 9 * 10**18
"""What a signed 64-bit column can hold, with room to add."""


def parse_usd(text: str) -> Money:
    """Read a decimal string of dollars ("1.00", "0.0000025") exactly.

    Raises:
        ValueError: not a finite decimal, negative, finer than 10^-10 USD or larger than 64 bits can hold.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"not an amount in USD: {text[:40]!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"an amount in USD must be finite and not negative: {text[:40]!r}")
    if amount.adjusted() > 12:
        raise ValueError(f"an amount in USD this large cannot be booked: {text[:40]!r}")
    units = amount.scaleb(10)
    if units != units.to_integral_value():
        raise ValueError(f"finer than 10^-10 USD: {text[:40]!r}")
    if units > _LARGEST:
        raise ValueError(f"an amount in USD this large cannot be booked: {text[:40]!r}")
    return Money(int(units))


@lru_cache(1024)
def format_usd(money: int) -> str:
    """Write units as a plain decimal string without exponent or trailing zeros ("0.0000025", "12", "-0.5")."""
    sign = "-" if money < 0 else ""
    whole, part = divmod(abs(money), UNITS_PER_USD)
    if not part:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{part:010d}".rstrip("0")
