"""Any bytes, cut anywhere, on a real socket: the server answers in well-formed HTTP or closes, and never sees a request that is none.

The corpus beside this file is kept: whatever once made two machines disagree about a request stays a question we are asked.
The referee is h11, which shares no code with us. It is the more forgiving of the two, so what we take for requests must be
the beginning of what it takes for requests, and on well-formed input the whole of it.
"""

import asyncio
from itertools import pairwise
from pathlib import Path

import h11
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call
from gatehouse.wire.http.head import HeadReader, Refused
from gatehouse.wire.http.limits import HttpLimits
from tests.wire.http_gate import PATH, Gate, PlainDialect, Response, gate, parse_responses

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.bin"))
LIMITS = HttpLimits(head_bytes=4096, read_ahead=512, discard_bytes=1024)
Seen = tuple[str, str, bytes]


class Witness(PlainDialect):
    """Takes every body for a call, and remembers it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def decode_request(self, body: bytes) -> Call:
        """A stream now and then, to mix both kinds of answer."""
        self.bodies.append(body)
        return Call(model="m", stream=body.endswith(b"}"), extra={"say": "yes"})


async def converse(pieces: list[bytes]) -> tuple[list[Response], list[Seen]]:
    """Send `pieces` over one connection and let time pass until it is closed: the answers, and the calls the server saw."""
    witness = Witness()
    async with gate(limits=LIMITS, body_limit=2000) as it:
        route = it.plane._routes[PATH]
        it.plane._routes[PATH] = type(route)(witness, route.operation)
        client = await it.connect()
        try:
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        said = await everything(it, client.reader)
        calls = [(x.head.method, x.head.path, body) for x, body in zip(it.stage.begun, witness.bodies, strict=True)]
        methods = tuple(method for method, *_ in referee(b"".join(pieces)))
        return parse_responses(said, methods), calls


async def everything(it: Gate, reader: asyncio.StreamReader) -> bytes:
    """What the server says until it closes; it may not take longer than every deadline there is."""
    said = b""
    reading = asyncio.ensure_future(reader.read(-1))
    for turn in range(400):
        for _ in range(5):
            await asyncio.sleep(0)
        if reading.done():
            break
        if turn > 10:
            it.clock.advance(40)
    try:
        said = await asyncio.wait_for(reading, 5)
    except ConnectionError:
        said = b""
    return said


def referee(data: bytes) -> list[Seen]:
    """The complete requests in `data`, as h11 reads them, up to the first thing it cannot read."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    found: list[Seen] = []
    try:
        connection.receive_data(data)
        while True:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                return found
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                return found
            target = request.target.decode("latin-1").partition("?")[0]
            found.append((request.method.decode(), target, body))
            connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is not h11.DONE:
                return found
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return found


def calls_among(seen: list[Seen]) -> list[Seen]:
    return [each for each in seen if each[0] == "POST" and each[1] == PATH]


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in at}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
@pytest.mark.parametrize("step", [1, 7, 100_000], ids=["bytes", "sevens", "whole"])
async def test_the_corpus(path: Path, step: int) -> None:
    """Each kept input, whole and in crumbs: well-formed answers, no request that the referee does not see, nothing left behind."""
    data = path.read_bytes()
    _, calls = await converse([data[start : start + step] for start in range(0, len(data), step)])
    assert calls == calls_among(referee(data))[: len(calls)]


NAMES = ["Host: gate.test", "Host: a\r\nHost: b", "Host: x/y", "Host:\tgate.test"]
FRAMES = [
    "Content-Length: {n}",
    "Content-Length: {n}",
    "content-length:{n}",
    "Content-Length: {n} ",
    "Content-Length: {m}",
    "Content-Length: 0",
    "Content-Length: +{n}",
    "Content-Length: {n}, {n}",
    "Content-Length: {n}\r\nContent-Length: {m}",
    "Content-Length: {n}\r\nContent-Length: {n}",
    "Content-Length : {n}",
    "Content-Length: {n}\r\n ",
    "Content_Length: {n}",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked ",
    "Transfer-Encoding: chunked\r\nContent-Length: {n}",
    "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: Transfer-Encoding: chunked",
    "",
]
LINES = [f"POST {PATH} HTTP/1.1"] * 5 + [
    f"POST {PATH}?a=b HTTP/1.1",
    f"POST {PATH} HTTP/1.0",
    f"post {PATH} HTTP/1.1",
    f"POST  {PATH} HTTP/1.1",
    "GET /livez HTTP/1.1",
]
INNER = f"POST {PATH} HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 2\r\n\r\n{{}}".encode()


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    return draw(st.one_of(st.sampled_from([b"", b"{}", INNER, b"0\r\n\r\n" + INNER, b"0\r\n\r\n"]), st.binary(max_size=20)))


def in_chunks(body: bytes, size: int) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)) + b"0\r\n\r\n"


@st.composite
def crafted(draw: st.DrawFn) -> bytes:
    """One message that is nearly, or quite, a request."""
    body = draw(bodies())
    frame = draw(st.sampled_from(FRAMES))
    if "hunked" in frame and draw(st.integers(0, 9)):
        body = in_chunks(body, draw(st.integers(1, 30)))
    head = [
        draw(st.sampled_from(LINES)),
        draw(st.sampled_from([NAMES[0]] * 6 + NAMES)),
        frame.format(n=len(body), m=draw(st.integers(0, 60))),
    ]
    message = "\r\n".join([line for line in head if line] + ["", ""]).encode("latin-1") + body
    if not draw(st.integers(0, 7)):
        at = draw(st.integers(0, len(message)))
        change = draw(st.sampled_from([b"\n", b"\r", b" ", b"\0", b"\t", b"\r\n", b"0", b":", b"\xff", b";"]))
        message = message[:at] + change + message[at + draw(st.integers(0, 1)) :]
    return message


@st.composite
def proper(draw: st.DrawFn) -> bytes:
    """One message that is a request beyond doubt."""
    body = draw(bodies())
    if draw(st.booleans()):
        head, body = "Transfer-Encoding: chunked", in_chunks(body, draw(st.integers(1, 30)))
    else:
        head = f"Content-Length: {len(body)}"
    return f"POST {PATH} HTTP/1.1\r\nHost: gate.test\r\n{head}\r\n\r\n".encode() + body


CUTS = st.lists(st.integers(0, 2000), max_size=8)
BUDGET = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def test_any_bytes() -> None:
    """Noise, and near-requests with noise in them: well-formed answers or none, then the end, and no fault of ours."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        @BUDGET
        @given(st.lists(st.one_of(crafted(), st.binary(max_size=60)), min_size=1, max_size=4).map(b"".join), CUTS)
        def check(data: bytes, at: list[int]) -> None:
            runner.run(converse(cut(data, at)))

        check()


def test_no_smuggling() -> None:
    """Whatever is crafted, the calls we see are the first calls the referee sees, with the same bodies."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        @BUDGET
        @given(st.lists(crafted(), min_size=1, max_size=5).map(b"".join), CUTS)
        def check(data: bytes, at: list[int]) -> None:
            _, calls = runner.run(converse(cut(data, at)))
            assert calls == calls_among(referee(data))[: len(calls)]

        check()


def test_proper_requests_are_all_seen() -> None:
    """However they are cut and however many come at once: each is answered, in order, with its own body."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        @BUDGET
        @given(st.lists(proper(), min_size=1, max_size=5).map(b"".join), CUTS)
        def check(data: bytes, at: list[int]) -> None:
            responses, calls = runner.run(converse(cut(data, at)))
            assert calls == referee(data)
            assert [each.status for each in responses] == [200] * len(calls)

        check()


@settings(max_examples=400, deadline=None)
@given(crafted())
def test_a_head_we_read_is_read_the_same_by_the_referee(message: bytes) -> None:
    """Method, target, fields and their values."""
    end = message.find(b"\r\n\r\n")
    raw = message[: end + 4]
    try:
        ours = HeadReader(HttpLimits()).read(raw)
    except (Refused, ValueError):
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    theirs = connection.next_event()
    assert isinstance(theirs, h11.Request)
    target = theirs.target.decode()
    assert (ours.method, f"{ours.path}?{ours.query}" if "?" in target else ours.path) == (theirs.method.decode(), target)
    coding = {b"transfer-encoding": b"chunked"} if b"transfer-encoding" in ours.headers else {}  # which h11 writes small
    assert {**ours.headers, **coding} == dict(theirs.headers)
