"""W3C trace context: reading the `traceparent` a caller sent, and writing the one a target may get.

Only `traceparent` is ever read or written. `tracestate` and `baggage` carry what others put there, and go nowhere.
"""

import re
from hashlib import blake2b
from typing import Final

import msgspec

_CURRENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER: Final = re.compile(rb"(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[\x21-\x7e]{0,128})?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class TraceParent(msgspec.Struct, frozen=True):
    """A caller's place in a trace: ids in lower-case hexadecimal, and whether the trace is recorded there."""

    trace: str
    span: str
    sampled: bool


def parse_traceparent(value: bytes) -> TraceParent | None:
    """The header's value, or None for one that the standard says to ignore: malformed, all zero, or of the version ff.

    What a later version adds behind the flags is left out, as the standard wants.
    """
    found = _CURRENT.fullmatch(value) or _LATER.fullmatch(value)
    if found is None:
        return None
    trace, span = found[1].decode(), found[2].decode()
    if trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return TraceParent(trace, span, bool(int(found[3], 16) & 1))


def child_traceparent(parent: TraceParent, request_id: str, attempt: int) -> str:
    """What a target is told: the caller's trace, and a span of its own for each attempt of a call. The same call makes the same one."""
    span = blake2b(f"{request_id}/{attempt}".encode(), digest_size=8).hexdigest()
    return f"00-{parent.trace}-{span}-{int(parent.sampled):02x}"
