"""A head that is known again means what reading it would have said, or it is not known."""

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.wire.http.head import HeadReader, KnownHead, Refused
from gatehouse.wire.http.limits import HttpLimits

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer one\r\n"
    b"Content-Length: 120\r\nx-tag: content-length: 7\r\n\r\n"
)
INSERTS = (b"0", b"9", b"-", b" ", b"\r\n", b"\n", b"\0", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"x", b"120")


def known(raw: bytes = HEAD) -> KnownHead:
    """The head, read and kept."""
    kept = KnownHead.of(raw, HeadReader(HttpLimits()).read(raw))
    assert kept is not None
    return kept


def test_the_same_bytes_are_the_same_request() -> None:
    """Nothing is read twice."""
    head = HeadReader(HttpLimits()).read(HEAD)
    kept = KnownHead.of(HEAD, head)
    assert kept is not None
    assert kept.again(HEAD) is head


def test_another_length_is_another_length_and_nothing_else() -> None:
    """What the digits say, and everything else as it was; the known head stays as it is."""
    kept = known()
    raw = HEAD.replace(b"Content-Length: 120", b"Content-Length: 7")
    assert kept.again(raw) == HeadReader(HttpLimits()).read(raw)
    same = kept.again(HEAD)
    assert same is not None
    assert (same.length, same.headers[b"content-length"]) == (120, b"120")


def test_a_head_without_a_length_or_a_long_one_is_not_kept() -> None:
    """A chunked body's head, one without a body, and one of many kilobytes are read each time."""
    reader = HeadReader(HttpLimits())
    for raw in (
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n",
        HEAD[:-2] + b"x-long: " + b"x" * 3_000 + b"\r\n\r\n",
    ):
        assert KnownHead.of(raw, reader.read(raw)) is None


def test_what_is_kept_is_not_shown() -> None:
    """It holds a credential."""
    assert "one" not in repr(known())


@given(
    at=st.integers(0, len(HEAD)),
    cut=st.integers(0, 24),
    put=st.lists(st.sampled_from(INSERTS) | st.binary(min_size=1, max_size=3), max_size=4).map(b"".join),
)
def test_whatever_is_changed_means_what_reading_says(at: int, cut: int, put: bytes) -> None:
    """Cut something out, put something in, anywhere: a head that is known again is one that the reader reads alike."""
    raw = HEAD[:at] + put + HEAD[at + cut :]
    again = known().again(raw)
    if again is None:
        return
    try:
        assert again == HeadReader(HttpLimits()).read(raw)
    except Refused as refused:
        raise AssertionError(f"known, but refused with {refused.status}") from None


@given(digits=st.text("0123456789", max_size=24))
def test_any_number_in_place_of_the_length_means_what_reading_says(digits: str) -> None:
    """Lengths of every length, zeros in front and none at all."""
    raw = HEAD.replace(b"Content-Length: 120", b"Content-Length: " + digits.encode())
    again = known().again(raw)
    try:
        read = HeadReader(HttpLimits()).read(raw)
    except Refused:
        assert again is None
    else:
        assert again is None or again == read
