"""What comes in pieces within one turn of the loop, or over several, is the requests it is: no fewer, no others, in their order."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from gatehouse.testing.fakes import settle_loop
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.protocol import Connection
from tests.wire.http_gate import Client, call, chunked, parse_responses, post
from tests.wire.http_lane import LaneGate, lane

LIVE = b"GET /livez HTTP/1.1\r\nHost: gate.test\r\n\r\n"


def said(name: str) -> bytes:
    """What a call that says `name` is answered."""
    return b'{"text":"%b"}' % name.encode()


def the_only(it: LaneGate) -> Connection:
    """The server's end of the one connection there is."""
    (connection,) = it.server._shared.connections
    return connection


async def kept(it: LaneGate) -> tuple[Client, Connection]:
    """A connection on which a call was answered, so that its head is known."""
    client = await it.connect()
    await client.send(post(call("0")))
    assert (await client.response()).body == said("0")
    return client, the_only(it)


def body_of(say: str, size: int = 60) -> bytes:
    """A call of `size` bytes: its head is the same for everything that is said."""
    content = b'{"model":"m","say":"%b"}' % say.encode()
    return content + b" " * (size - len(content))


Kind = Callable[[str], tuple[bytes, str, int, bytes | None]]
"""Makes a request that says something: its bytes, its method, the status and the body that answer it."""

KINDS: dict[str, Kind] = {
    "same head": lambda say: (post(body_of(say)), "POST", 200, said(say)),
    "other length": lambda say: (post(body_of(say, 60 + len(say))), "POST", 200, said(say)),
    "another head": lambda say: (post(body_of(say), "X-More: 1"), "POST", 200, said(say)),
    "chunked": lambda say: (chunked(body_of(say)[:30], body_of(say)[30:]), "POST", 200, said(say)),
    "expecting": lambda say: (post(body_of(say), "Expect: 100-continue"), "POST", 200, said(say)),
    "compressed": lambda say: (post(body_of(say), "Content-Encoding: gzip"), "POST", 400, None),
    "no call": lambda say: (post(b"x" * 60), "POST", 400, None),
    "empty": lambda say: (post(b""), "POST", 400, None),
    "long": lambda say: (post(body_of(say, 90_000)), "POST", 200, said(say)),
    "get": lambda say: (LIVE, "GET", 200, b'{"status":"ok"}'),
    "head": lambda say: (LIVE.replace(b"GET", b"HEAD"), "HEAD", 200, b""),
    "get with a body": lambda say: (LIVE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"), "GET", 200, b'{"status":"ok"}'),
    "nowhere": lambda say: (post(body_of(say), path="/nowhere"), "POST", 404, None),
    "stream": lambda say: (post(call(say, stream=True)), "POST", 200, f"data: {say}\n\ndata: [DONE]\n\n".encode()),
}


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """`data` in pieces: a few cuts anywhere, or one at the end of each head."""
    if chance.random() < 0.2:
        parts = data.split(b"\r\n\r\n")
        return [part + b"\r\n\r\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(8)))
    return [piece for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if (piece := data[start:end])]


@pytest.mark.parametrize("read_ahead", [65_536, 50])
@pytest.mark.parametrize("seed", range(20))
async def test_however_it_is_cut(seed: int, read_ahead: int) -> None:
    """Requests of every kind, sent at once and cut anywhere, within a turn and over several, are answered each with its own answer."""
    chance = random.Random(f"{seed} {read_ahead}")
    async with lane(HttpLimits(read_ahead=read_ahead)) as it:
        client, connection = await kept(it)
        for turn in range(6):
            names = chance.choices([*KINDS], weights=[6] + [1] * (len(KINDS) - 1), k=chance.randrange(1, 7))
            asked = [KINDS[name](f"{turn}-{index}") for index, name in enumerate(names)]
            data = b"".join(request for request, *_ in asked)
            over_the_socket = chance.random() < 0.5
            for piece in cut(chance, data):
                if over_the_socket:
                    await client.send(piece)
                else:
                    connection.data_received(piece)
                if chance.random() < 0.4:
                    await settle_loop(chance.randrange(1, 4))
            for name, (_, method, status, body) in zip(names, asked, strict=True):
                response = await client.response(method)
                while response.status == 100:
                    response = await client.response(method)
                assert (name, response.status) == (name, status)
                assert body is None or (name, response.body) == (name, body)


@pytest.mark.parametrize("more", [b"", b"POST", post(body_of("2")), post(body_of("2")) + LIVE])
@pytest.mark.parametrize("cut_at", [1, 50, -61, -60, -59, -1])
async def test_a_known_head_in_two_reads_of_one_turn(cut_at: int, more: bytes) -> None:
    """The head that was known is known when its request comes in two reads of a turn, with whatever follows in the second."""
    async with lane() as it:
        client, connection = await kept(it)
        await client.send(post(body_of("1")))
        await client.response()
        request = post(body_of("again"))
        connection.data_received(request[:cut_at])
        connection.data_received(request[cut_at:] + more)
        assert (await client.response()).body == said("again")
        if more == b"POST":
            await client.send(post(body_of("2"))[4:])
        if more:
            assert (await client.response()).body == said("2")


async def test_a_body_longer_than_its_known_head_says() -> None:
    """What stands behind the announced body is the next request, and no part of the one before."""
    async with lane() as it:
        client, _ = await kept(it)
        await client.send(post(body_of("1")))
        await client.response()
        await client.send(post(body_of("2")) + b"more of it\r\n\r\n")
        good, bad = parse_responses(await client.rest())
        assert (good.status, good.body, bad.status) == (200, said("2"), 400)


# --- the end of a connection in the turn of a request ------------------------------------------------------------------


async def test_a_request_that_came_as_its_time_ran_out() -> None:
    """A kept connection is not closed over a request that was read before the timer looked."""
    limits = HttpLimits()
    async with lane(limits) as it:
        client, connection = await kept(it)
        connection.data_received(post(call("in time")))
        it.clock.advance(limits.keep_alive_seconds + 10 * limits.tick_seconds)
        assert (await client.response()).body == said("in time")


@pytest.mark.parametrize("part", ["head", "body"])
async def test_the_rest_of_a_request_that_came_as_its_time_ran_out(part: str) -> None:
    """Nor is a request refused as too slow whose last piece is here."""
    limits = HttpLimits()
    async with lane(limits) as it:
        client, connection = await kept(it)
        request = post(call("in time"))
        first = 20 if part == "head" else len(request) - 5
        connection.data_received(request[:first])
        await settle_loop()
        connection.data_received(request[first:])
        it.clock.advance(max(limits.head_seconds, limits.body_seconds, limits.body_idle_seconds) + 10 * limits.tick_seconds)
        assert (await client.response()).body == said("in time")


async def test_one_more_piece_of_a_slow_head_is_not_enough() -> None:
    """A head whose time is over is refused, though a further piece of it came in that turn."""
    limits = HttpLimits()
    async with lane(limits) as it:
        client, connection = await kept(it)
        connection.data_received(post(call("late"))[:20])
        await settle_loop()
        connection.data_received(post(call("late"))[20:30])
        it.clock.advance(limits.head_seconds + 10 * limits.tick_seconds)
        (response,) = parse_responses(await client.rest())
        assert response.status == 408


async def test_a_request_that_came_as_the_server_closed() -> None:
    """It is told that the server shuts down; its connection is not closed without a word."""
    async with lane() as it:
        client, connection = await kept(it)
        connection.data_received(post(call("late")))
        closing = asyncio.ensure_future(it.server.close())
        await asyncio.sleep(0)
        for _ in range(200):
            await settle_loop(5)
            if closing.done():
                break
            it.clock.advance(0.5)
        (response,) = parse_responses(await client.rest())
        assert (response.status, response.headers["connection"]) == (503, "close")
        await closing


@pytest.mark.parametrize("drained", [False, True])
async def test_an_idle_connection_that_is_closed_with_a_request_unread(drained: bool) -> None:
    """Closing what is idle first looks whether it is."""
    async with lane() as it:
        client, connection = await kept(it)
        connection.data_received(post(call("here")))
        it.server._shared.draining = it.plane.draining = drained
        connection.close_idle()
        assert (await client.response()).status == (503 if drained else 200)


@pytest.mark.parametrize("request_", [LIVE, post(call("bye")), post(call("bye"), path="/nowhere"), b"NONSENSE\r\n\r\n"])
@pytest.mark.parametrize("how", ["end", "loss"])
async def test_a_client_gone_right_behind_its_request(how: str, request_: bytes) -> None:
    """Whatever was asked, nothing runs on for it, nothing is written to nobody, and nothing is left."""
    async with lane() as it:
        client, connection = await kept(it)
        connection.data_received(request_)
        if how == "end":
            connection.eof_received()
        else:
            connection.abort()
            await settle_loop()
        await settle_loop()
        assert it.server.running == 0
        assert [x.outcome for x in it.target.begun if x.call is not None and x.call.extra["say"] == "bye"] in ([], ["client"])
        client.writer.close()


# --- a client that reads slowly ----------------------------------------------------------------------------------------


async def test_requests_behind_a_client_that_does_not_read(tmp_path: Path) -> None:
    """While the client lets its answers lie no further request is served; when it reads on, all are, in their order."""
    async with lane(HttpLimits(write_high=1)) as it:
        client, connection = await kept(it)
        connection.pause_writing()
        for number in range(3):
            connection.data_received(post(body_of(f"{number}")))
            await settle_loop()
        begun = len(it.target.begun)
        connection.data_received(post(body_of("3")))
        connection.resume_writing()
        assert [(await client.response()).body for _ in range(4)] == [said(f"{number}") for number in range(4)]
        assert begun == 1
