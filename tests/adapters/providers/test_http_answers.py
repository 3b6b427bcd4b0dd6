"""What counts as an answer: framing, bounds, deadlines and back-pressure of our HTTP/1.1 client, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gatehouse.adapters.providers._http import HttpClient, HttpOptions, PoolOptions, Reply, parse_base_url
from gatehouse.adapters.providers._http.reply import HIGH_WATER, MAX_DRAINED
from gatehouse.core.errors import UpstreamFailed
from gatehouse.testing.upstream import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    FakeUpstream,
    Play,
    Seen,
    Wire,
    chunk,
    endless,
    hang_up,
    http,
    silence,
    stream,
    streamed,
)
from tests.adapters.providers.trials import Trial, eventually

OK = http(b'{"fine":1}')


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[HttpClient]:
    """A client of `upstream` that takes answers up to 1 MiB."""
    made = client_of(upstream)
    yield made
    await made.close()


def client_of(upstream: FakeUpstream, **pool: float) -> HttpClient:
    options = PoolOptions(**pool)  # type: ignore[arg-type]
    return HttpClient(HttpOptions(label="lab", base=parse_base_url(upstream.url), pool=options, max_answer=1 << 20))


async def ask(client: HttpClient, trial: Trial | None = None, *, streams: bool = False, body: bytes = b"{}") -> Reply:
    trial = trial or Trial()
    prefix = client.prefix("POST", "/ask", accept="application/json")
    return await client.send(prefix, body, trial, streams=streams, first_byte=trial.deadlines.first_byte)


async def all_of(reply: Reply) -> bytes:
    pieces = []
    while piece := await reply.more():
        pieces.append(piece)
    return b"".join(pieces)


def raw(*pieces: bytes, end: bool = True, gap: float = 0.0) -> Play:
    """Exactly these bytes, then a polite close."""

    async def play(seen: Seen, wire: Wire) -> None:
        for piece in pieces:
            wire.write(piece)
            await wire.flush()
            await asyncio.sleep(gap)
        if end:
            wire.end()

    return play


async def test_a_request_is_what_we_say_and_nothing_else(upstream: FakeUpstream, client: HttpClient) -> None:
    """Our headers only, identity encoding, our request id (CVE-2026-116176: no id of a client's), the body as it is."""
    upstream.will(OK)
    reply = await ask(client, body=b'{"a":1}')
    assert (reply.status, reply.take(), reply.headers[b"content-type"]) == (200, b'{"fine":1}', b"application/json")
    seen = upstream.seen[0]
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/ask", b'{"a":1}')
    assert seen.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "user-agent": "gatehouse",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "x-request-id": "req_0123456789abcdef",
        "content-length": "7",
    }


@pytest.mark.parametrize("request_id", ["a\r\nx-evil: 1", "a\nb", "ä", "a\x00b", "a\tb"])
async def test_cve_2026_116176_a_request_id_cannot_carry_a_header(client: HttpClient, request_id: str) -> None:
    """Ids are ours, and even so one that could break out of its line is never written."""
    trial = Trial()
    trial.request_id = request_id
    with pytest.raises(ValueError, match="request id"):
        await ask(client, trial)
    assert trial.sent is False


async def test_large_bodies_arrive_whole(upstream: FakeUpstream, client: HttpClient) -> None:
    """A body of some megabytes is written beside the head, not copied into it, and arrives as it was."""
    upstream.will(OK)
    body = bytes(range(256)) * 20_000
    await ask(client, body=body)
    assert upstream.seen[0].body == body


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (http(b"fine"), b"fine"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"fi") + chunk(b"ne") + LAST_CHUNK, b"fine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n4;name=value\r\nfine\r\n0\r\nx-trailer: 1\r\n\r\n", b"fine"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine", b"fine"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + http(b"fine"), b"fine"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 4\r\n\r\nfine", b"fine"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_proper_answers_in_any_pieces(upstream: FakeUpstream, client: HttpClient, answer: bytes, body: bytes, piece: int) -> None:
    """Lengths, chunks, trailers, interim answers: read whole however the bytes come, and the connection is kept."""
    upstream.will(raw(*(answer[at : at + piece] for at in range(0, len(answer), piece)), end=False))
    for _ in range(2):
        reply = await ask(client)
        assert reply.take() == body
        assert b"link" not in reply.headers
    assert upstream.accepted == 1


@pytest.mark.parametrize("version", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"])
async def test_an_answer_that_ends_with_its_connection(upstream: FakeUpstream, client: HttpClient, version: bytes) -> None:
    """HTTP/1.0 manners are understood: the body is what came before the close, and the connection is not used again."""
    upstream.will(raw(version, b"fi", b"ne", gap=0.001))
    assert (await ask(client)).take() == b"fine"
    assert client.pool.open == 0


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n folded\r\ncontent-length: 4\r\n\r\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\ncontent-length: 4\n\nfine", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\nna me: y\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + OK, "upstream_invalid"),
        (b"HTTP/2 200 OK\r\n\r\n", "upstream_invalid"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "upstream_invalid"),
        (b"\x16\x03\x01\x02\x00\x01", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(500)) + b"\r\n", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 600_000, "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 600_000, "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nfine\r\n", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine0\r\n\r\n", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfine", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "upstream_broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTT", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine\x00", "upstream_invalid"),
    ],
)
async def test_bad_framing_is_never_an_answer(upstream: FakeUpstream, client: HttpClient, answer: bytes, code: str) -> None:
    """Anything two readers could frame differently, anything cut short, anything unbounded: refused, and the connection is closed."""
    upstream.will(raw(answer))
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert caught.value.code == code
    assert "evil" not in caught.value.message + caught.value.detail
    await upstream.until(lambda up: up.connections == 0)
    assert client.pool.open == 0


async def test_bytes_nobody_asked_for_close_the_connection(upstream: FakeUpstream, client: HttpClient) -> None:
    """An answer to no request would be the next caller's: the connection is dropped, the next request takes a fresh one."""
    pushed = asyncio.Event()

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(OK)
        await pushed.wait()
        wire.write(http(b"evil"))
        await wire.closed()

    upstream.will(play, OK)
    assert (await ask(client)).take() == b'{"fine":1}'
    pushed.set()
    await upstream.until(lambda up: up.connections == 0)
    assert (await ask(client)).take() == b'{"fine":1}'
    assert upstream.accepted == 2


@pytest.mark.parametrize("announced", [True, False])
async def test_scenario_9_an_answer_has_a_bound(upstream: FakeUpstream, client: HttpClient, announced: bool) -> None:
    """A whole answer larger than allowed is refused as soon as that is known, whether it says so or just goes on."""
    if announced:
        upstream.will(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n", end=False))
    else:
        upstream.will(raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *(chunk(bytes(60_000)) for _ in range(30)), end=False))
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert caught.value.code == "upstream_invalid"
    await upstream.until(lambda up: up.connections == 0)


async def test_scenario_9_a_compressed_answer_is_not_unpacked(upstream: FakeUpstream, client: HttpClient) -> None:
    """We ask for identity; a bomb in any coding is refused at its head, before a byte of it is read."""
    for coding in (b"gzip", b"br", b"deflate, gzip", b"zstd"):
        upstream.will(raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 9\r\n\r\n" % coding + bytes(9)))
        with pytest.raises(UpstreamFailed) as caught:
            await ask(client)
        assert (caught.value.code, "compressed" in caught.value.detail) == ("upstream_invalid", True)


# --- streams -----------------------------------------------------------------------------------------------------------


async def test_a_stream_is_handed_over_as_it_comes(upstream: FakeUpstream, client: HttpClient) -> None:
    """The reply is there with its first bytes; the rest follows; the connection is kept after the end."""
    go = asyncio.Event()

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await go.wait()
        wire.write(chunk(b"data: 2\n\n") + LAST_CHUNK)

    upstream.will(play)
    reply = await ask(client, streams=True)
    assert (reply.streaming, reply.take()) == (True, b"data: 1\n\n")
    reply.begin()
    go.set()
    assert await all_of(reply) == b"data: 2\n\n"
    assert (upstream.connections, client.pool.open) == (1, 1)


@pytest.mark.parametrize(
    "answer", [OK, http(b"{}", status=500), http(b"no", content_type="text/html"), http(b"", content_type="text/event-stream", status=429)]
)
async def test_only_a_good_event_stream_streams(upstream: FakeUpstream, client: HttpClient, answer: bytes) -> None:
    """Errors and other content come whole, also when a stream was asked for."""
    upstream.will(answer)
    assert (await ask(client, streams=True)).streaming is False


async def test_scenario_20_a_slow_reader_stops_the_sender(upstream: FakeUpstream) -> None:
    """What nobody reads is not fetched: the buffer is bounded and the other side feels it; reading on gets everything."""
    total = 120
    sent = 0

    async def play(seen: Seen, wire: Wire) -> None:
        nonlocal sent
        wire.write(STREAM_HEAD)
        for number in range(total):
            wire.write(chunk(b"%05d" % number + bytes(131_067)))
            await wire.flush()
            sent += 1
        wire.write(LAST_CHUNK)

    upstream.will(play)
    client = HttpClient(HttpOptions(label="lab", base=parse_base_url(upstream.url)))
    reply = await ask(client, Trial(idle=30.0), streams=True)
    reply.begin()
    stalled = -1
    while stalled != sent:
        stalled = sent
        await asyncio.sleep(0.05)
    assert sent < total
    assert reply.buffered < 3 * HIGH_WATER
    data = await all_of(reply)
    assert [data[at : at + 5] for at in range(0, len(data), 131_072)] == [b"%05d" % number for number in range(total)]
    await client.close()


async def test_a_reader_that_is_slow_is_not_an_idle_sender(upstream: FakeUpstream, client: HttpClient) -> None:
    """While we have stopped reading, silence is our own doing and no reason to give up."""
    upstream.will(streamed([bytes(200_000), bytes(200_000), bytes(200_000)]))
    reply = await ask(client, Trial(idle=0.1), streams=True)
    reply.begin()
    await asyncio.sleep(0.35)
    assert len(await all_of(reply)) == 600_000


async def test_scenario_26_what_follows_the_end_does_not_hold_anybody_up(upstream: FakeUpstream, client: HttpClient) -> None:
    """A reader that has what it needs says so and goes; a short tail is drained behind its back and the connection kept."""
    upstream.will(streamed([DONE, b"data: more\n\n"], gap=0.01))
    for _ in range(2):
        reply = await ask(client, streams=True)
        reply.finish()
        reply.abandon()
        await eventually(lambda: client.pool.idle == 1)
    assert upstream.accepted == 1


async def test_a_long_tail_after_done_is_not_drained(upstream: FakeUpstream, client: HttpClient) -> None:
    """A server that goes on and on after the end loses its connection."""
    upstream.will(streamed([DONE, *(bytes(MAX_DRAINED // 4) for _ in range(8))]))
    reply = await ask(client, streams=True)
    reply.finish()
    await eventually(lambda: client.pool.open == 0)
    await upstream.until(lambda up: up.connections == 0)


async def test_a_stream_without_end_after_done_is_dropped(upstream: FakeUpstream, client: HttpClient) -> None:
    """An upstream that never ends its answer after [DONE] keeps no connection of ours for long."""
    upstream.will(streamed([DONE], then=lambda wire: None))
    reply = await ask(client, streams=True)
    reply.finish()
    await upstream.until(lambda up: up.connections == 0)
    assert client.pool.open == 0


# --- deadlines ---------------------------------------------------------------------------------------------------------


async def test_scenario_22_no_first_byte(upstream: FakeUpstream, client: HttpClient) -> None:
    """A server that takes the request and says nothing is given up after the first-byte deadline; the connection is closed."""
    upstream.will(silence)
    trial = Trial(first_byte=0.05)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client, trial)
    assert (caught.value.code, caught.value.sent, trial.sent) == ("upstream_timeout", True, True)
    assert "first byte" in caught.value.detail
    await upstream.until(lambda up: up.connections == 0)


async def test_a_head_alone_is_no_first_byte(upstream: FakeUpstream, client: HttpClient) -> None:
    """A stream that sends its head, or comments, and no content is still waited for no longer than its first byte."""
    upstream.will(streamed([b": still here\n\n" for _ in range(200)], gap=0.01))
    reply = await ask(client, Trial(first_byte=0.1, idle=0.05), streams=True)
    with pytest.raises(UpstreamFailed) as caught:
        await all_of(reply)
    assert (caught.value.code, "first byte" in caught.value.detail) == ("upstream_timeout", True)


async def test_scenario_24_a_stall_mid_stream(upstream: FakeUpstream, client: HttpClient) -> None:
    """Silence between two pieces is bounded; what came before it is handed over first."""
    upstream.will(streamed([b"data: 1\n\n"], then=lambda wire: None))
    reply = await ask(client, Trial(idle=0.05), streams=True)
    reply.begin()
    assert await reply.more() == b"data: 1\n\n"
    with pytest.raises(UpstreamFailed) as caught:
        await reply.more()
    assert (caught.value.code, "idle" in caught.value.detail) == ("upstream_timeout", True)
    await upstream.until(lambda up: up.connections == 0)


async def test_idle_is_measured_from_the_last_piece(upstream: FakeUpstream, client: HttpClient) -> None:
    """A stream that goes on longer than the idle deadline is fine as long as something comes."""
    upstream.will(streamed([b"data: 1\n\n"] * 12, gap=0.03))
    reply = await ask(client, Trial(idle=0.2, first_byte=0.2), streams=True)
    reply.begin()
    assert await all_of(reply) == b"data: 1\n\n" * 12


async def test_the_total_deadline_bounds_everything(upstream: FakeUpstream, client: HttpClient) -> None:
    """A stream that never pauses ends with its time all the same."""
    upstream.will(endless(gap=0.005))
    reply = await ask(client, Trial(total=0.15), streams=True)
    reply.begin()
    with pytest.raises(UpstreamFailed) as caught:
        await all_of(reply)
    assert (caught.value.code, "total" in caught.value.detail) == ("upstream_timeout", True)


async def test_a_stall_in_a_whole_answer(upstream: FakeUpstream, client: HttpClient) -> None:
    """Once its head is there, silence bounds a whole answer too."""
    upstream.will(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", end=False))
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client, Trial(idle=0.05))
    assert (caught.value.code, "idle" in caught.value.detail) == ("upstream_timeout", True)


async def test_deadlines_of_one_request_do_not_hurt_the_next(upstream: FakeUpstream, client: HttpClient) -> None:
    """The timer left from a request with short deadlines is not the next one's."""
    upstream.will(OK, streamed([b"data: 1\n\n"] * 4, gap=0.05))
    await ask(client, Trial(first_byte=0.05, idle=0.05, total=0.05))
    reply = await ask(client, streams=True)
    reply.begin()
    assert len(await all_of(reply)) == 36
    assert upstream.accepted == 1


# --- breaking off ------------------------------------------------------------------------------------------------------


async def test_closed_without_an_answer(upstream: FakeUpstream, client: HttpClient) -> None:
    """On a fresh connection that is a failure, and the request may have been read."""
    upstream.will(hang_up)
    with pytest.raises(UpstreamFailed) as caught:
        await ask(client)
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", True)
    assert upstream.requests == 1


async def test_scenario_23_reset_mid_stream(upstream: FakeUpstream, client: HttpClient) -> None:
    """What came before the break is handed over; then the stream fails. It never looks finished."""
    upstream.will(streamed([b"data: 1\n\n"], gap=0.02, then=Wire.reset))
    reply = await ask(client, streams=True)
    reply.begin()
    assert reply.take() == b"data: 1\n\n"
    with pytest.raises(UpstreamFailed) as caught:
        await reply.more()
    assert caught.value.code == "upstream_broken"


@pytest.mark.parametrize("streams", [False, True])
async def test_cancelling_closes_at_once(upstream: FakeUpstream, client: HttpClient, streams: bool) -> None:
    """A caller that stops waiting closes the connection within one turn of the loop."""
    upstream.will(silence)
    asking = asyncio.get_running_loop().create_task(ask(client, streams=streams))
    await upstream.until(lambda up: up.requests == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert client.pool.open == 0
    await upstream.until(lambda up: up.connections == 0, seconds=1.0)


async def test_abandoning_a_stream_closes_at_once(upstream: FakeUpstream, client: HttpClient) -> None:
    """So does one that has read enough."""
    upstream.will(endless(gap=0.001))
    reply = await ask(client, streams=True)
    reply.abandon()
    assert client.pool.open == 0
    await upstream.until(lambda up: up.connections == 0, seconds=1.0)


async def test_an_answer_before_the_request_was_read_is_not_followed_by_another(upstream: FakeUpstream, client: HttpClient) -> None:
    """A server that answers while we still send (413, say) gets no second request on that connection."""

    class Hasty(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            lines.append(transport)

        def data_received(self, data: bytes) -> None:
            line = lines[-1]
            line.pause_reading()
            line.write(http(b"{}", status=413))

    lines: list[Any] = []
    server = await asyncio.get_running_loop().create_server(Hasty, "127.0.0.1", 0)
    hasty = HttpClient(HttpOptions(label="lab", base=parse_base_url(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")))
    try:
        reply = await ask(hasty, body=bytes(30_000_000))
        assert (reply.status, hasty.pool.open) == (413, 0)
    finally:
        for line in lines:
            line.abort()
        server.close()
        await hasty.close()


async def test_streams_in_one_write_and_in_many_are_the_same(upstream: FakeUpstream, client: HttpClient) -> None:
    """Scenario 25 at the socket: the whole stream at once, and byte by byte."""
    whole = stream([b"data: \xc3\xa4\n\n", b"data: 2\r\n\r\n", DONE])
    upstream.will(whole, raw(*(whole[at : at + 1] for at in range(len(whole))), end=False))
    seen = []
    for _ in range(2):
        reply = await ask(client, streams=True)
        reply.begin()
        seen.append(await all_of(reply))
    assert seen == [b"data: \xc3\xa4\n\ndata: 2\r\n\r\n" + DONE] * 2
