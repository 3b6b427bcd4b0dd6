"""X-Forwarded-For: whose word counts, and how far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.wire.http.forwarded import TrustedProxies

OURS = TrustedProxies(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("10.1.1.1", "203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # the front is what a stranger wrote
        ("10.1.1.1", "203.0.113.9, 10.2.2.2", "203.0.113.9"),
        ("10.1.1.1", "203.0.113.9, 192.0.2.7,10.2.2.2", "203.0.113.9"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("203.0.113.9", "6.6.6.6", "203.0.113.9"),  # nobody asked him
        ("10.1.1.1", None, "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "unknown", "10.1.1.1"),
        ("10.1.1.1", "203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "203.0.113.9:5555", "203.0.113.9"),
        ("10.1.1.1", "[2001:4860::1]:443", "2001:4860::1"),
        ("2001:db8::5", "2001:4860::1", "2001:4860::1"),
        ("::ffff:10.1.1.1", "203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("local", "203.0.113.9", "local"),
    ],
)
def test_who_is_behind_a_peer(peer: str, header: str | None, client: str) -> None:
    """The last address that is not one of ours, as far as those who wrote it are; anybody else's header is not looked at."""
    assert OURS.client(peer, None if header is None else header.encode()) == client


def test_what_is_no_network() -> None:
    """A start-up error, not a hole."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        TrustedProxies(["10.0.0.0/33"])


@given(st.binary(max_size=200))
def test_any_header_gives_somebody(header: bytes) -> None:
    """Nonsense never fails a request."""
    assert OURS.client("10.1.1.1", header)
