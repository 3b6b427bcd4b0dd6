"""Whole answers leave together at the end of a turn of the loop: in order, whole, and never behind what is said after them."""

import asyncio
import os
import resource
from itertools import pairwise
from pathlib import Path

import pytest

from gatehouse.core.errors import Unauthenticated
from gatehouse.core.outcome import Outcome
from gatehouse.testing.fakes import settle_loop
from gatehouse.testing.upstream import FakeUpstream, completion, usage_of
from tests.served.whole import serving
from tests.wire.http_gate import Client, call, parse_responses, post
from tests.wire.http_lane import LaneGate, lane


def said(name: str) -> bytes:
    """What a call that says `name` is answered."""
    return b'{"text":"%b"}' % name.encode()


async def test_a_call_needs_no_task() -> None:
    """While its target thinks nothing carries it, and it counts as running."""
    async with lane() as it:
        it.target.holding = True
        client = await it.connect()
        await client.send(post(call("a")))
        await it.target.hold(1)
        assert (it.tasks, it.server.running, len(it.runner.running)) == ([], 1, 1)
        it.target.release()
        response = await client.response()
        assert (response.status, response.body) == (200, said("a"))
        assert (it.server.running, it.target.ended) == (0, [Outcome.COMPLETED])


async def test_answers_of_one_turn_reach_their_own_clients() -> None:
    """Many calls that are answered in one turn: each client has its own answer."""
    async with lane() as it:
        it.target.holding = True
        clients = [await it.connect() for _ in range(5)]
        for number, client in enumerate(clients):
            await client.send(post(call(f"{number}")))
        await it.target.hold(5)
        it.target.release()
        assert [(await client.response()).body for client in clients] == [said(f"{number}") for number in range(5)]


async def test_pipelined_requests_keep_their_order() -> None:
    """Calls, refusals and what is no call, sent at once on one connection, are answered in the order in which they were asked."""
    async with lane() as it:
        it.knowing.error = lambda x: Unauthenticated("who?") if b"x-bad" in x.head.headers else None
        client = await it.connect()
        live = b"GET /livez HTTP/1.1\r\nHost: gate.test\r\n\r\n"
        await client.send(
            post(call("1")) + live + post(call("2")) + post(call("3"), "X-Bad: yes") + post(call("4"), path="/nowhere") + post(call("5"))
        )
        found = [await client.response() for _ in range(6)]
        assert [response.status for response in found] == [200, 200, 200, 401, 404, 200]
        assert [response.body for response in found][::5] == [said("1"), said("5")]
        assert found[2].body == said("2")


async def test_refusals_in_a_row_let_others_in() -> None:
    """Many requests that are refused on the spot, sent at once on one connection, are not answered in one step of the loop."""
    async with lane() as it:
        it.knowing.error = lambda x: Unauthenticated("who?")
        seen: list[int] = []
        loop = asyncio.get_running_loop()

        def look() -> None:
            seen.append(len(it.knowing.seen))
            if seen[-1] < 200:
                loop.call_soon(look)

        client = await it.connect()
        look()
        await client.send(post(call("no")) * 200)
        assert [(await client.response()).status for _ in range(200)] == [401] * 200
        assert max(after - before for before, after in pairwise(seen)) <= 16


async def test_a_malformed_request_right_behind_a_good_one() -> None:
    """The good answer is out before the connection is told off and closed."""
    async with lane() as it:
        client = await it.connect()
        await client.send(post(call("good")) + b"NONSENSE\r\n\r\n")
        good, bad = parse_responses(await client.rest())
        assert (good.status, good.body, bad.status) == (200, said("good"), 400)
        assert bad.headers["connection"] == "close"


@pytest.mark.parametrize(("lines", "version"), [(("Connection: close",), "1.1"), ((), "1.0")])
async def test_a_connection_that_closes_after_its_answer(lines: tuple[str, ...], version: str) -> None:
    """The whole answer arrives, then the end; other answers of that turn are not disturbed."""
    async with lane() as it:
        it.target.holding = True
        before, closing, after = [await it.connect() for _ in range(3)]
        await before.send(post(call("before")))
        await it.target.hold(1)
        await closing.send(post(call("last"), *lines, version=version))
        await it.target.hold(2)
        await after.send(post(call("after")))
        await it.target.hold(3)
        it.target.release()
        (response,) = parse_responses(await closing.rest())
        assert (response.status, response.body, response.headers["connection"]) == (200, said("last"), "close")
        assert ((await before.response()).body, (await after.response()).body) == (said("before"), said("after"))


async def test_refused_and_closed_while_others_go_to_their_target() -> None:
    """A refusal that closes its connection, in the turn in which other calls go down, is told and keeps none of them."""
    async with lane() as it:
        it.knowing.error = lambda x: Unauthenticated("who?") if b"x-bad" in x.head.headers else None
        clients = [await it.connect() for _ in range(3)]
        for client, line in zip(clients, ("X-Good: a", "X-Bad: b\r\nConnection: close", "X-Good: c"), strict=True):
            client.writer.write(post(call("hello"), line))
        responses = [await clients[0].response(), *parse_responses(await clients[1].rest()), await clients[2].response()]
        assert [response.status for response in responses] == [200, 401, 200]


async def test_what_is_asked_with_head() -> None:
    """The head of an answer and nothing behind it, in its place among the others."""
    async with lane() as it:
        client = await it.connect()
        await client.send(post(call("1")) + b"HEAD /livez HTTP/1.1\r\nHost: gate.test\r\n\r\n" + post(call("2")))
        first, head, second = [await client.response(method) for method in ("POST", "HEAD", "POST")]
        assert (first.body, head.status, second.body) == (said("1"), 200, said("2"))
        assert int(head.headers["content-length"]) > 0


async def test_a_stream_behind_a_whole_answer() -> None:
    """On one connection, asked at once: the whole answer is out before the stream's head, and the next after its end."""
    async with lane() as it:
        client = await it.connect()
        await client.send(post(call("whole")) + post(call("streamed", stream=True)) + post(call("again")))
        whole, stream, again = [await client.response() for _ in range(3)]
        assert (whole.body, again.body) == (said("whole"), said("again"))
        assert stream.body == b"data: streamed\n\ndata: [DONE]\n\n"


async def test_a_client_gone_in_the_turn_in_which_it_asked() -> None:
    """No stage hears of the call, and nothing is left of it."""
    async with lane() as it:
        left = it.leave_at_once()
        client = await it.connect()
        await client.send(post(call("nobody")))
        async with asyncio.timeout(5):
            await left.wait()
        await settle_loop()
        assert (it.knowing.seen, it.target.begun, it.server.running) == ([], [], 0)


@pytest.mark.parametrize("when", ["while the target thinks", "in the turn of the answer"])
async def test_a_client_that_goes_away(when: str) -> None:
    """Its call ends as the client's doing, once; who else was answered in that turn has its answer."""
    async with lane() as it:
        it.target.holding = True
        client, other = await it.connect(), await it.connect()
        await client.send(post(call("gone")))
        await it.target.hold(1)
        await other.send(post(call("here")))
        await it.target.hold(2)
        (x,) = [x for x in it.runner.running if x.call is not None and x.call.extra["say"] == "gone"]
        if when == "in the turn of the answer":
            it.target.release()
            x.end(Outcome.CLIENT)
        else:
            client.abort()
            async with asyncio.timeout(5):
                await it.stage.any_ended.wait()
            it.target.release()
        assert (await other.response()).body == said("here")
        await settle_loop()
        assert sorted(it.stage.ended, key=str) == [Outcome.CLIENT, Outcome.COMPLETED]


async def test_a_client_that_has_said_all_is_gone() -> None:
    """Closing its sending side behind the request is a goodbye, while its target thinks too."""
    async with lane() as it:
        it.target.holding = True
        client = await it.connect()
        await client.send(post(call("goodbye")))
        await it.target.hold(1)
        client.writer.write_eof()
        async with asyncio.timeout(5):
            await it.stage.any_ended.wait()
        assert it.stage.ended == [Outcome.CLIENT]
        it.target.held.clear()


async def _told_of_the_end(it: LaneGate, client: Client) -> int:
    await client.send(post(call("late")))
    await it.target.hold(1)
    closing = asyncio.ensure_future(it.server.drain(0.0))
    await settle_loop()
    it.clock.advance(1.0)
    status = (await client.response()).status
    it.target.held.clear()
    for _ in range(50):
        await settle_loop()
        it.clock.advance(0.5)
        if closing.done():
            break
    await closing
    return status


async def test_a_shutdown_tells_who_waits() -> None:
    """A call that no task carries is ended with the server, told so, and settled as such."""
    async with lane() as it:
        it.target.holding = True
        client = await it.connect()
        assert await _told_of_the_end(it, client) == 503
        assert it.stage.ended == [Outcome.SHUTDOWN]


# --- with the journal, from outside ------------------------------------------------------------------------------------

CONFIG = """
workers: 1
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""


async def test_a_full_disk_refuses_calls_and_asks_nobody(tmp_path: Path) -> None:
    """What cannot be recorded is not asked: 503 to the caller, nothing to the provider; when there is room again all goes on, and
    the books hold exactly what was answered."""
    async with (
        FakeUpstream(completion(usage=usage_of(3, 5))) as upstream,
        serving(tmp_path / "data", CONFIG.format(url=upstream.url)) as server,
    ):
        key = await server.make_key(models=["assistant"])
        assert [(await server.chat(key=key)).status for _ in range(2)] == [200, 200]
        asked = upstream.requests
        (worker,) = server.workers()
        written = max(path.stat().st_size for path in server.data_dir.rglob("1.log"))
        before = resource.prlimit(worker, resource.RLIMIT_FSIZE, (written, resource.RLIM_INFINITY))
        replies = await asyncio.gather(*(server.chat(key=key) for _ in range(3)))
        assert [(reply.status, reply.json()["error"]["code"]) for reply in replies] == [(503, "journal_unavailable")] * 3
        assert upstream.requests == asked
        said = (await server.ask("GET", "/readyz", key=None)).json()
        assert said == {"ready": True, "degraded": {"journal": "the journal cannot be written: File too large"}}
        assert os.path.exists(f"/proc/{worker}")
        resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
        assert (await server.chat(key=key)).status == 200
        assert upstream.requests == asked + 1
        assert (await server.ask("GET", "/readyz", key=None)).json() == {"ready": True, "degraded": {}}
        rows = [row for row in await server.usage("key") if row["output_tokens"]]
        assert [(row["output_tokens"], row["cost_usd"]) for row in rows] == [(15, "0.000024")]
        assert await server.metric("gatehouse_running") == await server.metric("gatehouse_target_running") == 0
    code, _, error = await server.gatehouse("audit", "verify")
    assert code == 0, error
