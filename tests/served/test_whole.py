"""The product from outside: one server process with two workers, a provider behind it, the unchanged OpenAI SDK in front."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, completion, endless, frame, http, silence, story, stream, streamed, usage_of
from tests.served.whole import Server, serving

CONFIG = """
workers: 2
drain_seconds: 5
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}", api_key: "upstream-secret-value"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "0.25", cached_input: "0.025", output: "2.00"}}}}]
  - name: cached
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
    cache: {{scope: key}}
  - name: extra
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
    extra_fields: [top_k]
    strict_audit: true
"""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(provider: FakeUpstream) -> FakeUpstream:
    provider.drop()  # idle connections of the test before
    provider.will(completion())
    return provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, provider: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("whole") / "data", CONFIG.format(url=provider.url)) as running:
        yield running


def client(server: Server, key: str = "") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key or server.key, max_retries=0, timeout=30)


MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def test_the_official_sdk(server: Server, upstream: FakeUpstream) -> None:
    """Whole, streamed, tools, errors: the openai package does not notice; ledger, trace and audit know everything afterwards."""
    upstream.will(completion("Hello there.", usage=usage_of(12, 3)))
    async with client(server) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="assistant", messages=MESSAGES)
        assert raw.parse().choices[0].message.content == "Hello there."
        assert raw.headers["x-gatehouse-cost-usd"] == "0.000009"
        assert raw.headers["x-gatehouse-target"] == "lab/fake"
        sent = upstream.seen[-1]
        assert sent.headers["authorization"] == "Bearer upstream-secret-value"
        assert (sent.json()["model"], sent.json()["messages"]) == ("fake", MESSAGES)

        upstream.will(stream(story(["Hel", "lo", "!"], usage=usage_of(7, 3))))
        texts, cost = [], None
        async for chunk in await sdk.chat.completions.create(
            model="assistant", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ):
            texts += [choice.delta.content or "" for choice in chunk.choices]
            if chunk.usage is not None:
                assert chunk.usage.total_tokens == 10
                cost = chunk.model_extra["gatehouse"]["cost_usd"]  # type: ignore[index]
        assert "".join(texts) == "Hello!"
        assert cost == "0.00000775"

        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="nothing", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="top_k"):
            await sdk.chat.completions.create(model="assistant", messages=MESSAGES, extra_body={"top_k": 3})
        await sdk.chat.completions.create(model="extra", messages=MESSAGES, extra_body={"top_k": 3}, stream=True)
        assert upstream.seen[-1].json()["top_k"] == 3
    async with client(server, "nonsense") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="assistant", messages=MESSAGES)

    call = await server.admin("GET", f"/admin/v1/requests/{raw.headers['x-gatehouse-request-id']}")
    assert [stage["stage"] for stage in call["attempts"][-1]["stages"]] == [
        "record", "identify", "read", "authorise", "route", "limit", "guard", "cache", "dispatch",
    ]  # fmt: skip
    status, out, _ = await server.gatehouse("audit", "verify", "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)


async def test_every_request_is_counted_once_and_to_the_last_digit(server: Server, upstream: FakeUpstream) -> None:
    """Five hundred calls over two workers: usage and cost are exactly theirs, as soon as anybody asks."""
    upstream.will(completion(usage=usage_of(7, 11)))
    key = await server.make_key(budget={"usd": "5", "period": "day"}, limits={"requests_per_minute": 100000, "tokens_per_minute": 10**9})

    async def some(count: int) -> None:
        for _ in range(count):
            assert (await server.chat(key=key, max_tokens=20)).status == 200

    await asyncio.gather(*(some(25) for _ in range(20)))
    rows = [row for row in await server.usage() if row["key"] == key[8:16]]
    assert rows == [{"key": key[8:16], "requests": 500, "input_tokens": 3500, "output_tokens": 5500, "cost_usd": "0.011875"}]
    meters = await server.admin("GET", "/admin/v1/meters")
    assert all(meter["balanced"] for meter in meters["data"])


async def test_scenario_39_a_budget_holds_against_a_burst(server: Server, upstream: FakeUpstream) -> None:
    """Two hundred calls at once on a budget for ten: never over the cap, and what is refused says why."""
    upstream.will(completion(usage=usage_of(100, 100)))
    # One call is held at (its prompt's bound + 100 answer tokens) and costs 100 x 0.25 + 100 x 2.00 millionths.
    key = await server.make_key(budget={"usd": "0.00225", "period": "total"})
    replies = await asyncio.gather(*(server.chat(key=key, max_tokens=100) for _ in range(200)))
    good = [reply for reply in replies if reply.status == 200]
    bad = [reply for reply in replies if reply.status != 200]
    assert {reply.status for reply in bad} == {429}
    assert {reply.json()["error"]["code"] for reply in bad} == {"insufficient_quota"}
    row = next(row for row in await server.usage() if row["key"] == key[8:16])
    assert float(row["cost_usd"]) <= 0.00225
    assert 1 <= len(good) <= 10
    assert row["requests"] == 200


@pytest.mark.parametrize(("limits", "most"), [({"requests_per_minute": 7}, 7), ({"tokens_per_minute": 1400}, 14)])
async def test_windows_hold_across_workers(server: Server, upstream: FakeUpstream, limits: dict[str, int], most: int) -> None:
    """Sixty calls of a hundred tokens at once on two workers: no more pass than the window has, the rest are told when to come back."""
    upstream.will(completion(usage=usage_of(90, 10)))
    key = await server.make_key(limits=limits)
    replies = await asyncio.gather(*(server.chat(key=key, max_tokens=10) for _ in range(60)))
    good = sum(reply.status == 200 for reply in replies)
    assert 1 <= good <= most
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == 60 - good
    assert {reply.json()["error"]["code"] for reply in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(reply.headers["retry-after"]) <= 63 for reply in refused)


async def test_concurrency_holds_across_workers(server: Server, upstream: FakeUpstream) -> None:
    """Of twenty long calls at once on two workers exactly three run; when they end others may."""
    upstream.will(silence)
    key = await server.make_key(limits={"concurrency": 3})
    calls = [asyncio.create_task(server.chat(key=key)) for _ in range(20)]
    done: set[asyncio.Task[Any]] = set()
    async with asyncio.timeout(20):
        while len(done) < 17:
            done, _ = await asyncio.wait(calls, timeout=0.1)
    assert {task.result().status for task in done} == {429}
    assert {task.result().json()["error"]["code"] for task in done} == {"concurrency_exceeded"}
    await upstream.until(lambda up: up.connections == 3)
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await upstream.until(lambda up: up.connections == 0)
    upstream.will(completion())
    async with asyncio.timeout(10):
        while (await server.chat(key=key)).status != 200:
            await asyncio.sleep(0.1)


async def test_scenario_38_a_revoked_key_ends_at_once(server: Server, upstream: FakeUpstream) -> None:
    """Revoked: the running stream ends with an error event, new calls are a 401, on every worker."""
    upstream.will(endless(gap=0.01))
    key = await server.make_key()
    async with client(server, key) as sdk:
        running = await sdk.chat.completions.create(model="assistant", messages=MESSAGES, stream=True)
        await anext(running)
        await server.admin("DELETE", f"/admin/v1/keys/{key[8:16]}")

        async def to_the_end() -> None:
            async for _ in running:
                pass

        with pytest.raises(openai.APIError, match="revoked"):
            await asyncio.wait_for(to_the_end(), 5)
    await upstream.until(lambda up: up.connections == 0)
    assert {(await server.chat(key=key)).status for _ in range(6)} == {401}


async def test_scenario_19_clients_that_leave(server: Server, upstream: FakeUpstream) -> None:
    """64 streams cut by the client at random points: closed upstream in a second, slots back, tokens billed once, gauges at zero."""
    upstream.will(endless(gap=0.002))
    key = await server.make_key(limits={"concurrency": 64}, budget={"usd": "10", "period": "day"})

    async def cut(after: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = json.dumps({"model": "assistant", "stream": True, "messages": MESSAGES}).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readexactly(after)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    await asyncio.gather(*(cut(200 + 97 * number) for number in range(64)))
    await upstream.until(lambda up: up.connections == 0, seconds=1.0)
    async with asyncio.timeout(10):
        while True:
            rows = [row for row in await server.usage("key,outcome") if row["key"] == key[8:16]]
            if sum(row["requests"] for row in rows) == 64:
                break
            await asyncio.sleep(0.05)
    assert [row["outcome"] for row in rows] == ["client"]
    assert rows[0]["output_tokens"] >= 64
    assert float(rows[0]["cost_usd"]) > 0
    for gauge in ("gatehouse_running", "gatehouse_target_running"):
        assert await server.metric(gauge) == 0
    upstream.will(completion())
    replies = await asyncio.gather(*(server.chat(key=key) for _ in range(64)))
    assert {reply.status for reply in replies} == {200}


async def test_a_cached_answer_costs_nothing(server: Server, upstream: FakeUpstream) -> None:
    """The second identical call on the same worker is a hit, whole or streamed; another key never sees it."""
    key = await server.make_key(budget={"usd": "1", "period": "day"})
    replies = [await server.chat("same", model="cached", key=key) for _ in range(12)]
    kinds = [reply.headers["x-gatehouse-cache"] for reply in replies]
    assert kinds.count("miss") <= 2  # one a worker
    assert kinds.count("hit") == 12 - kinds.count("miss")
    assert {reply.json()["choices"][0]["message"]["content"] for reply in replies} == {"Hello there."}
    assert {reply.headers["x-gatehouse-cost-usd"] for reply in replies if reply.headers["x-gatehouse-cache"] == "hit"} == {"0"}
    asked = upstream.requests
    other = await server.make_key()
    assert (await server.chat("same", model="cached", key=other)).headers["x-gatehouse-cache"] == "miss"
    assert upstream.requests == asked + 1


async def test_secrets_do_not_pass(server: Server, upstream: FakeUpstream) -> None:
    """A credential in a prompt is refused before anything is sent; one in an answer leaves redacted, streamed or not."""
    token = "ghp_" + "a1B2c3D4e5F6" * 3
    before = upstream.requests
    reply = await server.chat(f"my token is {token}")
    assert (reply.status, upstream.requests) == (400, before)
    assert token not in reply.body.decode()
    upstream.will(completion(f"use {token} please"))
    assert token not in (await server.chat()).body.decode()
    pieces = ["use ", token[:3], token[3:20], token[20:], " please"]
    upstream.will(streamed(story(pieces)))
    text = (await server.chat(stream=True)).body.decode()
    assert token[3:20] not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_secrets_in_members_nobody_knows(server: Server, upstream: FakeUpstream) -> None:
    """What a provider writes into members of its own leaves only where no guard has to have read it."""
    token = "ghp_" + "a1B2c3D4e5F6" * 3
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hello", "notes": token}, "finish_reason": "stop"}]}
    upstream.will(http(json.dumps(answer).encode()))
    reply = await server.chat()
    assert reply.json()["choices"][0]["message"]["content"] == "hello"
    assert token not in reply.body.decode()
    piece = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello", "notes": token}, "finish_reason": None}]}
    upstream.will(stream([frame(piece), *story([])[1:]]))
    text = (await server.chat(stream=True)).body.decode()
    assert "hello" in text
    assert token not in text


async def test_rows_16_and_17_no_field_picks_a_target(server: Server, upstream: FakeUpstream) -> None:
    """CVE-2024-6587, PYSEC-2026-4070: api_base and its kin are refused by name, at the top or below; nothing is contacted."""
    before = upstream.requests
    message = {"role": "user", "content": "hi", "base_url": upstream.url}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("api_base", {"api_base": upstream.url}),
        ("user_config", {"user_config": {"model_list": []}}),
        ("base_url", {"base_url": "http://127.0.0.1:1"}),
        ("base_url", {"messages": [message]}),
        ("api_base", {"metadata": {"api_base": "x"}}),
    ]
    for name, fields in bodies:
        reply = await server.chat(**fields)
        assert reply.status == 400, fields
        assert name in reply.json()["error"]["message"]
    assert upstream.requests == before


async def test_row_35_request_ids_are_ours(server: Server) -> None:
    """CVE-2026-116176: a client's request id is neither used nor parsed."""
    reply = await server.ask(
        "POST", "/v1/chat/completions", {"model": "assistant", "messages": MESSAGES}, headers={"x-request-id": "10.0.0.1:80/evil"}
    )
    assert reply.headers["x-gatehouse-request-id"].startswith("req_")


async def test_row_18_no_secret_in_any_log(server: Server, upstream: FakeUpstream) -> None:
    """CVE-2024-9606: after good and bad calls and upstream failures, no key, prompt or credential stands in log or database."""
    from gatehouse.testing.upstream import failure

    key = await server.make_key()
    await server.chat("a-canary-prompt-text", key=key)
    upstream.will(failure(401, "bad key upstream-secret-value"), failure(500, "boom"), b"nonsense")
    for _ in range(3):
        reply = await server.chat("a-canary-prompt-text", key=key)
        assert "upstream-secret-value" not in reply.body.decode()
    await server.usage()
    await server.stop()
    kept = server.log.read_bytes() + b"".join(
        path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file() and path.name != "admin.key"
    )
    for secret in (key, server.key, "upstream-secret-value", "a-canary-prompt-text"):
        assert secret.encode() not in kept
