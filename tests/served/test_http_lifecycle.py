"""Connections on a real socket: slow ones, vanishing ones, too many of them, and the end of the server."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from gatehouse.core.events import Event
from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange
from gatehouse.wire.http.limits import HttpLimits
from tests.wire.http_gate import Client, Gate, answer, call, chunked, gate, parse_responses, post, text

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that real sockets bring about."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen"
        await asyncio.sleep(0.001)


# ---- slow senders


async def test_scenario_07_slow_headers() -> None:
    """A head that is not complete after ten seconds is a 408; a neighbour notices nothing."""
    async with gate() as it:
        slow, other = await it.connect(), await it.connect()
        await slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        await asyncio.sleep(0.01)
        for number in range(10):
            await slow.send(b"X-%d: a\r\n" % number)
            await it.pass_time(0.9)
            await other.send(LIVEZ)
            assert (await other.response()).status == 200
        assert it.server.open_connections == 2
        await it.pass_time(2.5)
        responses = parse_responses(await slow.rest())
        assert [(each.status, each.error()) for each in responses] == [(408, "request_timeout")]
        await other.send(LIVEZ)
        assert (await other.response()).status == 200


async def test_scenario_07_silence_from_the_start() -> None:
    """A connection that says nothing is closed after the same ten seconds, without a word."""
    async with gate() as it:
        client = await it.connect()
        await it.pass_time(9.5)
        assert it.server.open_connections == 1
        await it.pass_time(2)
        assert await client.closed()


@pytest.mark.parametrize("start", [post(call(), length=1000), chunked(b'{"model"', ending=b"")], ids=["length", "chunked"])
async def test_scenario_07_slow_body(start: bytes) -> None:
    """Thirty seconds without a byte of a body that is waited for: 408. Each byte begins them anew."""
    async with gate() as it:
        client = await it.connect()
        await client.send(start)
        await until(lambda: it.identify.seen)
        await it.pass_time(29)
        await client.send(b"1" if b"chunked" in start else b" ")
        await asyncio.sleep(0.01)
        await it.pass_time(29)
        assert it.server.running == 1
        await it.pass_time(2.5)
        responses = parse_responses(await client.rest())
        assert [(each.status, each.headers["connection"]) for each in responses] == [(408, "close")]
        assert it.stage.begun == []


async def test_scenario_07_a_body_in_crumbs_has_an_end() -> None:
    """A byte every twenty seconds does not hold a connection for ever."""
    async with gate(limits=HttpLimits(body_seconds=100)) as it:
        client = await it.connect()
        await client.send(post(call(), length=1000))
        await until(lambda: it.identify.seen)
        for _ in range(6):
            await client.send(b" ")
            await asyncio.sleep(0.01)
            await it.pass_time(20, step=20)
        assert [each.status for each in parse_responses(await client.rest())] == [408]


async def test_a_body_nobody_waits_for_has_no_time_to_keep() -> None:
    """While a call is held up before Read, the sender is not blamed."""
    async with gate() as it:
        held = asyncio.Event()
        admit = it.identify.admit

        async def hold(x: Exchange) -> None:
            await admit(x)
            await held.wait()

        it.identify.admit = hold  # type: ignore[method-assign]
        client = await it.connect()
        content = post(call("patience"))
        await client.send(content[:-5])
        await until(lambda: it.identify.seen)
        await it.pass_time(120, step=10)
        held.set()
        await client.send(content[-5:])
        assert (await client.response()).body == b'{"text":"patience"}'


async def test_a_kept_connection_is_not_kept_for_ever() -> None:
    """Idle for the keep-alive time: closed, without a word that could be taken for an answer."""
    async with gate() as it:
        client = await it.connect()
        await client.send(LIVEZ)
        assert (await client.response()).status == 200
        await it.pass_time(74, step=10)
        assert it.server.open_connections == 1
        await it.pass_time(3)
        assert await client.closed()


async def test_an_abandoned_body_that_stops_coming_ends_the_connection() -> None:
    """After a refusal the rest of the body is thrown away, but not waited for endlessly."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(b"x" * 10, path="/nowhere", length=1000))
        assert (await client.response()).status == 404
        await it.pass_time(32)
        assert await client.closed()


async def test_long_calls_have_no_deadline_here() -> None:
    """Neither head, body nor keep-alive time runs while a call does."""
    done = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await done.wait()
        yield answer("late")

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call()))
        await it.stage.any_begun.wait()
        await it.pass_time(1000, step=50)
        done.set()
        assert (await client.response()).body == b'{"text":"late"}'


# ---- clients that go


async def wait_for_ever(x: Exchange) -> AsyncGenerator[Event, None]:
    await asyncio.Event().wait()
    yield answer("never")


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
async def test_scenario_18_client_leaves_while_queued(how: str) -> None:
    """The call is ended as the client's doing before any event; nobody is asked anything for it."""
    async with gate(wait_for_ever) as it:
        client = await it.connect()
        await client.send(post(call()))
        await it.stage.any_begun.wait()
        if how == "reset":
            client.abort()
        elif how == "close":
            await client.close()
        else:
            client.writer.write_eof()
        await it.stage.any_ended.wait()
        assert it.stage.ended == [Outcome.CLIENT]
        await until(lambda: it.server.open_connections == 0 and it.server.running == 0)


async def test_scenario_18_client_leaves_before_the_call_began() -> None:
    """Gone between the last byte of its request and the first step of its call: no stage is ever entered."""
    async with gate(wait_for_ever) as it:
        client = await it.connect()
        await client.send(LIVEZ)
        await client.response()
        connection = next(iter(it.server._shared.connections))
        connection.data_received(post(call()))
        connection.eof_received()
        await until(lambda: it.server.running == 0)
        assert it.identify.seen == []
        assert it.stage.begun == []


async def test_scenario_18_client_leaves_while_its_body_is_read() -> None:
    """Half a request and then nobody: ended, never decoded."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(call(), length=1000))
        await until(lambda: it.identify.seen)
        client.abort()
        await until(lambda: it.server.running == 0)
        assert it.identify.seen[0].outcome is Outcome.CLIENT
        assert it.stage.begun == []


async def test_scenario_19_client_leaves_mid_stream() -> None:
    """The producer is closed in the event that brings the news, not at its next word."""
    closed = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        try:
            yield text("one")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with gate(script) as it:
        client = await it.connect()
        await client.send(post(call(stream=True)))
        await client.read_head()
        client.abort()
        await asyncio.wait_for(closed.wait(), 5)
        await it.stage.any_ended.wait()
        assert it.stage.ended == [Outcome.CLIENT]


async def test_scenario_19_many_streams_cut_at_random_points() -> None:
    """Sixty-four at once, each cut after another number of events: every producer closed, every gauge back at nought."""
    open_streams: set[str] = set()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        open_streams.add(x.request_id)
        try:
            while True:
                yield text("x" * 50)
                await asyncio.sleep(0)
        finally:
            open_streams.discard(x.request_id)

    async with gate(script) as it:

        async def cut(after: int) -> None:
            client = await it.connect()
            await client.send(post(call(stream=True)))
            await client.read_head()
            for _ in range(after):
                await client.chunk()
            if after % 2:
                client.abort()
            else:
                await client.close()

        await asyncio.gather(*(cut(number % 13) for number in range(64)))
        await until(lambda: it.server.running == 0 and it.server.open_connections == 0)
        assert open_streams == set()
        assert it.stage.ended == [Outcome.CLIENT] * 64


async def test_a_client_that_takes_its_answer_and_leaves_has_had_it() -> None:
    """Leaving after the last byte changes no outcome."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(call()))
        await client.response()
        client.abort()
        await until(lambda: it.server.open_connections == 0)
        assert it.stage.ended == [Outcome.COMPLETED]


# ---- clients that read slowly


async def slow_reader(it: Gate, *, stream: bool = True) -> Client:
    """A client with a small window that makes a call and reads nothing of its answer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, it.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    client = Client(reader, writer)
    it.clients.append(client)
    transport: Any = writer.transport
    transport.pause_reading()
    await client.send(post(call(stream=stream)))
    return client


async def test_scenario_20_a_client_that_does_not_read_pauses_the_producer_then_is_cut_off() -> None:
    """What waits for it is bounded; after thirty seconds without a byte taken the call is ended as the client's doing."""
    produced = 0

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        nonlocal produced
        while True:
            produced += 1
            yield text("x" * 10_000)

    async with gate(script) as it:
        await slow_reader(it)
        connection = next(iter(it.server._shared.connections))
        await until(lambda: connection.clogged)
        before = -1
        while before != produced:
            before = produced
            await asyncio.sleep(0.02)
        assert connection._transport.get_write_buffer_size() < 262_144 + 2 * 65_536
        await it.pass_time(29)
        assert it.stage.ended == []
        assert produced == before
        await it.pass_time(2.5)
        await it.stage.any_ended.wait()
        assert it.stage.ended == [Outcome.CLIENT]
        await until(lambda: it.server.open_connections == 0)


async def test_scenario_20_a_slow_client_that_does_read_is_served_to_the_end() -> None:
    """Slowness alone is no offence: as long as something is taken in each period, the stream goes on."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        for _ in range(400):
            yield text("x" * 10_000)

    async with gate(script, limits=HttpLimits(write_high=65_536)) as it:
        client = await slow_reader(it)
        connection = next(iter(it.server._shared.connections))
        await until(lambda: connection.clogged)
        transport: Any = client.writer.transport
        transport.resume_reading()
        status, _ = await client.read_head()
        taken = 0
        while (piece := await client.chunk()) is not None:
            taken += len(piece)
            await it.pass_time(20, step=20)
        assert status == 200
        assert taken > 4_000_000
        assert it.stage.ended == [Outcome.COMPLETED]


async def test_a_large_answer_that_nobody_takes_does_not_stay() -> None:
    """Also after its call has ended: the connection is cut when nothing of the answer is taken."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        yield answer("x" * 8_000_000)

    async with gate(script) as it:
        await slow_reader(it, stream=False)
        await it.stage.any_ended.wait()
        await until(lambda: it.server.running == 0)
        await it.pass_time(200, step=5)
        await until(lambda: it.server.open_connections == 0)


async def test_a_client_that_asks_and_never_reads_fills_no_memory() -> None:
    """Requests pile up in its own socket, answers up to the bound in ours; then it is cut off."""
    async with gate(limits=HttpLimits(read_ahead=10_000, write_high=10_000)) as it:
        client = await slow_reader(it)
        connection = next(iter(it.server._shared.connections))
        sending = asyncio.ensure_future(client.send(LIVEZ * 400_000))
        await until(lambda: connection.clogged and connection._held)
        held = len(connection._input)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not sending.done()
        assert len(connection._input) <= max(held, 10_000 + 262_144)
        await it.pass_time(120, step=5)
        with pytest.raises(ConnectionError):
            await sending
        await until(lambda: it.server.open_connections == 0)


async def test_a_goodbye_with_an_answer_nobody_takes_does_not_stay() -> None:
    """Half-closed, never reading, megabytes unsent: flushed for a while, then cut."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        while True:
            yield text("x" * 10_000)

    async with gate(script) as it:
        client = await slow_reader(it)
        connection = next(iter(it.server._shared.connections))
        await until(lambda: connection.clogged)
        client.writer.write_eof()
        await it.stage.any_ended.wait()
        assert it.stage.ended == [Outcome.CLIENT]
        await it.pass_time(35, step=5)
        await until(lambda: it.server.open_connections == 0)


# ---- many connections


async def test_beyond_the_limit_connections_wait_in_the_queue() -> None:
    """They are not refused and not forgotten: the first that leaves makes room for the next."""
    async with gate(limits=HttpLimits(max_connections=2)) as it:
        first, second, third = [await it.connect() for _ in range(3)]
        await first.send(LIVEZ)
        await second.send(LIVEZ)
        assert [(await client.response()).status for client in (first, second)] == [200, 200]
        await third.send(LIVEZ)
        await until(lambda: not it.server.accepting)
        assert it.server.open_connections == 2
        await first.close()
        assert (await third.response()).status == 200
        await until(lambda: it.server.open_connections == 2)


class Exhausted:
    """A listening socket on a machine that has run out of descriptors, for as long as the test says."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.fault = 0
        self.spared = 0

    def accept(self) -> tuple[socket.socket, object]:
        """As the kernel would answer: the descriptor kept in reserve is enough for one connection."""
        if self.fault and self.spared:
            self.spared -= 1
            return self._listener.accept()
        if self.fault:
            self.spared = 1
            raise OSError(self.fault, os.strerror(self.fault))
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


def make_scarce(it: Gate, fault: int) -> Exhausted:
    """Put a socket that cannot accept in place of the server's."""
    acceptor = it.server._acceptor
    assert acceptor is not None
    acceptor.pause()
    scarce = Exhausted(acceptor._sockets[0])
    scarce.fault = fault
    acceptor._sockets = (scarce,)  # type: ignore[assignment]
    acceptor.resume()
    return scarce


async def test_a_connection_that_was_gone_before_it_was_taken_is_skipped() -> None:
    """The next one in the queue is served in the same turn."""
    async with gate() as it:
        scarce = make_scarce(it, errno.ECONNABORTED)
        client = await it.connect()
        await client.send(LIVEZ)
        assert (await client.response()).status == 200
        assert it.server.accepting
        scarce.fault = 0


async def test_an_unknown_fault_of_the_listener_is_no_busy_loop() -> None:
    """Accepting pauses, and goes on when the fault has passed."""
    async with gate() as it:
        scarce = make_scarce(it, errno.EINVAL)
        client = await it.connect()
        await client.send(LIVEZ)
        await until(lambda: not it.server.accepting)
        scarce.fault = scarce.spared = 0
        await it.pass_time(1)
        assert (await client.response()).status == 200


async def test_a_vanished_machine_is_noticed() -> None:
    """Taken connections probe a silent peer, and never wait to fill a packet."""
    async with gate() as it:
        client = await it.connect()
        await client.send(LIVEZ)
        await client.response()
        sock = next(iter(it.server._shared.connections))._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_scenario_61_without_descriptors() -> None:
    """One caller is told 503, accepting pauses, and goes on by itself; open connections never notice."""
    async with gate() as it:
        kept = await it.connect()
        await kept.send(LIVEZ)
        await kept.response()
        scarce = make_scarce(it, errno.EMFILE)
        told, waits = await it.connect(), await it.connect()
        response = parse_responses(await told.rest())[0]
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert not it.server.accepting
        await kept.send(post(call()))
        assert (await kept.response()).status == 200
        scarce.fault = 0
        await waits.send(LIVEZ)
        await it.pass_time(1)
        await until(lambda: it.server.accepting)
        assert (await waits.response()).status == 200


# ---- the end


async def test_scenario_50_drain_breaks_no_stream() -> None:
    """Not ready first; no new connections; running streams end as they would have; then everything is closed."""
    finish = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        yield text("begun")
        await finish.wait()
        yield text("done")

    async with gate(script) as it:
        clients = [await it.connect() for _ in range(50)]
        for client in clients:
            await client.send(post(call(stream=True)))
            await client.read_head()
        idle = await it.connect()
        await idle.send(LIVEZ)
        await idle.response()
        draining = asyncio.ensure_future(it.server.drain(30))
        await asyncio.sleep(0)
        await idle.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await idle.response()
        assert (response.status, response.headers["connection"]) == (503, "close")
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        finish.set()
        assert await draining is True
        for client in clients:
            rest = await client.rest()
            assert b"data: done\n\n" in rest
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert it.stage.ended == [Outcome.COMPLETED] * 50
        assert await idle.closed()


async def test_a_request_that_comes_while_draining_is_sent_elsewhere() -> None:
    """503 with Retry-After on an open connection, then the connection closes; what ran before goes on."""
    finish = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await finish.wait()
        yield answer("done")

    async with gate(script) as it:
        running, late = await it.connect(), await it.connect()
        await late.send(LIVEZ)
        await late.response()
        await running.send(post(call()))
        await it.stage.any_begun.wait()
        draining = asyncio.ensure_future(it.server.drain(30))
        await asyncio.sleep(0)
        await late.send(post(call()))
        response = await late.response()
        assert (response.status, response.error(), response.headers["retry-after"]) == (503, "shutting_down", "1")
        assert response.headers["connection"] == "close"
        assert await late.closed()
        finish.set()
        answered = await running.response()
        assert (answered.status, answered.headers["connection"]) == (200, "close")
        assert await draining is True


async def test_what_outlasts_the_grace_is_ended_and_told() -> None:
    """Outcome shutdown, an error frame instead of `[DONE]`, 503 for who had no event yet."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        assert x.call is not None
        if x.call.stream:
            yield text("begun")
        await asyncio.Event().wait()

    async with gate(script) as it:
        streaming, waiting = await it.connect(), await it.connect()
        await streaming.send(post(call(stream=True)))
        await streaming.read_head()
        await waiting.send(post(call()))
        await until(lambda: len(it.stage.begun) == 2)
        draining = asyncio.ensure_future(it.server.drain(10))
        await it.pass_time(9)
        assert it.server.running == 2
        await it.pass_time(2)
        assert await draining is False
        assert (await streaming.rest()).endswith(b"data: error shutting_down\n\n\r\n0\r\n\r\n")
        assert [each.status for each in parse_responses(await waiting.rest())] == [503]
        assert it.stage.ended == [Outcome.SHUTDOWN] * 2


async def test_an_idle_server_drains_at_once() -> None:
    """Nobody waits for a grace that nobody needs."""
    async with gate() as it:
        client = await it.connect()
        await client.send(LIVEZ)
        await client.response()
        assert await asyncio.wait_for(it.server.drain(1000), 5) is True
        assert await client.closed()


async def test_a_second_signal_cuts_the_grace_short() -> None:
    """Closing while a drain waits: calls are ended now, and the drain knows."""
    async with gate(wait_for_ever) as it:
        client = await it.connect()
        await client.send(post(call()))
        await it.stage.any_begun.wait()
        draining = asyncio.ensure_future(it.server.drain(1000))
        await asyncio.sleep(0)
        await asyncio.wait_for(it.server.close(), 5)
        await asyncio.wait_for(draining, 5)
        assert it.stage.ended == [Outcome.SHUTDOWN]
        assert (await client.response()).status == 503


async def test_closing_twice_is_closing() -> None:
    """A second signal finds nothing left to do."""
    async with gate() as it:
        await it.server.close()
        await it.server.close()
