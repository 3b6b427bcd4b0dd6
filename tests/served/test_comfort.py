"""What makes Gatehouse fit behind other machines and in front of impatient ones: base path, proxies, retries, silent streams."""

import asyncio
import json
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, completion, story, stream, usage_of
from tests.served.whole import Reply, Server, serving

CONFIG = """
workers: 2
listen: {{base_path: /llm, trusted_proxies: ["127.0.0.0/8"], http: {{stream_comment_seconds: 0.2}}}}
attribution: {{peer: keep}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(provider: FakeUpstream) -> FakeUpstream:
    provider.drop()
    provider.will(completion())
    return provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, provider: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("comfort") / "data", CONFIG.format(url=provider.url)) as running:
        yield running


CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}


async def test_everything_stands_below_the_base_path(server: Server, upstream: FakeUpstream) -> None:
    """The SDK, the command line, which finds the path by itself, and health; nothing answers beside it."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as sdk:
        assert (await sdk.models.list()).data[0].id == "assistant"
        answer = await sdk.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello there."
    status, out, err = await server.gatehouse("chat", "Hi")
    assert (status, out.strip()) == (0, "Hello there."), err
    assert [(await server.ask("GET", path, key=None)).status for path in ("/livez", "/llm/livez", "/llm/readyz")] == [200, 200, 200]
    beside = await server.ask("POST", "/v1/chat/completions", CHAT)
    assert beside.status == 404
    assert "/llm/v1/chat/completions" in beside.json()["error"]["message"]


async def test_records_name_who_a_trusted_proxy_heard(server: Server, upstream: FakeUpstream) -> None:
    """The address in a call's record is the client's, not the proxy's; what the client wrote himself counts for nothing."""
    reply = await server.ask("POST", "/llm/v1/chat/completions", CHAT, headers={"x-forwarded-for": "6.6.6.6, 203.0.113.9"})
    trace = await server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert trace["peer"] == "203.0.113.9"
    bad = await server.ask("POST", "/llm/v1/chat/completions", CHAT, key="nobodys", headers={"x-forwarded-for": "203.0.113.10"})
    assert bad.status == 401
    trace = await server.admin("GET", f"/admin/v1/requests/{bad.headers['x-gatehouse-request-id']}")
    assert (trace["peer"], trace["attempts"][-1]["error"]) == ("203.0.113.10", "invalid_api_key")


async def test_scenario_37_a_request_sent_again_is_charged_once(server: Server, upstream: FakeUpstream) -> None:
    """The same request fifty times at once over two workers, and once more: one call upstream, one in the ledger, one answer for all;
    another body under the same key is a 422."""
    upstream.will(completion("Once.", usage=usage_of(10, 10)))
    key = await server.make_key(budget={"usd": "1", "period": "day"})
    before = upstream.requests

    def ask(text: str = "hi") -> "asyncio.Future[Reply]":
        body = {"model": "assistant", "messages": [{"role": "user", "content": text}]}
        return asyncio.ensure_future(server.ask("POST", "/llm/v1/chat/completions", body, key=key, headers={"idempotency-key": "n-1"}))

    replies: list[Reply] = [reply for times in (50, 1) for reply in await asyncio.gather(*(ask() for _ in range(times)))]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1
    assert [reply.headers.get("x-gatehouse-replayed") for reply in replies].count("true") == 50
    assert upstream.requests == before + 1
    rows = [row for row in await server.usage() if row["key"] == key[8:16]]
    assert [(row["requests"], row["cost_usd"]) for row in rows] == [(1, "0.00002")]
    other: list[Reply] = await asyncio.gather(*(ask("something else") for _ in range(6)))
    assert {(reply.status, reply.json()["error"]["code"]) for reply in other} == {(422, "idempotency_key_reused")}


async def test_a_client_that_lost_its_connection_asks_again(server: Server, upstream: FakeUpstream) -> None:
    """The call goes on without it; asked again, whichever worker answers, the stream is there whole and was paid for once."""
    go = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        await go.wait()
        wire.write(stream(story()))

    upstream.will(slow)
    before = upstream.requests
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = f"POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\nidempotency-key: lost\r\n"
    _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await upstream.until(lambda up: up.requests == before + 1)
    writer.transport.abort()
    again = [
        asyncio.ensure_future(server.ask("POST", "/llm/v1/chat/completions", {**CHAT, "stream": True}, headers={"idempotency-key": "lost"}))
        for _ in range(4)
    ]
    go.set()
    replies = await asyncio.gather(*again)
    assert {reply.body.replace(b": keep-alive\n\n", b"").count(b"data: ") for reply in replies} == {replies[0].body.count(b"data: ")}
    assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
    assert upstream.requests == before + 1


async def test_a_long_prefill_is_not_taken_for_dead(server: Server, upstream: FakeUpstream) -> None:
    """Comments come while the target is silent; the SDK passes over them; another target may still be tried behind them."""
    go = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        await go.wait()
        wire.write(stream(story(["well"])))

    upstream.will(slow)
    body = json.dumps({**CHAT, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(10):
        assert b"x-gatehouse-target" not in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b": keep-alive\n\n")
        go.set()
        rest = await reader.read()
    writer.close()
    assert b"well" in rest
    go.clear()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as sdk:
        running = asyncio.ensure_future(
            sdk.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "hi"}], stream=True)
        )
        chunks = await asyncio.wait_for(running, 10)  # the head, which only a comment can have sent
        go.set()
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]) == "well"
