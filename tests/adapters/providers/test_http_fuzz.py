"""Any bytes a server may send, in any pieces: the client ends with an answer or a failure, the same whatever the pieces, and bounded."""

import asyncio
from itertools import pairwise
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatehouse.adapters.providers._http.connection import Connection, Request
from gatehouse.adapters.providers._http.reply import Reply
from gatehouse.core.plans import Deadlines
from gatehouse.testing.upstream import DONE, LAST_CHUNK, STREAM_HEAD, chunk, completion, delta, failure, http, stream

LIMIT = 4096
CORPUS = [
    http(b"fine"),
    completion("x"),
    failure(429, headers=[("retry-after", "3")]),
    stream([delta("a"), DONE]),
    STREAM_HEAD + chunk(b"data: 1\n\n") + b"5;ext=1\r\nhello\r\n" + b"0\r\nx-trailer: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + STREAM_HEAD + LAST_CHUNK,
    b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\na",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    http(b"a") + http(b"evil"),
    http(bytes(LIMIT + 1)),
    b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: v\r\n" % number for number in range(140)) + b"\r\n",
]
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"\xff",
    b"-1",
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """An answer of the corpus with a few places cut out, doubled, overwritten or filled."""
    data = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        filler = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6), st.just(data[at:to] * 2)))
        data = data[:at] + filler + data[to:]
    return data


class Sink:
    """A transport that remembers only whether it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str) -> None:
        """Plain text."""

    def write(self, data: bytes) -> None:
        """Into nothing."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Still:
    """A loop whose time stands still, a socket that says nothing, and a pool: the world around one connection."""

    def __init__(self) -> None:
        self.freed = 0
        self.gone = 0

    def time(self) -> float:
        return 0.0

    def call_at(self, when: float, callback: Any) -> Any:
        return self

    def cancel(self) -> None:
        """No timer ever fires."""

    def getsockopt(self, *_: Any) -> bytes:
        raise OSError

    def free(self, connection: Connection) -> None:
        self.freed += 1

    def lost(self, connection: Connection) -> None:
        self.gone += 1


def received(pieces: list[bytes], *, streams: bool) -> tuple[Any, ...]:
    """What a client makes of these pieces followed by the end of the connection."""
    world, sink = Still(), Sink()
    connection = Connection(world, cast("asyncio.AbstractEventLoop", world), cast("Any", world), label="lab")
    connection.connection_made(cast("asyncio.Transport", sink))
    reply = Reply(streams=streams, limit=LIMIT)
    connection.begin(reply, Request(b"POST / HTTP/1.1\r\n\r\n", b"{}", 1.0, Deadlines()))
    body = b""
    for piece in pieces:
        if not sink.closed and piece:
            connection.data_received(piece)
        if reply.streaming:
            body += reply.take()
    freed = world.freed
    connection.eof_received()
    connection.connection_lost(None)
    body += reply.take()
    assert reply.complete != (reply.failure is not None), "an answer or a failure, never neither, never both"
    assert world.gone == 1
    assert freed <= 1
    assert len(body) <= LIMIT + max(map(len, pieces), default=0)
    if reply.failure is not None:
        assert reply.failure.code in {"upstream_invalid", "upstream_broken", "upstream_unreachable"}
        return (reply.failure.code, reply.failure.message)
    return (reply.status, body, reply.headers.get(b"content-type"), reply.streaming, freed)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[at:to] for at, to in pairwise(ends)]


@given(spoilt(), st.lists(st.integers(0, 5000), max_size=8), st.booleans())
@settings(max_examples=600, deadline=None)
@example(http(b"fine") + b"H", [46], False)
@example(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nth: 1\r\n\r\na", [4138], False)
@example(b"", [], False)
def test_any_answer_in_any_pieces(data: bytes, places: list[int], streams: bool) -> None:
    """Whole or cut anywhere: the same verdict, and for an answer the same status, body and fate of the connection, save one case:
    bytes after the end that arrive on their own find the connection idle, and close it."""
    whole = received([data], streams=streams)
    pieces = received(cut(data, places), streams=streams)
    if whole != pieces:
        assert whole[0] == "upstream_invalid"
        assert isinstance(pieces[0], int)
        # A connection that the answer ends is not idle, but gone.
        assert pieces[-1] == 1 or b"connection: close" in data.lower() or data.startswith(b"HTTP/1.0")


def test_byte_by_byte() -> None:
    """Every answer of the corpus, fed in single bytes, is what it is in one piece, but for the one that has bytes after its end."""
    for data in CORPUS:
        for streams in (False, True):
            pieces = [data[at : at + 1] for at in range(len(data))]
            if data != http(b"a") + http(b"evil"):
                assert received(pieces, streams=streams) == received([data], streams=streams)
