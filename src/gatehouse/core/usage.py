"""What a call consumed, in disjoint buckets, and what that costs under a frozen price.

Providers report overlapping counts (cached tokens inside input tokens, reasoning inside output). Here each token is in
exactly one bucket, so the buckets sum to the provider's total and nothing is charged twice.
"""

from typing import Final

import msgspec

from gatehouse.core.money import Money

PER_MILLION: Final = 1_000_000


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Token counts in disjoint buckets; `input` excludes cached, cache-written and audio tokens, `output` excludes reasoning and audio."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0

    @property
    def input_total(self) -> int:
        """All tokens that went in."""
        return self.input + self.cached_input + self.cache_write + self.audio_input

    @property
    def output_total(self) -> int:
        """All tokens that came out."""
        return self.output + self.reasoning + self.audio_output

    @property
    def total(self) -> int:
        """The provider's total."""
        # Summed here rather than of the two above: each of them would be a call, and every call asks for this.
        into = self.input + self.cached_input + self.cache_write + self.audio_input
        return into + self.output + self.reasoning + self.audio_output

    @property
    def honest_total(self) -> int:
        """The same, or -1 when a bucket is below zero."""
        into, cached, written, output = self.input, self.cached_input, self.cache_write, self.output
        thought, heard, spoken = self.reasoning, self.audio_input, self.audio_output
        # One of several integers is negative exactly when all of them or-ed together are.
        if into | cached | written | output | thought | heard | spoken < 0:
            return -1
        return into + cached + written + output + thought + heard + spoken

    @property
    def has_negative(self) -> bool:
        """Whether a bucket is below zero, which no honest count is."""
        return self.honest_total < 0


def added(one: Usage, other: Usage, sign: int = 1) -> Usage:
    """Bucket by bucket; `sign` -1 takes `other` away."""
    return Usage(*[a + sign * b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)])


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """Units of 10^-10 USD per million tokens, one figure a bucket; frozen under `snapshot`, the id written to each ledger row."""

    snapshot: str
    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int
    audio_input: int
    audio_output: int

    def charge(self, usage: Usage) -> Money:
        """The exact cost of `usage`, rounded up once to a whole unit of 10^-10 USD."""
        millionths = (
            usage.input * self.input
            + usage.cached_input * self.cached_input
            + usage.cache_write * self.cache_write
            + usage.output * self.output
            + usage.reasoning * self.reasoning
            + usage.audio_input * self.audio_input
            + usage.audio_output * self.audio_output
        )
        return Money(-(-millionths // PER_MILLION))

    def ceiling(self, input_tokens: int, output_tokens: int) -> Money:
        """The most that so many tokens can cost, whatever bucket they fall in: what a hold must cover."""
        dearest_in, dearest_out = self.dearest
        return Money(-(-(input_tokens * dearest_in + output_tokens * dearest_out) // PER_MILLION))

    @property
    def dearest(self) -> tuple[int, int]:
        """The highest price of a million tokens in, whatever bucket they fall in, and of a million out."""
        into = max(self.input, self.cached_input, self.cache_write, self.audio_input)
        return into, max(self.output, self.reasoning, self.audio_output)
