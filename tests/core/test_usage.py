"""Usage in disjoint buckets, and charges that are exact."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.usage import Price, Usage

COUNTS = st.integers(min_value=0, max_value=10**7)
FIGURES = st.integers(min_value=0, max_value=10**13)
PRICES = st.builds(Price, st.just("p"), *[FIGURES] * 7)
USAGES = st.builds(Usage, *[COUNTS] * 7)


def test_totals_sum_the_buckets() -> None:
    """Input and output totals are the sums of disjoint buckets."""
    usage = Usage(input=1, cached_input=2, cache_write=4, output=8, reasoning=16, audio_input=32, audio_output=64)
    assert (usage.input_total, usage.output_total, usage.total) == (39, 88, 127)


@given(PRICES, USAGES)
def test_a_charge_is_the_exact_cost_rounded_up_once(price: Price, usage: Usage) -> None:
    """Never less than the exact cost, and less than one unit more."""
    buckets = ("input", "cached_input", "cache_write", "output", "reasoning", "audio_input", "audio_output")
    exact = sum((Fraction(getattr(usage, b) * getattr(price, b), 10**6) for b in buckets), Fraction())
    assert 0 <= price.charge(usage) - exact < 1


@given(PRICES, USAGES)
def test_the_ceiling_covers_every_charge(price: Price, usage: Usage) -> None:
    """A hold over the totals is never below the charge, whatever bucket the tokens fall in."""
    assert price.ceiling(usage.input_total, usage.output_total) >= price.charge(usage)


@given(st.builds(Usage, *[st.integers(-2, 9)] * 7))
def test_an_honest_total(usage: Usage) -> None:
    """It is the total, unless a bucket is below zero."""
    buckets = [getattr(usage, name) for name in Usage.__struct_fields__]
    assert usage.honest_total == (-1 if min(buckets) < 0 else sum(buckets))
    assert usage.has_negative == (min(buckets) < 0)
