"""The bytes of a journal: a file header, then frames of `length u32 | crc32 u32 | payload`, big endian.

The checksum is seeded with the length, so that neither a flipped length nor a run of zeros (what a file system may leave
after a power cut) passes as a frame. Finding the next good frame behind bad bytes lets a reader lose only what is bad.
"""

import re
from struct import Struct
from typing import Final, Literal
from zlib import crc32

import msgspec

from gatehouse.core.records import Record

HEADER: Final = b"GHJRNL\x00\x01"
"""Name and version of the format."""
PREFIX: Final = Struct(">II")
MAX_PAYLOAD: Final = 1024 * 1024
"""No record comes near it; a larger length is damage."""
_NOT_ZERO: Final = re.compile(rb"[^\x00]")

State = Literal["more", "end", "partial", "broken"]


class Parsed(msgspec.Struct):
    """Frames read from a piece of a file. `stop` is where the first byte not consumed lies in the piece.

    more: the piece or the limit ended first. end: the piece was consumed to its last byte. partial: the beginning of a frame
    stands at `stop`, as a write leaves it that was cut short. broken: something else does. After both no frame follows.
    """

    records: list[Record]
    stop: int
    state: State
    skipped: list[tuple[int, int]]
    """Bad bytes between good frames, [start, end) in the piece."""


class FrameReader:
    """Reads frames; one instance serves one thread."""

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder(Record).decode

    def parse(self, piece: bytes, *, last: bool, limit: int) -> Parsed:
        """Read up to `limit` records. `last` says that nothing follows the piece for now; only then can it be found broken."""
        records: list[Record] = []
        skipped: list[tuple[int, int]] = []
        position, size = 0, len(piece)
        unpack, decode = PREFIX.unpack_from, self._decode
        while len(records) < limit:
            if position == size:
                return Parsed(records, position, "end" if last else "more", skipped)
            end, length = position, 0
            if size - position >= 8:
                length, checksum = unpack(piece, position)
                end = position + 8 + length
                if end <= size and 0 < length <= MAX_PAYLOAD:
                    payload = piece[position + 8 : end]
                    if crc32(payload, length) == checksum:
                        try:
                            records.append(decode(payload))
                        except msgspec.MsgspecError:
                            skipped.append((position, end))
                        position = end
                        continue
            if not last:
                return Parsed(records, position, "more", skipped)
            following = self._next_frame(piece, position + 1)
            if following < 0:
                partial = size - position < 8 or (end > size and 0 < length <= MAX_PAYLOAD)
                return Parsed(records, position, "partial" if partial else "broken", skipped)
            skipped.append((position, following))
            position = following
        return Parsed(records, position, "more", skipped)

    def _next_frame(self, piece: bytes, start: int) -> int:
        """Where the next whole, readable frame begins, or -1."""
        position, last = start, len(piece) - 9
        while 0 <= (position := piece.find(b"\x00", position)) <= last:
            length, checksum = PREFIX.unpack_from(piece, position)
            if not length:
                found = _NOT_ZERO.search(piece, position)
                if found is None:
                    return -1
                position = max(position + 1, found.start() - 3)
                continue
            end = position + 8 + length
            if length <= MAX_PAYLOAD and end <= len(piece) and crc32(piece[position + 8 : end], length) == checksum:
                try:
                    self._decode(piece[position + 8 : end])
                except msgspec.MsgspecError:
                    pass
                else:
                    return position
            position += 1
        return -1


def frame(payload: bytes) -> bytes:
    """One frame around `payload`."""
    length = len(payload)
    return PREFIX.pack(length, crc32(payload, length)) + payload
