"""Answers as bytes: status lines and the fields every answer carries, joined so that a whole answer is one write."""

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

STATUS_LINES: Final = {
    **{status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus},
    # Anthropic's word for overload; no standard has it.
    529: b"HTTP/1.1 529 Overloaded\r\n",
}
JSON: Final = b"content-type: application/json\r\n"
EVENT_STREAM: Final = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def date_line(now: float) -> bytes:
    """The Date field for `now`, in seconds since the epoch."""
    return f"date: {formatdate(now, usegmt=True)}\r\n".encode()


def whole(status: int, fields: bytes, body: bytes, *, bodiless: bool = False) -> bytes:
    """A whole answer. `fields` are complete lines; `bodiless` (for HEAD) says the body's length without sending it."""
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINES[status], fields, len(body), b"" if bodiless else body)


def field_lines(fields: Mapping[str, str]) -> bytes:
    """Header lines whose names and values come from stages or configuration.

    What could end a line early, or is not ASCII, leaves in escaped form: no value can become a header of its own.
    """
    text = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    count = len(fields)
    if not text.isascii() or text.count("\n") != count or text.count("\r") != count or "\0" in text:
        text = "".join([f"{_escaped(name)}: {_escaped(value)}\r\n" for name, value in fields.items()])
    return text.encode()


def chunk(frames: list[bytes]) -> bytes:
    """Frames as one chunk of a chunked body."""
    content = b"".join(frames)
    return b"%x\r\n%b\r\n" % (len(content), content)


def _escaped(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
