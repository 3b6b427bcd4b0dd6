"""Comments in silent streams: when they come, what they cost, and that they are never in the way."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Event
from gatehouse.core.plans import Plan
from gatehouse.pipeline.exchange import Exchange
from gatehouse.testing.fakes import FakeClock
from gatehouse.wire.http.comments import COMMENT, Comments
from gatehouse.wire.http.data_plane import Manners
from tests.wire.http_gate import Gate, Script, answer, call, gate, post, text


class Paced:
    """A script that gives its events when it is told to."""

    def __init__(self) -> None:
        self.wanted: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def script(self, x: Exchange) -> AsyncGenerator[Event, None]:
        x.plan = Plan("m", ())
        while (event := await self.wanted.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


def serving(script: Script, clock: FakeClock) -> Any:
    return gate(script, manners=Manners(comments=Comments(clock, 10)))


async def silence(server: Gate, clock: FakeClock, seconds: float) -> None:
    """Pass time in steps that let the loop follow."""
    await asyncio.wait_for(server.stage.any_begun.wait(), 5)
    await asyncio.sleep(0.005)
    clock.advance(seconds)
    await asyncio.sleep(0.005)


async def test_before_the_first_event_and_between_events() -> None:
    """A comment for each silent stretch, whole frames only, and the answer as it would have been."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x", stream=True)))
        await silence(server, clock, 10)
        status, headers = await client.read_head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert headers["x-gatehouse-request-id"].startswith("req_")
        assert await client.chunk() == COMMENT
        await silence(server, clock, 10)
        assert await client.chunk() == COMMENT
        paced.wanted.put_nowait(text("a"))
        assert await client.chunk() == b"data: a\n\n"
        await silence(server, clock, 10)  # there was an event since the last beat
        await silence(server, clock, 10)
        assert await client.chunk() == COMMENT
        paced.wanted.put_nowait(text("b"))
        paced.wanted.put_nowait(None)
        rest = b""
        while (piece := await client.chunk()) is not None:
            rest += piece
        assert rest == b"data: b\n\ndata: [DONE]\n\n"


async def test_a_stream_that_speaks_is_left_alone() -> None:
    """No comment between events that come in time."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x", stream=True)))
        for piece in ("a", "b", "c"):
            paced.wanted.put_nowait(text(piece))
            await silence(server, clock, 9.9)
        paced.wanted.put_nowait(None)
        assert (await client.response()).body == b"data: a\n\ndata: b\n\ndata: c\n\ndata: [DONE]\n\n"


async def test_an_error_after_a_comment_travels_in_the_stream() -> None:
    """The head has left with status 200, so the stream says what went wrong, and ends broken."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x", stream=True)))
        await silence(server, clock, 10)
        paced.wanted.put_nowait(UpstreamFailed("no", code="upstream_timeout"))
        response = await client.response()
        assert (response.status, response.body) == (200, COMMENT + b"data: error upstream_timeout\n\n")
        assert await client.closed()


async def test_an_error_before_a_comment_is_a_status() -> None:
    """Nothing has left, so nothing is lost."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x", stream=True)))
        await silence(server, clock, 9)
        paced.wanted.put_nowait(UpstreamFailed("no", code="upstream_timeout"))
        assert (await client.response()).status == 502


async def test_whole_answers_have_none() -> None:
    """JSON has no comments, however long it takes."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x")))
        await silence(server, clock, 60)
        paced.wanted.put_nowait(answer("well"))
        paced.wanted.put_nowait(None)
        assert (await client.response()).body == b'{"text":"well"}'


async def test_a_client_that_has_left_is_not_written_to() -> None:
    """Its pulse ends with its call."""
    paced, clock = Paced(), FakeClock()
    server: Gate
    async with serving(paced.script, clock) as server:
        client = await server.connect()
        await client.send(post(call("x", stream=True)))
        await silence(server, clock, 1)
        client.abort()
        await asyncio.wait_for(server.stage.any_ended.wait(), 5)
        clock.advance(60)
        await asyncio.sleep(0.005)
