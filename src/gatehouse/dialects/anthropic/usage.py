"""Token counts, both ways. Anthropic's buckets are disjoint like core's, except that thinking is counted inside the output.

A stream tells its counts at its beginning and again, cumulative, at its end; what the end leaves out stands as it was.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.usage import Usage

_MOST: Final = 10**9
"""More tokens than this in one call is not a count."""

_Count = Annotated[int, Meta(ge=0, le=_MOST)]


class _OutputDetails(Struct, gc=False):
    thinking_tokens: _Count | None = None


class Counts(Struct, frozen=True, gc=False):
    """A usage object as it was written."""

    input_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    output_tokens_details: _OutputDetails | None = None

    def after(self, earlier: "Counts") -> "Counts":
        """These counts, completed by those of the same message that were told `earlier`."""
        return Counts(
            earlier.input_tokens if self.input_tokens is None else self.input_tokens,
            earlier.cache_read_input_tokens if self.cache_read_input_tokens is None else self.cache_read_input_tokens,
            earlier.cache_creation_input_tokens if self.cache_creation_input_tokens is None else self.cache_creation_input_tokens,
            earlier.output_tokens if self.output_tokens is None else self.output_tokens,
            earlier.output_tokens_details if self.output_tokens_details is None else self.output_tokens_details,
        )

    def core(self) -> Usage | None:
        """The buckets; None when nothing was counted, or more thinking than output."""
        output = self.output_tokens or 0
        details = self.output_tokens_details
        thinking = 0 if details is None else details.thinking_tokens or 0
        if thinking > output:
            return None
        usage = Usage(
            input=self.input_tokens or 0,
            cached_input=self.cache_read_input_tokens or 0,
            cache_write=self.cache_creation_input_tokens or 0,
            output=output - thinking,
            reasoning=thinking,
        )
        return usage if usage.total else None


NOTHING_COUNTED: Final = Counts()


def read_counts(raw: bytes | msgspec.Raw) -> Counts | None:
    """The counts of a usage object; None when they are absurd (negative, above 10^9, no numbers)."""
    try:
        return msgspec.json.decode(raw, type=Counts)
    except (ValueError, RecursionError):
        return None


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """The buckets of a usage object; None when it is absurd, so that whoever accounts counts for itself."""
    counts = read_counts(raw)
    return None if counts is None else counts.core()


def write_usage(usage: Usage | None) -> dict[str, Any]:
    """The usage object for `usage`; zeros where nobody counted, because every client expects the numbers."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    body: dict[str, Any] = {
        "input_tokens": usage.input + usage.audio_input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output_total,
    }
    if usage.reasoning:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return body
