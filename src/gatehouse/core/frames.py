"""Length-prefixed frames for sockets between our own processes: four bytes of length, then the payload. Pure."""

from typing import Final

MAX_FRAME: Final = 64 * 1024 * 1024


def framed(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return len(payload).to_bytes(4, "big") + payload


class FrameCutter:
    """Bytes in, whole payloads out, whatever the pieces they come in."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Every payload that is complete now, in order. Raises ValueError for a frame larger than MAX_FRAME."""
        buffer = self._buffer
        buffer += data
        payloads = []
        start = 0
        while len(buffer) - start >= 4:
            size = int.from_bytes(buffer[start : start + 4], "big")
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            end = start + 4 + size
            if len(buffer) < end:
                break
            payloads.append(bytes(buffer[start + 4 : end]))
            start = end
        if start:
            del buffer[:start]
        return payloads
