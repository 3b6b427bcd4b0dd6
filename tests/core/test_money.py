"""Money: exact, and refused when it cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.money import format_usd, parse_usd


@pytest.mark.parametrize(
    ("text", "units"),
    [("0", 0), ("1.00", 10**10), ("0.0000000001", 1), ("2.5e-7", 2500), ("1e3", 10**13), ("12.34", 123_400_000_000)],
)
def test_parse_is_exact(text: str, units: int) -> None:
    """Decimal strings, exponents included, become whole units."""
    assert parse_usd(text) == units


@pytest.mark.parametrize("text", ["", "x", "-1", "NaN", "Infinity", "0.00000000001", "1e30", "1e18", "1,5", "1_0x"])
def test_what_is_not_money_is_refused(text: str) -> None:
    """Not a number, negative, too fine or too large: a ValueError that echoes little."""
    with pytest.raises(ValueError, match="USD"):
        parse_usd(text)


@given(st.integers(min_value=0, max_value=9 * 10**18))
def test_round_trip(units: int) -> None:
    """What is written is read back to the last digit."""
    assert parse_usd(format_usd(units)) == units


def test_format_is_plain() -> None:
    """No exponent, no trailing zeros, a sign for differences."""
    assert [format_usd(n) for n in (0, 1, 10**10, -5 * 10**9, 123_400_000_000)] == ["0", "0.0000000001", "1", "-0.5", "12.34"]
