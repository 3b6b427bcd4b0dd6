"""Server-sent events, taken apart as they arrive (WHATWG HTML, section 9.2), for every dialect that streams.

Any split of the bytes gives the same frames. Lines end in LF, CRLF or CR; comments, `id` and `retry` are dropped. What a
model nearly always sends, `data: {...}` and a blank line in one piece, takes a short way that copies nothing.
"""

from typing import Final

Frame = tuple[bytes, bytes, bytes]
"""(event name or empty, data, the frame written again in plain form: LF, no comments)."""

MAX_FRAME: Final = 4_194_304
"""Bytes that one frame may have, and all that is ever held back."""
_BOM: Final = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """A frame passed the limit; the stream cannot be read on."""


class SSEParser:
    """Feed it bytes as they come; it returns the frames that became whole."""

    __slots__ = ("_after_cr", "_begun", "_buffer", "_limit", "_searched")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0
        """No blank line ends before this offset of the buffer."""
        self._after_cr = False
        self._begun = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order.

        Raises:
            FrameTooLarge: a frame, or the beginning of one, is larger than the limit.
        """
        if not self._begun or self._after_cr or b"\r" in data:
            data = self._plain_lines(data)
        if self._buffer:
            whole = self._join(data)
        elif data.endswith(b"\n\n"):
            whole = data[:-2]
        else:
            whole = self._split(data)
        if not whole:
            return []
        if b"\n" not in whole and whole.startswith(b"data: ") and len(whole) <= self._limit:
            return [(b"", whole[6:], whole + b"\n\n")]
        frames = []
        for block in whole.split(b"\n\n"):
            if len(block) > self._limit:
                raise FrameTooLarge(f"a frame of {len(block)} bytes")
            if b"\n" not in block and block.startswith(b"data: "):
                frames.append((b"", block[6:], block + b"\n\n"))
            else:
                frame = read_frame(block)
                if frame is not None:
                    frames.append(frame)
        return frames

    def rest(self) -> bytes:
        """What has come of a frame that is not whole yet."""
        return bytes(self._buffer)

    def _plain_lines(self, data: bytes) -> bytes:
        """`data` with LF as its only line end and without a byte-order mark at the very beginning of the stream."""
        if not self._begun and data:
            if self._buffer or data[0] == _BOM[0]:
                data = bytes(self._buffer) + data
                self._buffer.clear()
                if len(data) < len(_BOM) and _BOM.startswith(data):
                    self._buffer += data
                    return b""
                data = data.removeprefix(_BOM)
            self._begun = True
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _split(self, data: bytes) -> bytes:
        """The complete frames of `data`; the rest goes to the (empty) buffer."""
        end = data.rfind(b"\n\n")
        self._keep(data if end < 0 else data[end + 2 :])
        return data[:end] if end >= 0 else b""

    def _join(self, data: bytes) -> bytes:
        """The complete frames of buffer and `data`; the rest stays in the buffer."""
        buffer = self._buffer
        buffer += data
        end = buffer.rfind(b"\n\n", self._searched)
        if end < 0:
            self._keep(None)
            return b""
        whole = bytes(buffer[:end])
        rest = bytes(buffer[end + 2 :])
        buffer.clear()
        self._keep(rest)
        return whole

    def _keep(self, rest: bytes | None) -> None:
        if rest is not None:
            self._buffer += rest
        self._searched = max(0, len(self._buffer) - 1)
        if len(self._buffer) > self._limit:
            raise FrameTooLarge(f"a frame of more than {self._limit} bytes")


def read_frame(block: bytes) -> Frame | None:
    """One frame from its lines (LF, no blank line inside); None when it carries no data."""
    event = b""
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            lines.append(value)
        elif name == b"event":
            event = value
    if not lines:
        return None
    head = b"event: %s\n" % event if event else b""
    return event, b"\n".join(lines), b"%sdata: %s\n\n" % (head, b"\ndata: ".join(lines))
