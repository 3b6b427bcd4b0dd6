"""Requests on a real socket: framing, order, limits and what is refused before anybody looks at it."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gatehouse.core.errors import Forbidden, Unauthenticated
from gatehouse.core.events import Event
from gatehouse.pipeline.exchange import Exchange
from gatehouse.wire.http.body import RequestBody
from gatehouse.wire.http.limits import HttpLimits
from tests.wire.http_gate import PATH, Client, Gate, answer, call, chunked, gate, parse_responses, post


async def paths(x: Exchange) -> AsyncGenerator[Event, None]:
    """Answers with the body's own words, late enough that whatever comes next is already there."""
    assert x.call is not None
    await asyncio.sleep(0)
    yield answer(str(x.call.extra["say"]))


async def refused(it: Gate, data: bytes, status: int) -> None:
    """`data` is answered with `status`, then the connection ends, and no call was begun."""
    client = await it.connect()
    await client.send(data)
    responses = parse_responses(await client.rest())
    assert [each.status for each in responses] == [status]
    assert responses[0].headers["connection"] == "close"
    assert len(responses[0].body) < 1000
    assert it.stage.begun == []


async def test_a_connection_carries_one_request_after_another() -> None:
    """Keep-alive is the rule in HTTP/1.1."""
    async with gate() as it:
        client = await it.connect()
        for word in ("one", "two", "three"):
            await client.send(post(call(word)))
            response = await client.response()
            assert (response.status, response.body) == (200, b'{"text":"%b"}' % word.encode())
            assert "connection" not in response.headers
        assert it.server.open_connections == 1


async def test_a_request_may_come_byte_by_byte() -> None:
    """The network cuts where it likes."""
    async with gate() as it:
        for data in (post(call("slow")), chunked(b'{"model":"m","s', b'ay":"slow"}')):
            client = await it.connect()
            for start in range(len(data)):
                await client.send(data[start : start + 1])
                await asyncio.sleep(0)
            assert (await client.response()).body == b'{"text":"slow"}'
            await client.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    """What comes before its turn waits for it, whole bodies included."""
    async with gate(paths) as it:
        client = await it.connect()
        await client.send(b"".join(post(call(f"n{number}")) + chunked(b'{"model":"m","say":"c%d"}' % number) for number in range(20)))
        said = [(await client.response()).body for _ in range(40)]
        assert said == [b'{"text":"%b%d"}' % (kind, number) for number in range(20) for kind in (b"n", b"c")]


async def test_more_pipelined_than_may_wait_is_left_in_the_socket() -> None:
    """A sender far ahead is slowed down, not cut off and not let into memory; every request is still answered."""
    async with gate(paths, limits=HttpLimits(read_ahead=1000)) as it:
        client = await it.connect()
        many = 400
        sending = asyncio.ensure_future(client.send(post(call("x" * 500)) * many))
        for _ in range(many):
            assert (await client.response()).status == 200
        await sending


async def test_a_head_larger_than_what_may_wait_is_still_read() -> None:
    """The bound on waiting requests is none on a head."""
    async with gate(limits=HttpLimits(read_ahead=1000)) as it:
        client = await it.connect()
        data = post(call("large"), "X-Large: " + "a" * 20_000)
        for start in range(0, len(data), 1500):
            await client.send(data[start : start + 1500])
            await asyncio.sleep(0)
        assert (await client.response()).body == b'{"text":"large"}'


async def test_quick_answers_in_a_row_let_others_in() -> None:
    """Hundreds of health checks in one segment are answered in order, and nothing is lost between the turns."""
    async with gate() as it:
        client = await it.connect()
        await client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 300 + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        responses = parse_responses(await client.rest())
        assert [each.status for each in responses] == [200] * 301


async def test_an_empty_line_before_a_request_is_forgiven_once() -> None:
    """RFC 9112 asks for that much; two are a malformed request."""
    async with gate() as it:
        client = await it.connect()
        await client.send(b"\r\n" + post(call()) + b"\r\n" + post(call(), "Connection: close"))
        assert [each.status for each in parse_responses(await client.rest())] == [200, 200]
        await client.close()
        client = await it.connect()
        await client.send(b"\r\n\r\n" + post(call()))
        assert [each.status for each in parse_responses(await client.rest())] == [400]


async def test_http_1_0_is_served_and_closed() -> None:
    """Its clients know nothing of chunks and little of keeping alive."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(call("old"), version="1.0"))
        response = parse_responses(await client.rest())[0]
        assert (response.status, response.body, response.headers["connection"]) == (200, b'{"text":"old"}', "close")


async def test_continue_is_said_only_when_the_body_is_wanted() -> None:
    """`100 Continue` comes from the Read stage asking, so a caller who is refused never sends the body."""
    async with gate() as it:
        client = await it.connect()
        content = post(call("waited"))
        head, _, body = content.partition(b"\r\n\r\n")
        await client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.read_head())[0] == 100
        await client.send(body)
        assert (await client.response()).body == b'{"text":"waited"}'
        it.identify.error = lambda x: Unauthenticated("no")
        await client.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        response = parse_responses(await client.rest())
        assert [each.status for each in response] == [401]


async def test_continue_is_not_said_to_who_did_not_wait() -> None:
    """A body that came along needs no invitation."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(call("eager"), "Expect: 100-continue"))
        assert (await client.read_head())[0] == 200


async def test_the_body_is_not_taken_in_before_it_is_asked_for() -> None:
    """Nobody unauthenticated fills our memory: the socket is not read beyond the bound until the body is wanted."""
    async with gate(body_limit=10_000_000) as it:
        asked = asyncio.Event()
        admit = it.identify.admit

        async def wait(x: Exchange) -> None:
            await admit(x)
            await asked.wait()

        it.identify.admit = wait  # type: ignore[method-assign]
        client = await it.connect()
        body = b'{"model":"m","say":"' + b"x" * 9_000_000 + b'"}'
        sending = asyncio.ensure_future(client.send(post(body)))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not sending.done()
        connection = next(iter(it.server._shared.connections))
        assert isinstance(connection._body, RequestBody)
        assert connection._body._size <= 65_536 + 262_144
        asked.set()
        await sending
        assert (await client.response()).status == 200


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_refused_body_costs_the_connection_only_when_it_is_large(size: int) -> None:
    """A small body that nobody read is thrown away and the connection goes on."""
    async with gate() as it:
        it.identify.error = lambda x: Forbidden("no") if b"x-bad" in x.head.headers else None
        client = await it.connect()
        body = b"x" * size
        data = post(body, "X-Bad: 1")
        await client.send(data[:-size])
        assert (await client.response()).status == 403
        await client.send(data[-size:])
        await client.send(post(call("next")))
        assert (await client.response()).body == b'{"text":"next"}'


async def test_a_refused_body_beyond_the_bound_ends_the_connection_after_the_answer_was_read() -> None:
    """The client that still sends sees the refusal, not a reset: we listen for a moment after our last word."""
    async with gate() as it:
        it.identify.error = lambda x: Forbidden("no")
        client = await it.connect()
        await client.send(post(b"x" * 100_000, length=5_000_000))
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (403, "close")
        for _ in range(20):
            await client.send(b"x" * 100_000)
        assert await client.closed()


async def test_a_compressed_body_is_refused() -> None:
    """Inflating it is work that an attacker buys cheaply; the message says what to do instead."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(b"\x1f\x8b" + b"0" * 100, "Content-Encoding: gzip"))
        response = await client.response()
        assert (response.status, response.error()) == (400, "unsupported_encoding")
        await client.send(post(call("plain"), "Content-Encoding: identity"))
        assert (await client.response()).status == 200


# ---- the scenarios of the security research, by number


async def test_scenario_01_what_is_no_request_gets_a_short_error() -> None:
    """Garbage in the body is the dialect's 400, bounded, and the connection survives it."""
    async with gate() as it:
        client = await it.connect()
        for body in (b"{", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"model":"m"} trailing', b"\xff" * 5000):
            await client.send(post(body))
            response = await client.response()
            assert response.status == 400
            assert len(response.body) < 1000


@pytest.mark.parametrize("length", [100_001, 10**12])
async def test_scenario_05_body_over_limit_announced(length: int) -> None:
    """413 before a byte of it was waited for, and the connection ends."""
    async with gate() as it:
        await refused(it, post(b"x" * 10, length=length), 413)


async def test_scenario_05_body_over_limit_with_expectation() -> None:
    """Who asks first is told no instead of `100 Continue`."""
    async with gate() as it:
        await refused(it, post(b"", "Expect: 100-continue", length=100_001), 413)


async def test_scenario_05_body_over_limit_without_length() -> None:
    """413 as soon as more than the limit has come, and the connection ends."""
    async with gate() as it:
        client = await it.connect()
        await client.send(chunked(*[b"x" * 1000] * 101, ending=b""))
        assert (await client.response()).status == 413
        for _ in range(50):
            await client.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert await client.closed()
        assert it.stage.begun == []


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """The bound is the last size that passes."""
    async with gate() as it:
        body = b'{"model":"m","say":"'
        body += b"x" * (100_000 - len(body) - 2) + b'"}'
        client = await it.connect()
        for data in (post(body), chunked(body)):
            await client.send(data)
            assert (await client.response()).status == 200


SMUGGLED = b'POST /v1/chat/completions HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 13\r\n\r\n{"model":"m"}'

SCENARIO_06 = {
    "length and chunked": chunked(b"abc", lines="Content-Length: 3\r\n"),
    "length and chunked, the other way round": post(b"0\r\n\r\n" + SMUGGLED, "Transfer-Encoding: chunked", length=5),
    "two lengths": post(SMUGGLED, "Content-Length: 0"),
    "folded field": post(b"{}", "X-A: b\r\n c"),
    "bare LF": post(b"{}").replace(b"\r\nHost", b"\nHost"),
    "only bare LF": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "bare LF at the end of the head": b"GET /livez HTTP/1.1\r\nHost: x\r\n\nGET / HTTP/1.1\r\n\r\n",
    "bare CR": post(b"{}", "X-A: b\rContent-Length: 0"),
    "chunk sizes with a sign": chunked(ending=b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk sizes ended by LF": chunked(ending=b"3\nabc\r\n0\r\n\r\n"),
    "chunk longer than it said": chunked(ending=b"3\r\nabcX\r\n0\r\n\r\n"),
    "a coding before chunked": chunked(lines="Transfer-Encoding: gzip\r\n"),
}


@pytest.mark.parametrize("name", SCENARIO_06)
async def test_scenario_06_smuggling(name: str) -> None:
    """400 (501 for a coding) and the end of the connection; nothing after the doubtful byte is ever taken for a request."""
    async with gate() as it:
        client = await it.connect()
        await client.send(SCENARIO_06[name] + SMUGGLED)
        responses = parse_responses(await client.rest())
        assert [each.status in (400, 501) for each in responses] == [True]
        assert it.stage.begun == []


async def test_scenario_06_lying_length_too_short() -> None:
    """What stands after the announced body is the next request, or none: here none, and the connection ends."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(b'{"model":"m"}trailing words\r\n\r\n', length=13))
        assert [each.status for each in parse_responses(await client.rest())] == [200, 400]
        assert len(it.stage.begun) == 1


async def test_scenario_06_lying_length_too_long() -> None:
    """A body that never comes whole is never decoded: the client is told 408, or has gone."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(b'{"model":"m"}', length=20))
        while not it.identify.seen:
            await asyncio.sleep(0.001)
        await it.pass_time(31)
        assert [each.status for each in parse_responses(await client.rest())] == [408]
        assert it.stage.begun == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(10_000)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(100)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"a" * 70_000,
    ],
    ids=["ten thousand", "a megabyte", "one more than allowed", "without an end"],
)
async def test_scenario_08_headers_beyond_reason(data: bytes) -> None:
    """431, and the connection ends."""
    async with gate() as it:
        await refused(it, data, 431)


@pytest.mark.parametrize("host", ["x/health?x=", "x?y", "x#y", "a@b", "x/../livez"])
async def test_scenario_10_host_with_more_than_a_host(host: str) -> None:
    """The path is what the request line says; a Host that could make another of it is a 400."""
    async with gate() as it:
        it.identify.error = lambda x: Unauthenticated("no")
        await refused(it, f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode(), 400)
        assert it.identify.seen == []


@pytest.mark.parametrize(
    "target", ["http://gate.test/livez", "http://gate.test/v1/chat/completions", "gate.test:80", "//gate.test/livez", "*"]
)
async def test_scenario_10_target_that_is_no_path(target: str) -> None:
    """400, whatever the authentication would have said."""
    async with gate() as it:
        await refused(it, f"POST {target} HTTP/1.1\r\nHost: gate.test\r\nContent-Length: 0\r\n\r\n".encode(), 400)
        assert it.identify.seen == []


async def test_scenario_12_odd_text_is_the_dialects_to_judge() -> None:
    """NUL, surrogates and overlong forms in a body reach the dialect as they came, and never make a 500."""
    async with gate() as it:
        client = await it.connect()
        for body in (b'{"model":"\\ud800"}', b'{"model":"\0"}', b'{"model":"\xc0\xaf"}', b'{"model":"\\u0000"}'):
            await client.send(post(body))
            assert (await client.response()).status in (200, 400)


# ---- what is not a call


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_only_post_makes_a_call(method: str) -> None:
    """405 with what is allowed; the connection goes on."""
    async with gate() as it:
        client = await it.connect()
        await client.send(f"{method} {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        response = await client.response(method)
        assert (response.status, response.headers["allow"]) == (405, "POST")
        if method != "HEAD":
            assert response.error() == "method_not_allowed"
        await client.send(post(call()))
        assert (await client.response()).status == 200


async def test_options_for_the_server_as_a_whole() -> None:
    """`OPTIONS *` is legal and tells nothing that is not public."""
    async with gate() as it:
        client = await it.connect()
        await client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_an_unknown_path_says_what_exists() -> None:
    """404 in the dialect's words, with a bounded echo."""
    async with gate() as it:
        client = await it.connect()
        for path in ("/v1/nothing", "/", "/v1/chat/completions/", "/v1/%63hat/completions", "/v1/../livez", "/" + "a" * 5000):
            await client.send(post(b"{}", path=path))
            response = await client.response()
            assert (response.status, response.error()) == (404, "unknown_path")
            assert PATH in response.body.decode()
            assert len(response.body) < 400


async def test_health() -> None:
    """`/livez` is the process, `/readyz` is whether it can serve, with what is degraded."""
    async with gate() as it:
        client = await it.connect()

        async def get(path: str, method: str = "GET") -> tuple[int, bytes]:
            await client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            response = await client.response(method)
            return response.status, response.body

        assert await get("/livez") == (200, b'{"status":"ok"}')
        assert await get("/readyz") == (200, b'{"ready":true,"degraded":{}}')
        it.ready = (True, {"provider lab": "timeouts"})
        assert await get("/readyz") == (200, b'{"ready":true,"degraded":{"provider lab":"timeouts"}}')
        it.ready = (False, {"storage": "gone"})
        assert await get("/readyz?full=1") == (503, b'{"ready":false,"degraded":{"storage":"gone"}}')
        assert await get("/livez", "HEAD") == (200, b"")
        await client.send(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        response = await client.response()
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
        assert await get("/livez") == (200, b'{"status":"ok"}')


async def test_what_stages_see_of_the_head() -> None:
    """Lower-case names, distinct credentials, the peer, and an id that is ours whatever the client calls its request."""
    async with gate() as it:
        client = await it.connect()
        await client.send(post(call(), "Authorization: Bearer k1", "X-Api-Key: k1", "X-Request-Id: 10.0.0.1:6379"))
        response = await client.response()
        x = it.identify.seen[0]
        assert (x.head.method, x.head.path, x.head.credentials, x.head.peer) == ("POST", PATH, (b"k1",), "127.0.0.1")
        assert x.head.headers[b"x-request-id"] == b"10.0.0.1:6379"
        assert response.headers["x-gatehouse-request-id"] == x.request_id
        assert x.request_id.startswith("req_")
        assert len(x.request_id) == 36


async def test_request_ids_do_not_repeat() -> None:
    """Not within a draw of chance and not across it."""
    async with gate() as it:
        client: Client = await it.connect()
        for _ in range(600):
            await client.send(post(call()))
            await client.response()
        assert len({x.request_id for x in it.stage.begun}) == 600
