"""`application/vnd.amazon.eventstream`, taken apart as it arrives: AWS's binary framing of a stream of messages.

    total length (4) | length of the headers (4) | CRC-32 of these eight bytes | headers | payload | CRC-32 of all before

A header is a name (one byte of length), a type and a value; of the types only text matters to us, the others are skipped by
their size. Any split of the bytes gives the same messages. Lengths are checked before anything is kept for them, so a
corrupt or hostile length costs no memory, and no number in a message makes the parser go back or wait for what is no
message.
"""

import struct
import zlib
from typing import Final

Message = tuple[dict[str, str], bytes]
"""(headers of type text, payload)."""

MAX_MESSAGE: Final = 4_194_304
"""Bytes that one message may have, and all that is ever held back."""
_MAX_HEADERS: Final = 131_072
_PRELUDE: Final = struct.Struct(">III")
_OVERHEAD: Final = 16
_TEXT: Final = 7
_BYTES: Final = 6
_FIXED: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Size of the values of all other types: true, false, integers of 1 to 8 bytes, a timestamp, a UUID."""
_REMEMBERED: Final = 16


class BrokenMessage(ValueError):
    """The bytes are no message; the stream cannot be read on. Says what was wrong and quotes nothing."""


class MessageParser:
    """Feed it bytes as they come; it returns the messages that became whole."""

    __slots__ = ("_buffer", "_known", "_limit", "broken")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self.broken: BrokenMessage | None = None
        """What was wrong with the message after those that were returned; nothing more can be read."""
        self._known: dict[bytes, dict[str, str]] = {}
        """Headers by their bytes: a stream repeats a handful of them all the time."""

    @property
    def held(self) -> int:
        """Bytes of a message that has not come to its end yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, in order. Those before a broken one are returned, with `broken` set.

        Raises:
            BrokenMessage: a length that cannot be, a checksum that does not fit, headers that are none.
        """
        if self.broken is not None:
            raise self.broken
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        at = 0
        try:
            while len(buffer) - at >= _PRELUDE.size:
                total, headers_end = self._prelude(buffer, at)
                if len(buffer) - at < total:
                    break
                messages.append(self._message(bytes(buffer[at : at + total]), headers_end))
                at += total
        except BrokenMessage as fault:
            self.broken = fault
            buffer.clear()
            if not messages:
                raise
            return messages
        del buffer[:at]
        return messages

    def _prelude(self, buffer: bytearray, at: int) -> tuple[int, int]:
        """The length of the message and where its headers end, once its first twelve bytes are there."""
        total, headers, checksum = _PRELUDE.unpack_from(buffer, at)
        if zlib.crc32(buffer[at : at + 8]) != checksum:
            raise BrokenMessage("the checksum of a message's lengths does not fit")
        if not _OVERHEAD <= total <= self._limit:
            raise BrokenMessage(f"a message of {total} bytes")
        if headers > min(total - _OVERHEAD, _MAX_HEADERS):
            raise BrokenMessage(f"headers of {headers} bytes in a message of {total}")
        return total, _PRELUDE.size + headers

    def _message(self, message: bytes, headers_end: int) -> Message:
        end = len(message) - 4
        if zlib.crc32(memoryview(message)[:end]) != int.from_bytes(message[end:], "big"):
            raise BrokenMessage("the checksum of a message does not fit")
        block = message[_PRELUDE.size : headers_end]
        headers = self._known.get(block)
        if headers is None:
            headers = _headers(block)
            if len(self._known) < _REMEMBERED and len(block) < 256:
                self._known[block] = headers
        return headers, message[headers_end:end]


def _headers(block: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    names: set[bytes] = set()
    at = 0
    try:
        while at < len(block):
            start = at + 1
            at = start + block[at]
            name = block[start:at]
            kind = block[at]
            at += 1
            if kind in (_TEXT, _BYTES):
                start = at + 2
                at = start + int.from_bytes(block[at:start], "big")
                if kind == _TEXT:
                    found[name.decode()] = block[start:at].decode()
            else:
                at += _FIXED[kind]
            if not name or name in names:
                raise BrokenMessage("a header without a name, or twice the same")
            names.add(name)
    except (IndexError, KeyError, UnicodeDecodeError):
        raise BrokenMessage("a header that cannot be read") from None
    if at != len(block):
        raise BrokenMessage("a header longer than all headers")
    return found


def write_message(headers: dict[str, str], payload: bytes) -> bytes:
    """A message with headers of type text: what a service sends, and what tests of a reader need."""
    block = b"".join(
        b"%c%b%c%b%b" % (len(name), name.encode(), _TEXT, len(value.encode()).to_bytes(2, "big"), value.encode())
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", _OVERHEAD + len(block) + len(payload), len(block))
    message = lengths + zlib.crc32(lengths).to_bytes(4, "big") + block + payload
    return message + zlib.crc32(message).to_bytes(4, "big")
