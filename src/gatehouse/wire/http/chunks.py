"""Chunked bodies inwards: sizes that are hexadecimal and nothing else, lines that end as they must, trailers that are dropped.

Pure, and stricter than RFC 9112 asks: each liberty (a bare LF, a sign, blanks around a size) has been somebody's smuggling hole.
"""

import re
from typing import Final

from gatehouse.wire.http.head import malformed

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_LINE: Final = 1024
_TRAILERS: Final = 32
_FEW: Final = 256
_MEAN: Final = 256
"""After the first few, chunks must be this large on average: a body in single bytes costs a thousand times its size."""


class Dechunker:
    """Takes a chunked body in pieces of any size and gives back its content."""

    __slots__ = ("_chunks", "_line", "_remaining", "_total", "_trailers", "complete")

    def __init__(self) -> None:
        self._line = b""
        self._chunks = 0
        self._total = 0
        self._remaining = 0
        """Bytes of the current chunk still to come, its closing CRLF included; 0 when a size line comes next."""
        self._trailers = -1
        """Trailer lines seen; -1 before the last chunk."""
        self.complete = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The pieces of content in `data`, and what stands after the end of the body (empty until it is `complete`).

        Raises:
            Refused: the framing is broken; nothing after it can be trusted.
        """
        if self._line:
            data = self._line + data
            self._line = b""
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and not self.complete:
            if self._remaining:
                at = self._content(data, at, pieces)
                continue
            end = data.find(b"\r\n", at, at + _LINE + 2)
            if end < 0:
                rest = data[at:]
                if len(rest) > _LINE or b"\n" in rest or b"\r" in rest[:-1]:
                    raise malformed("A line of the chunked body is malformed.")
                self._line = rest
                return pieces, b""
            self._take_line(data[at:end])
            at = end + 2
        return pieces, data[at:]

    def _content(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take what `data` has of the current chunk; the position after it."""
        remaining = self._remaining
        available = len(data) - at
        if remaining > 2:
            piece = data[at : at + min(available, remaining - 2)]
            pieces.append(piece)
            self._remaining = remaining - len(piece)
            return at + len(piece)
        if data[at] != (13 if remaining == 2 else 10):
            raise malformed("A chunk is longer than it said.")
        self._remaining = remaining - 1
        return at + 1

    def _take_line(self, line: bytes) -> None:
        """A size line, or one of the lines after the last chunk."""
        if self._trailers < 0:
            match = _SIZE.fullmatch(line)
            if match is None:
                raise malformed("A chunk's size is malformed.")
            size = int(match[1], 16)
            if size:
                self._remaining = size + 2
                self._chunks += 1
                self._total += size
                if self._chunks > _FEW and self._total < self._chunks * _MEAN:
                    raise malformed("The body comes in too many chunks for its size.")
            else:
                self._trailers = 0
        elif not line:
            self.complete = True
        else:
            self._trailers += 1
            if self._trailers > _TRAILERS or _TRAILER.fullmatch(line) is None:
                raise malformed("The trailer of the chunked body is malformed.")
