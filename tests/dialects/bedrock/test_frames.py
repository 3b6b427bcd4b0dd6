"""AWS's binary framing against its published vectors, every cut, and whatever else may come."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.dialects.bedrock.frames import BrokenMessage, Message, MessageParser, write_message

# Vectors of AWS's own SDKs (boto/botocore, tests/unit/test_eventstream.py, Apache-2.0): bytes, headers of type text, payload.
VECTORS: list[tuple[bytes, dict[str, str], bytes]] = [
    (b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2H\xeb}\x98\xc8\xff", {}, b""),
    (b"\x00\x00\x00\x17\x00\x00\x00\x07)\x86\x01X\x04byte\x02\xff\xc2\xf8i\xdc", {}, b""),
    (b"\x00\x00\x00\x19\x00\x00\x00\tq\x0e\x92>\x05short\x03\xff\xff\xb2|\xb6\xcc", {}, b""),
    (b"\x00\x00\x00\x1d\x00\x00\x00\r\x83\xe3\xf0\xe7\x07integer\x04\xff\xff\xff\xff\x8b\x8e\x12\xeb", {}, b""),
    (b"\x00\x00\x00\x1e\x00\x00\x00\x0e]J\xdb\x8d\x04long\x05\xff\xff\xff\xff\xff\xff\xff\xffK\xc22\xda", {}, b""),
    (b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96", {}, b"{'foo':'bar'}"),
    (
        b"\x00\x00\x00=\x00\x00\x00 \x07\xfd\x83\x96\x0ccontent-type\x07\x00\x10application/json{'foo':'bar'}\x8d\x9c\x08\xb1",
        {"content-type": "application/json"},
        b"{'foo':'bar'}",
    ),
    (
        b"\x00\x00\x00\x62\x00\x00\x00\x52\x03\xb5\xcb\x9c\x010\x00\x011\x01\x012\x02\x02\x013\x03\x00\x03\x014\x04\x00\x00\x00\x04"
        b"\x015\x05\x00\x00\x00\x00\x00\x00\x00\x05\x016\x06\x00\x05bytes\x017\x07\x00\x04utf8\x018\x08\x00\x00\x00\x00\x00\x00\x00\x08"
        b"\x019\x090123456789abcdef\x63\x35\x36\x71",
        {"7": "utf8"},
        b"",
    ),
    (
        b"\x00\x00\x00\x52\x00\x00\x00\x42\xbf\x23\x63\x7e\x0d:message-type\x07\x00\x05error\x0b:error-code\x07\x00\x04code"
        b"\x0e:error-message\x07\x00\x07message\x6b\x6c\xea\x3d",
        {":message-type": "error", ":error-code": "code", ":error-message": "message"},
        b"",
    ),
]
CORRUPT = {
    "length": b"\x01\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96",
    "payload": b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'\x8d\xc3e96",
    "headers": b"\x00\x00\x00=\x00\x00\x00 \x07\xfd\x83\x96\x0ccontent+type\x07\x00\x10application/json{'foo':'bar'}\x8d\x9c\x08\xb1",
    "header length": b"\x00\x00\x00=\xff\x00\x01\x02\x07\xfd\x83\x96\x0ccontent-type\x07\x00\x10application/json{'foo':'bar'}"
    b"\x8d\x9c\x08\xb1",
    "duplicate": b"\x00\x00\x00\x24\x00\x00\x00\x14\x4b\xb9\x82\xd0\x04test\x04asdf\x04test\x04asdf\xf3\xf4\x75\x63",
}
names = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=20)
messages = st.lists(st.tuples(st.dictionaries(names, st.text(max_size=30), max_size=4), st.binary(max_size=200)), max_size=5)


def signed(total: int, headers: int, rest: bytes = b"") -> bytes:
    """A prelude with a proper checksum, whatever it says, and proper bytes behind it."""
    lengths = struct.pack(">II", total, headers)
    message = lengths + zlib.crc32(lengths).to_bytes(4, "big") + rest
    return message + zlib.crc32(message).to_bytes(4, "big")


@pytest.mark.parametrize(("encoded", "headers", "payload"), VECTORS)
def test_published_vectors(encoded: bytes, headers: dict[str, str], payload: bytes) -> None:
    """AWS's own examples of every header type; only text is kept."""
    assert MessageParser().feed(encoded) == [(headers, payload)]


@pytest.mark.parametrize("name", CORRUPT)
def test_published_corruptions_are_refused(name: str) -> None:
    """What AWS's own readers refuse; nothing of it is quoted, and the parser stays shut."""
    parser = MessageParser()
    with pytest.raises(BrokenMessage) as caught:
        parser.feed(CORRUPT[name])
    assert "foo" not in str(caught.value)
    with pytest.raises(BrokenMessage):
        parser.feed(VECTORS[0][0])
    assert parser.held == 0


@given(messages, st.lists(st.integers(0, 2_000), max_size=12))
@settings(deadline=None)
def test_every_cut_gives_the_same_messages(written: list[Message], places: list[int]) -> None:
    """What was written is read, however it is cut."""
    stream = b"".join(write_message(headers, payload) for headers, payload in written)
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    parser = MessageParser()
    assert [message for start, stop in itertools.pairwise(marks) for message in parser.feed(stream[start:stop])] == written
    assert parser.held == 0


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(deadline=None, max_examples=300)
def test_noise_never_crashes_loops_or_fills_memory(noise: bytes, step: int) -> None:
    """Random bytes: messages or one refusal, and never more held than a message may have."""
    parser = MessageParser(limit=64)
    for at in range(0, len(noise), step):
        try:
            parser.feed(noise[at : at + step])
        except BrokenMessage:
            break
        assert parser.held < 64 + step


@given(st.binary(max_size=120), st.integers(0, 2**32 - 1) | st.integers(0, 300), st.integers(0, 2**32 - 1) | st.integers(0, 300))
@settings(deadline=None, max_examples=300)
def test_proper_checksums_around_anything(rest: bytes, total: int, headers: int) -> None:
    """Whoever can compute checksums cannot crash it either: lengths and headers are checked for themselves."""
    parser = MessageParser(limit=256)
    for stream in (signed(total, headers, rest), signed(len(rest) + 16, headers % (len(rest) + 1), rest)):
        try:
            for found, payload in parser.feed(stream):
                assert len(payload) + sum(map(len, found)) <= len(stream)
        except BrokenMessage:
            parser = MessageParser(limit=256)


@pytest.mark.parametrize(
    "message", [signed(15, 0), signed(2**31, 0), signed(257, 0), signed(32, 17, b"x" * 16), signed(0, 0), signed(2**32 - 1, 2**32 - 1)]
)
def test_a_length_that_cannot_be_is_refused_at_once(message: bytes) -> None:
    """Twelve bytes are enough to know: nothing is waited for and nothing kept."""
    parser = MessageParser(limit=256)
    with pytest.raises(BrokenMessage):
        parser.feed(message[:12])


def test_messages_before_a_broken_one_are_given_out() -> None:
    """The break is told by `broken`, and by the next feed."""
    parser = MessageParser()
    assert parser.feed(VECTORS[5][0] + CORRUPT["payload"]) == [({}, b"{'foo':'bar'}")]
    assert parser.broken is not None
    with pytest.raises(BrokenMessage):
        parser.feed(b"")
