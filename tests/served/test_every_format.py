"""What holds for every inbound format of the data port: nobody's address is fetched, no template or target is picked, nothing is parsed
that is not JSON. One route, one format: each is asked."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, completion
from tests.served.whole import Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - {{name: assistant, targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]}}
  - {{name: vectors, targets: [{{provider: lab, model: fake, operations: [embedding], price: {{input: "1", output: "1"}}}}]}}
"""
IMAGE = "https://example.org/a.png"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "assistant", "prompt": "hi"},
    "/v1/embeddings": {"model": "vectors", "input": "hi"},
    "/v1/responses": {"model": "assistant", "input": "hi"},
    "/v1/messages": {"model": "assistant", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]},
}
WITH_ADDRESS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]},
    ],
    "/v1/responses": [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": IMAGE}]}]},
    ],
    "/v1/messages": [
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": IMAGE}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": IMAGE}}]}]},
    ],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, FakeUpstream]]:
    async with (
        FakeUpstream(completion()) as upstream,
        serving(tmp_path_factory.mktemp("formats") / "data", CONFIG.format(url=upstream.url)) as server,
    ):
        yield server, upstream


@pytest.mark.parametrize("path", WITH_ADDRESS)
async def test_scenario_16_no_format_lets_an_address_through(house: tuple[Server, FakeUpstream], path: str) -> None:
    """An image or file by address is a 400 in each of them, and no target hears of it."""
    server, upstream = house
    asked = upstream.requests
    for fields in WITH_ADDRESS[path]:
        reply = await server.ask("POST", path, {**BODIES[path], **fields})
        assert reply.status == 400, (fields, reply)
    assert upstream.requests == asked


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "api_base", "base_url", "user_config", "extra_headers"])
async def test_cve_2025_62426_and_2026_115918_no_format_takes_a_template_or_a_target(
    house: tuple[Server, FakeUpstream], path: str, field: str
) -> None:
    """vLLM rendered the caller's template. Here such a field is refused by name in every format, and no setting admits it."""
    server, upstream = house
    asked = upstream.requests
    reply = await server.ask("POST", path, {**BODIES[path], field: "{{ 7 * 7 }}"})
    assert reply.status == 400
    assert field in reply.body.decode()
    assert upstream.requests == asked


@pytest.mark.parametrize("path", BODIES)
async def test_pysec_2026_1545_nothing_parses_multipart(house: tuple[Server, FakeUpstream], path: str) -> None:
    """LiteLLM's parser could be kept busy by a boundary, without a key. Here a body is JSON or a 400, and without a key it is not read."""
    server, upstream = house
    asked = upstream.requests
    boundary = "a" + "-" * 60
    body = b"--" + boundary.encode() + b"-" * 100_000
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    assert (await server.ask("POST", path, body, key=None, headers=headers)).status == 401
    assert (await server.ask("POST", path, body, headers=headers)).status == 400
    assert upstream.requests == asked
