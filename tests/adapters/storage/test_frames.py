"""The frames of a journal: whatever happens to the bytes, no record comes out that did not go in."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.adapters.storage._frames import MAX_PAYLOAD, PREFIX, FrameReader, frame
from gatehouse.core.records import Record
from gatehouse.testing.storage_contract import closed_record, opened_record

RECORDS: tuple[Record, ...] = tuple(
    record for number in range(6) for record in (opened_record(f"req_{number}"), closed_record(f"req_{number}", charge=number))
)
FRAMES = tuple(frame(msgspec.msgpack.encode(record)) for record in RECORDS)
WHOLE = b"".join(FRAMES)
STARTS = [sum(map(len, FRAMES[:index])) for index in range(len(FRAMES) + 1)]


def is_subsequence(found: list[Record]) -> bool:
    """Whether `found` are some of RECORDS in their order."""
    rest = iter(RECORDS)
    return all(any(record == other for other in rest) for record in found)


def test_whole_frames_come_back() -> None:
    """All of them, in order, to the last byte."""
    parsed = FrameReader().parse(WHOLE, last=True, limit=100)
    assert (tuple(parsed.records), parsed.stop, parsed.state, parsed.skipped) == (RECORDS, len(WHOLE), "end", [])


def test_a_limit_stops_between_frames() -> None:
    """And reading goes on from there."""
    first = FrameReader().parse(WHOLE, last=True, limit=5)
    assert (tuple(first.records), first.stop, first.state) == (RECORDS[:5], STARTS[5], "more")
    rest = FrameReader().parse(WHOLE[first.stop :], last=True, limit=100)
    assert tuple(rest.records) == RECORDS[5:]


@given(st.integers(0, len(WHOLE)))
def test_a_cut_file_gives_what_was_whole(size: int) -> None:
    """Every record before the cut and none after; what is left over is the beginning of a frame."""
    parsed = FrameReader().parse(WHOLE[:size], last=True, limit=100)
    whole = max(index for index, start in enumerate(STARTS) if start <= size)
    assert tuple(parsed.records) == RECORDS[:whole]
    assert (parsed.stop, parsed.skipped) == (STARTS[whole], [])
    assert parsed.state == ("end" if STARTS[whole] == size else "partial")


@given(st.integers(0, len(WHOLE)))
def test_a_piece_that_ends_in_a_frame_asks_for_more(size: int) -> None:
    """Where more bytes follow nothing is called broken."""
    parsed = FrameReader().parse(WHOLE[:size], last=False, limit=100)
    assert parsed.state == "more"
    assert tuple(parsed.records) + tuple(FrameReader().parse(WHOLE[parsed.stop :], last=True, limit=100).records) == RECORDS


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=6))
@settings(max_examples=300)
def test_flipped_bytes_lose_only_their_own_frames(flips: list[tuple[int, int]]) -> None:
    """Frames without a flipped byte all come back; those with one do not; and every bad byte is accounted for."""
    damaged = bytearray(WHOLE)
    for place, change in flips:
        damaged[place] ^= change
    parsed = FrameReader().parse(bytes(damaged), last=True, limit=100)
    intact = [
        record for record, start, end in zip(RECORDS, STARTS, STARTS[1:], strict=False) if bytes(damaged[start:end]) == WHOLE[start:end]
    ]
    assert parsed.records == intact
    touched = {place for place in range(len(WHOLE)) if damaged[place] != WHOLE[place]}
    left_out = {place for start, end in parsed.skipped for place in range(start, end)} | set(range(parsed.stop, len(WHOLE)))
    assert touched <= left_out


@given(st.binary(max_size=400), st.integers(0, len(FRAMES)), st.binary(max_size=400))
@settings(max_examples=200)
def test_foreign_bytes_never_become_a_record(before: bytes, index: int, between: bytes) -> None:
    """Whatever stands before, between and behind frames: what comes out went in, in order."""
    place = STARTS[index]
    parsed = FrameReader().parse(before + WHOLE[:place] + between + WHOLE[place:], last=True, limit=100)
    assert is_subsequence(parsed.records)
    if not before and not between:
        assert tuple(parsed.records) == RECORDS


def test_zeros_are_no_frames() -> None:
    """A file system may leave them after a power cut; a million are passed over in no time, and what follows is found."""
    parsed = FrameReader().parse(FRAMES[0] + bytes(1_000_000) + FRAMES[1], last=True, limit=100)
    assert tuple(parsed.records) == RECORDS[:2]
    assert parsed.skipped == [(len(FRAMES[0]), len(FRAMES[0]) + 1_000_000)]
    parsed = FrameReader().parse(FRAMES[0] + bytes(1_000_000), last=True, limit=100)
    assert (parsed.state, parsed.stop) == ("broken", len(FRAMES[0]))


def test_a_good_frame_that_is_no_record_is_left_out_and_named() -> None:
    """As one from a version whose records have other fields: the checksum holds, the content says nothing to us."""
    stranger = frame(msgspec.msgpack.encode(["x", 1, 2]))
    parsed = FrameReader().parse(FRAMES[0] + stranger + FRAMES[1], last=True, limit=100)
    assert tuple(parsed.records) == RECORDS[:2]
    assert parsed.skipped == [(len(FRAMES[0]), len(FRAMES[0]) + len(stranger))]


def test_a_length_beyond_any_record_is_damage() -> None:
    """It is not waited for, however much follows."""
    parsed = FrameReader().parse(PREFIX.pack(MAX_PAYLOAD + 1, 0) + bytes(100), last=True, limit=100)
    assert parsed.state == "broken"
    parsed = FrameReader().parse(PREFIX.pack(MAX_PAYLOAD, 0) + bytes(100), last=True, limit=100)
    assert parsed.state == "partial"
