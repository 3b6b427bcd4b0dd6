"""W3C trace context: what is read of a `traceparent`, and what a target may be told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.traces import TraceParent, child_traceparent, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def test_the_standards_example() -> None:
    """Trace, span and whether it is sampled; of the flags only that one means anything."""
    assert parse_traceparent(GOOD) == TraceParent(TRACE, SPAN, sampled=True)
    assert parse_traceparent(GOOD[:-2] + b"fe") == TraceParent(TRACE, SPAN, sampled=False)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD.upper(),
        GOOD + b"-00",
        GOOD + b" ",
        GOOD[:-1],
        b"0" + GOOD,
        b"ff" + GOOD[2:],
        b"00-" + b"0" * 32 + GOOD[35:],
        GOOD[:36] + b"0" * 16 + b"-01",
        GOOD + b", " + GOOD,
        GOOD.replace(b"4", b"g"),
        b"01" + GOOD[2:] + b"x",
        b"\xff" * 55,
    ],
)
def test_what_the_standard_says_to_ignore(value: bytes) -> None:
    """Malformed, in capitals, all zero, of the version ff, or two of them: there is no trace then."""
    assert parse_traceparent(value) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """Its own additions are left out."""
    assert parse_traceparent(b"01" + GOOD[2:] + b"-what-comes") == TraceParent(TRACE, SPAN, sampled=True)


@given(st.binary(max_size=80))
def test_nothing_raises(value: bytes) -> None:
    """Whatever a caller sends."""
    parse_traceparent(value)


def test_a_child_is_a_valid_parent_of_the_same_trace() -> None:
    """A span of its own for each attempt, the same each time it is made."""
    parent = TraceParent(TRACE, SPAN, sampled=True)
    first, second = child_traceparent(parent, "req_1", 1), child_traceparent(parent, "req_1", 2)
    read = parse_traceparent(first.encode())
    assert read is not None
    assert (read.trace, read.sampled) == (TRACE, True)
    assert len({read.span, SPAN, second}) == 3
    assert child_traceparent(parent, "req_1", 1) == first
