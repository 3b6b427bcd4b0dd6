"""What makes Gatehouse fit behind other machines and in front of impatient ones: base path and proxies."""

from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, completion
from tests.served.whole import Server, serving

CONFIG = """
listen: {{base_path: /llm, trusted_proxies: ["127.0.0.0/8"]}}
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
