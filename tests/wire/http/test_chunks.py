"""A chunked body is the same body however it is cut, and a malformed one is never a body."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.wire.http.chunks import Dechunker
from gatehouse.wire.http.head import Refused


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def unchunk(pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    reader = Dechunker()
    content, rest = b"", b""
    for piece in pieces:
        if reader.complete:
            rest += piece
            continue
        came, rest = reader.feed(piece)
        content += b"".join(came)
    return content, rest, reader.complete


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";a=b", b';q="x;y"', b";"]),
    trailer=st.sampled_from([b"", b"X-Sum: 12\r\n", b"A: b\r\nC: \r\n"]),
    after=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"]),
    at=st.lists(st.integers(0, 500), max_size=12),
)
def test_any_cut_gives_the_same_body(chunks: list[bytes], extension: bytes, trailer: bytes, after: bytes, at: list[int]) -> None:
    """Content and what follows it do not depend on where the network cut the bytes."""
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    assert unchunk(cut(body + after, at)) == (b"".join(chunks), after, True)


BROKEN = {
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare LF after the content": b"3\r\nabc\n0\r\n\r\n",
    "content longer than said": b"3\r\nabcd\r\n0\r\n\r\n",
    "content shorter than said": b"5\r\nabc\r\n0\r\n\r\n",
    "a sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a blank before": b" 3\r\nabc\r\n0\r\n\r\n",
    "a blank after": b"3 \r\nabc\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "nine digits": b"000000003\r\nabc\r\n0\r\n\r\n",
    "not a number": b"xyz\r\nabc\r\n0\r\n\r\n",
    "a control byte in an extension": b"3;a\x01\r\nabc\r\n0\r\n\r\n",
    "a bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "an endless extension": b"3;" + b"a" * 2000,
    "a trailer without a colon": b"0\r\nabc\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "too many trailers": b"0\r\n" + b"A: b\r\n" * 33 + b"\r\n",
    "a body in crumbs": b"1\r\na\r\n" * 300,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("step", [1, 1_000_000])
def test_broken_framing_is_refused(name: str, step: int) -> None:
    """In one piece and byte by byte: what is not exactly a chunk is a 400."""
    data = BROKEN[name]
    with pytest.raises(Refused) as caught:
        unchunk([data[start : start + step] for start in range(0, len(data), step)])
    assert caught.value.status == 400


def test_a_long_line_is_refused_before_it_ends() -> None:
    """Nobody makes us keep a line that never ends."""
    reader = Dechunker()
    for _ in range(20):
        reader.feed(b"0" * 50)
    with pytest.raises(Refused):
        reader.feed(b"0" * 50)


@given(data=st.binary(max_size=200), at=st.lists(st.integers(0, 200), max_size=6))
def test_noise_is_refused_or_waited_out(data: bytes, at: list[int]) -> None:
    """Any bytes, any cut: Refused or nothing, and the verdict of the whole is the verdict of its pieces."""

    def verdict(pieces: list[bytes]) -> tuple[bytes, bytes, bool] | None:
        try:
            return unchunk(pieces)
        except Refused:
            return None

    whole, pieces = verdict([data]), verdict(cut(data, at))
    assert whole == pieces or (whole is not None and not whole[2])
