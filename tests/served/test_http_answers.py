"""Answers on a real socket: headers, errors, streams, and what a client holds when something breaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from gatehouse.core.errors import (
    Blocked,
    GatehouseError,
    Internal,
    LimitExceeded,
    Timeout,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from gatehouse.core.events import Chunk, Event, Events
from gatehouse.core.money import parse_usd
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Target
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from tests.wire.http_gate import answer, broken, call, gate, parse_responses, post, text


async def test_a_whole_answer_tells_what_it_cost() -> None:
    """Target, cost, cache and limits are in the head, as they stood when the call was settled; the date is the clock's."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        x.target = Target("lab/tiny", "lab", "tiny")
        x.cache = "miss"
        x.headers["x-ratelimit-remaining-requests"] = "59"
        yield answer("hi")

    async with gate(script) as it:
        settle = it.stage.settle

        def charge(x: Exchange) -> None:
            x.charge = parse_usd("0.0000025")
            settle(x)

        it.stage.settle = charge  # type: ignore[method-assign]
        client = await it.connect()
        await client.send(post(call()))
        response = await client.response()
        x = it.stage.begun[0]
        assert response.headers == {
            "date": "Thu, 01 Jan 2026 12:00:00 GMT",
            "content-type": "application/json",
            "content-length": "13",
            "x-gatehouse-request-id": x.request_id,
            "x-gatehouse-target": "lab/tiny",
            "x-gatehouse-cache": "miss",
            "x-gatehouse-cost-usd": "0.0000025",
            "x-ratelimit-remaining-requests": "59",
        }
        assert x.answer is not None
        assert x.outcome is Outcome.COMPLETED


async def test_the_date_follows_the_clock() -> None:
    """It is made once a tick, not once an answer."""
    async with gate() as it:
        client = await it.connect()
        await it.pass_time(61)
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await client.closed()  # a connection that never spoke is not kept for a minute
        client = await it.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response()).headers["date"] == "Thu, 01 Jan 2026 12:01:01 GMT"


async def test_a_stream_is_collected_for_who_does_not_stream() -> None:
    """Not streaming is a reader that collects."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        for piece in ("a", "b", "c"):
            await asyncio.sleep(0)
            yield text(piece)

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call()))
        assert (await client.response()).body == b'{"text":"abc"}'
        assert it.stage.begun[0].answer is not None


async def test_nothing_of_a_whole_answer_leaves_before_the_call_is_settled() -> None:
    """Whoever holds a complete answer is in the ledger."""
    async with gate() as it:
        writes: list[str] = []
        settle = it.stage.settle

        def watch(x: Exchange) -> None:
            connection = next(iter(it.server._shared.connections))
            real = connection._transport

            class Tap:
                def __getattr__(self, name: str) -> Any:
                    writes.append(name)
                    return getattr(real, name)

            connection._transport = Tap()  # type: ignore[assignment]
            writes.append("settled")
            settle(x)

        it.stage.settle = watch  # type: ignore[method-assign]
        client = await it.connect()
        await client.send(post(call()))
        await client.response()
        assert writes[:2] == ["settled", "write"]


async def test_a_stream_in_order_and_its_end_after_settling() -> None:
    """Events as they come; the closing frame only when the call is settled; usage with its cost."""
    go = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        yield text("one")
        await go.wait()
        yield text("")
        yield text("two")
        x.charge = parse_usd("0.5")
        yield Chunk(usage=Usage(input=1, output=2))

    async with gate(script) as it:
        ended_at_settle: list[bytes] = []
        settle = it.stage.settle

        def look(x: Exchange) -> None:
            ended_at_settle.append(b"seen")
            settle(x)

        it.stage.settle = look  # type: ignore[method-assign]
        client = await it.connect()
        await client.send(post(call(stream=True)))
        status, headers = await client.read_head()
        assert (status, headers["content-type"], headers["transfer-encoding"]) == (200, "text/event-stream; charset=utf-8", "chunked")
        assert headers["cache-control"] == "no-cache"
        assert headers["x-gatehouse-request-id"] == it.stage.begun[0].request_id
        assert "x-gatehouse-cost-usd" not in headers
        assert await client.chunk() == b"data: one\n\n"
        assert ended_at_settle == []
        go.set()
        rest = b""
        while (piece := await client.chunk()) is not None:
            rest += piece
        assert rest == b"data: two\n\ndata: cost 0.5\n\ndata: [DONE]\n\n"
        assert ended_at_settle == [b"seen"]
        await client.send(post(call("again")))
        assert (await client.response()).body == b'{"text":"one' + b'two"}'


async def test_a_stream_of_nothing_is_still_a_stream() -> None:
    """No event is no error."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        nothing: tuple[Event, ...] = ()
        for event in nothing:
            yield event

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call(stream=True)))
        response = await client.response()
        assert (response.status, response.body) == (200, b"data: [DONE]\n\n")


async def test_events_of_one_turn_leave_together() -> None:
    """Ten events that are ready at once are one chunk, so one system call."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        for number in range(10):
            yield text(str(number))
        await asyncio.sleep(0.01)
        yield text("late")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call(stream=True)))
        await client.read_head()
        assert await client.chunk() == b"".join(b"data: %d\n\n" % number for number in range(10))
        assert (await client.chunk() or b"").startswith(b"data: late\n\n")


async def test_a_producer_that_never_pauses_lets_others_in() -> None:
    """Its burst is bounded: a health check on another connection is answered in the middle of it."""
    checked = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        while not checked.is_set():
            yield text("x" * 100)

    async with gate(script) as it:
        client, other = await it.connect(), await it.connect()
        await client.send(post(call(stream=True)))
        reading = asyncio.ensure_future(client.response())
        await it.stage.any_begun.wait()
        await other.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await other.response()).status == 200
        checked.set()
        assert (await reading).body.endswith(b"data: [DONE]\n\n")


async def test_a_stream_for_http_1_0_ends_with_the_connection() -> None:
    """No chunks for who does not know them."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        yield text("a")
        await asyncio.sleep(0)
        yield text("b")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call(stream=True), version="1.0"))
        status, headers = await client.read_head()
        assert (status, headers["connection"]) == (200, "close")
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"data: a\n\ndata: b\n\ndata: [DONE]\n\n"


ERRORS: dict[str, tuple[Callable[[], GatehouseError], int, dict[str, str]]] = {
    "unauthenticated": (lambda: Unauthenticated("no"), 401, {"www-authenticate": "Bearer"}),
    "limit": (lambda: LimitExceeded("slow down", retry_after=1.2), 429, {"retry-after": "2"}),
    "limit at once": (lambda: LimitExceeded("slow down", retry_after=0.01), 429, {"retry-after": "1"}),
    "unavailable": (lambda: Unavailable("later", retry_after=7), 503, {"retry-after": "7"}),
    "upstream": (lambda: UpstreamFailed("broken", code="upstream_unreachable"), 502, {}),
    "internal": (lambda: Internal("ours"), 500, {}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_before_the_first_event_is_a_status(name: str, stream: bool) -> None:
    """Also for who asked for a stream; headers say when to come back, and the connection goes on."""
    make, status, headers = ERRORS[name]

    def script(x: Exchange) -> Events:
        x.headers["x-ratelimit-limit-requests"] = "60"
        return broken(make())

    async with gate(script) as it:
        client = await it.connect()
        for _ in range(2):
            await client.send(post(call(stream=stream)))
            response = await client.response()
            assert response.status == status
            assert response.headers.items() >= headers.items()
            assert response.headers["x-ratelimit-limit-requests"] == "60"
            assert response.headers["x-gatehouse-request-id"] == it.stage.begun[-1].request_id
            assert "retry-after" in response.headers or "retry-after" not in headers


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(UpstreamFailed("gone", code="upstream_broken"), Outcome.FAILED), (Blocked("no", code="rule"), Outcome.GUARD)],
)
async def test_scenario_23_a_broken_stream_never_ends_like_a_finished_one(error: GatehouseError, outcome: Outcome) -> None:
    """What came before stands, an error frame follows, `[DONE]` does not, and the connection closes."""

    async with gate(lambda x: broken(error, text("half"))) as it:
        client = await it.connect()
        await client.send(post(call(stream=True)))
        response = parse_responses(await client.rest())[0]
        assert response.body == f"data: half\n\ndata: error {error.code}\n\n".encode()
        assert response.whole
        assert it.stage.ended == [outcome]


async def test_a_fault_of_ours_is_told_without_its_words() -> None:
    """500 with a request id to quote, and a log entry for us; in a stream, the error frame."""

    def script(x: Exchange) -> Events:
        assert x.call is not None
        return broken(ZeroDivisionError("secret words"), *([text("a")] if x.call.stream else []))

    async with gate(script, faults=True) as it:
        client = await it.connect()
        await client.send(post(call()) + post(call(stream=True)))
        data = await client.rest()
        assert b"secret words" not in data
        whole, stream = parse_responses(data)
        assert (whole.status, whole.error()) == (500, "internal")
        assert stream.body == b"data: a\n\ndata: error internal\n\n"
        assert len(it.errors.records) == 2


async def test_an_answer_that_cannot_be_written_ends_the_connection() -> None:
    """A fault in the last step leaves no client waiting and no call open."""
    async with gate(faults=True) as it:

        def broken() -> bytes:
            raise ZeroDivisionError

        it.dialect.end = broken  # type: ignore[method-assign]
        client = await it.connect()
        await client.send(post(call(stream=True)))
        assert b"[DONE]" not in await client.rest()
        assert it.server.running == 0


async def test_a_call_that_took_too_long_to_arrive_is_a_408_and_the_end() -> None:
    """What Read raised ends the connection: nobody knows what the sender will still send."""
    async with gate() as it:
        it.identify.error = lambda x: Timeout("slow")
        client = await it.connect()
        await client.send(post(call()))
        responses = parse_responses(await client.rest())
        assert [(each.status, each.headers["connection"]) for each in responses] == [(408, "close")]


@pytest.mark.parametrize(
    ("outcome", "status", "code"), [(Outcome.SHUTDOWN, 503, "shutting_down"), (Outcome.REVOKED, 401, "unauthenticated")]
)
@pytest.mark.parametrize("begun", [False, True])
async def test_a_call_ended_from_outside_is_told_why(outcome: Outcome, status: int, code: str, begun: bool) -> None:
    """Before the first event with a status, after it with an error frame; never with `[DONE]`."""
    forever = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        if begun:
            yield text("half")
        await forever.wait()
        yield text("never")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call(stream=True)))
        await it.stage.any_begun.wait()
        if begun:
            assert (await client.read_head())[0] == 200
            assert await client.chunk() == b"data: half\n\n"
        it.stage.begun[0].end(outcome)
        if begun:
            assert await client.chunk() == f"data: error {code}\n\n".encode()
            assert await client.chunk() is None
            assert await client.closed()
        else:
            response = await client.response()
            assert (response.status, response.error()) == (status, code)
        assert it.stage.ended == [outcome]


async def test_a_deadline_is_the_targets_fault() -> None:
    """The runner words it; it leaves like any other failure."""
    forever = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await forever.wait()
        yield text("never")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call()))
        await it.stage.any_begun.wait()
        it.stage.begun[0].end(Outcome.DEADLINE)
        response = await client.response()
        assert (response.status, response.error()) == (502, "upstream_timeout")


async def test_scenario_60_nothing_a_stage_says_becomes_a_header() -> None:
    """A newline in a target's name or a stage's header leaves escaped, on its own line."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        x.target = Target("lab/naïve\r\nset-cookie: a=b", "lab", "m")
        x.headers["x-note"] = "a\r\n\r\n<script>"
        yield answer("hi")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call()))
        response = await client.response()
        assert response.headers["x-gatehouse-target"] == "lab/na\\xefve\\r\\nset-cookie: a=b"
        assert response.headers["x-note"] == "a\\r\\n\\r\\n<script>"
        assert "set-cookie" not in response.headers


async def test_scenario_60_nothing_a_client_says_is_logged() -> None:
    """Paths, keys and bodies of refused requests reach no log line at all."""
    async with gate() as it:
        for data in (
            b"GET /\x1b[31mred HTTP/1.1\r\n\r\n",
            post(b'{"model":"\\u001b[31m\\n"}', "Authorization: Bearer gh_live_secret\x1b"),
            post(b"{}", path="/v1/%0aforged%20line"),
        ):
            client = await it.connect()
            await client.send(data)
            await client.response()
        assert it.errors.records == []
