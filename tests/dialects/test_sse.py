"""Server-sent events: the same frames from every way of cutting the bytes, line ends and comments notwithstanding."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatehouse.dialects._sse import Frame, FrameTooLarge, SSEParser

END = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm, line by line, on the whole stream."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    frames = []
    event, data = b"", None
    for line in text.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data is not None:
                frames.append((event, b"\n".join(data)))
            event, data = b"", None
        elif name == b"data":
            data = [*(data or []), value]
        elif name == b"event":
            event = value
    return frames


def parse(pieces: list[bytes]) -> list[Frame]:
    parser = SSEParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(marks)]


lines = st.sampled_from(
    [
        b"data: {}",
        b"data:{}",
        b"data: a",
        b"data:",
        b"data",
        b"data:  b",
        b": comment",
        b":",
        b"event: x",
        b"id: 1",
        b"retry: 3",
        b"other: 1",
        b"",
        b"",
        "data: é🙂".encode(),
    ]
)
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda pairs: b"".join(line + end for line, end in pairs)
)


@given(streams, st.lists(st.integers(0, 200), max_size=12), st.booleans())
@settings(max_examples=600, deadline=None)
@example(b"\r\n\r\ndata: a\r\r\n\n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], True)
def test_every_cut_gives_the_same_frames(stream: bytes, places: list[int], bom: bool) -> None:
    """Mixed line ends, comments, fields of any kind and characters cut in two, against the standard read naively."""
    whole = (b"\xef\xbb\xbf" if bom else b"") + stream
    assert [(event, data) for event, data, _ in parse(cut(whole, places))] == reference(whole)


@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_one_byte_at_a_time(end: bytes) -> None:
    """The finest cut there is."""
    stream = b"\xef\xbb\xbf" + b"".join(
        line + end for line in [b": hi", b"event: e", b"data: 1", b"data: 2", b"", b"data: 3", b"", b"data: lost"]
    )
    frames = parse([bytes([byte]) for byte in stream])
    assert frames == [(b"e", b"1\n2", b"event: e\ndata: 1\ndata: 2\n\n"), (b"", b"3", b"data: 3\n\n")]


def test_a_plain_frame_passes_as_its_own_bytes() -> None:
    """Several in one piece too."""
    one, two = b'data: {"a":1}\n\n', b'data: {"b":2}\n\n'
    assert parse([one + two]) == [(b"", b'{"a":1}', one), (b"", b'{"b":2}', two)]


@given(streams)
@settings(deadline=None)
def test_the_frame_written_again_reads_the_same(stream: bytes) -> None:
    """The third member is a stream of exactly that frame."""
    for event, data, raw in parse([stream]):
        assert reference(raw) == [(event, data)]


def test_an_unfinished_frame_is_not_a_frame() -> None:
    """Without its blank line it stays in the rest."""
    parser = SSEParser()
    assert parser.feed(b"data: a\n\ndata: b\n") == [(b"", b"a", b"data: a\n\n")]
    assert parser.rest() == b"data: b\n"


@pytest.mark.parametrize("piece", [b"x" * 40, b"data: y\n", b": z\n", b"data: " + b"w" * 200 + b"\n\n"])
def test_a_frame_is_bounded(piece: bytes) -> None:
    """A frame, or the beginning of one, larger than the limit ends the stream instead of growing."""
    parser = SSEParser(limit=128)
    with pytest.raises(FrameTooLarge):  # noqa: PT012 - somewhere on the way
        for _ in range(100):
            parser.feed(piece)


def test_small_frames_pass_any_limit_together() -> None:
    """The limit is a frame's, not a read's."""
    assert len(SSEParser(limit=20).feed(b"data: 1\n\n" * 1000)) == 1000
