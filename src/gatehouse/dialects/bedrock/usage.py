"""Token counts of Converse, in core's disjoint buckets."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.usage import Usage

_MOST: Final = 10**9
"""More tokens than this in one call is not a count."""

_Count = Annotated[int, Meta(ge=0, le=_MOST)]


class _Usage(Struct, gc=False):
    inputTokens: _Count  # noqa: N815 - the API's names
    outputTokens: _Count = 0  # noqa: N815
    totalTokens: _Count | None = None  # noqa: N815
    cacheReadInputTokens: _Count | None = None  # noqa: N815
    cacheWriteInputTokens: _Count | None = None  # noqa: N815


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """The buckets of a usage object; None when it is absurd, so that whoever accounts counts for itself.

    AWS documents `inputTokens` as what was neither read from the cache nor written to it. Where the total says otherwise, that
    is to say where it is input and output alone and the cached tokens fit into the input, they are taken out of it. A total above all parts
    holds tokens that nobody was shown: they are booked as reasoning. A total below them is absurd, as is nothing at all.
    """
    try:
        usage = msgspec.json.decode(raw, type=_Usage)
    except (ValueError, RecursionError):
        return None
    read, wrote = usage.cacheReadInputTokens or 0, usage.cacheWriteInputTokens or 0
    plain, output = usage.inputTokens, usage.outputTokens
    whole = plain + read + wrote + output
    total = usage.totalTokens or whole
    if read + wrote and total == plain + output:
        if read + wrote <= plain:
            plain -= read + wrote
        total = plain + read + wrote + output
        whole = total
    if not total or total < whole:
        return None
    return Usage(input=plain, cached_input=read, cache_write=wrote, output=output, reasoning=total - whole)
