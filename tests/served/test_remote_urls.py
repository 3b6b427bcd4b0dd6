"""Scenario 16 on a whole server: an address in a call is refused, fetched by us, or left to the target, as the model says."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, completion
from tests.adapters.fetching.test_web import PNG, Site, site
from tests.served.whole import Reply, Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
fetch: {{http: true, ports: [{port}], networks: [127.0.0.2/32], max_per_call: 2}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: refuses
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: fetches
    remote_urls: fetch
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: blind
    remote_urls: fetch
    guard: {{unscannable: {{image: deny}}}}
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: passes
    remote_urls: pass
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""


class House:
    """The server, what stands behind it, a site that may be fetched from, and one on the same port that may not."""

    def __init__(self, server: Server, upstream: FakeUpstream, pictures: Site, trap: Site) -> None:
        self.server, self.upstream, self.pictures, self.trap = server, upstream, pictures, trap

    def url(self, host: str) -> str:
        return f"http://{host}:{self.pictures.port}/a.png"

    async def ask(self, model: str, *urls: str, key: str = "") -> Reply:
        parts: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
        parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {"model": model, "messages": [{"role": "user", "content": parts}]}
        return await self.server.ask("POST", "/v1/chat/completions", body, key=key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with FakeUpstream(completion()) as upstream, site() as trap, site(host="127.0.0.2", port=trap.port) as pictures:
        config = CONFIG.format(url=upstream.url, port=trap.port)
        async with serving(tmp_path_factory.mktemp("remote") / "data", config) as server:
            yield House(server, upstream, pictures, trap)


def sent(house: House) -> list[Any]:
    return list(house.upstream.seen[-1].json()["messages"][0]["content"])


async def test_scenario_16_addresses_are_refused_unless_the_model_says_otherwise(house: House) -> None:
    """400 that names the place and what to send instead; neither the site nor the target hears of it."""
    asked, fetched = house.upstream.requests, house.pictures.connections
    reply = await house.ask("refuses", house.url("127.0.0.2"))
    assert reply.status == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("remote_url_refused", "messages[0].content[1]")
    assert "data: URL" in error["message"]
    assert (house.upstream.requests, house.pictures.connections) == (asked, fetched)


async def test_scenario_16_what_is_fetched_reaches_the_target_as_content(house: House) -> None:
    """The target gets a data: URL and no address; the same address twice is fetched once; the call's record says that we fetched."""
    before = house.pictures.connections
    reply = await house.ask("fetches", house.url("127.0.0.2"), house.url("127.0.0.2"))
    assert reply.status == 200, reply
    _, first, second = sent(house)
    assert first == second
    assert first["image_url"]["url"].startswith("data:image/png;base64,")
    assert house.pictures.connections == before + 1
    record = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert record["attempts"][-1]["flags"] == ["remote_content"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "[64:ff9b::7f00:1]"])
async def test_scenario_16_nothing_private_is_connected_to(house: House, host: str) -> None:
    """400, no connection and no call of the target, however the address is written."""
    asked = house.upstream.requests
    reply = await house.ask("fetches", house.url(host))
    assert (reply.status, reply.json()["error"]["code"]) == (400, "remote_url_refused")
    assert (house.upstream.requests, house.trap.connections) == (asked, 0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://127.0.0.1/x", "http:/127.0.0.1", "javascript:alert(1)"])
@pytest.mark.parametrize("model", ["refuses", "fetches", "passes"])
async def test_scenario_16_other_schemes_are_refused_everywhere(house: House, model: str, url: str) -> None:
    """Before any policy is looked at."""
    asked = house.upstream.requests
    assert (await house.ask(model, url)).status == 400
    assert house.upstream.requests == asked


async def test_cve_2026_25960_and_105758_the_number_of_addresses_is_bounded(house: House) -> None:
    """vLLM fetched as many as a call named. Here the third of two is refused, and none is fetched then."""
    before = house.pictures.connections
    reply = await house.ask("fetches", *[house.url("127.0.0.2") + f"?{number}" for number in range(3)])
    assert (reply.status, reply.json()["error"]["code"]) == (400, "remote_url_refused")
    assert house.pictures.connections == before


async def test_nobody_without_a_grant_makes_us_connect(house: House) -> None:
    """Fetching comes after key, grant, route, limit and guard: none of those refused has made a packet leave."""
    before = house.pictures.connections
    other = await house.server.make_key(models=["refuses"])
    broke = await house.server.make_key(budget={"usd": "0.000001", "period": "total"})
    assert (await house.ask("fetches", house.url("127.0.0.2"), key="gh_live_nobody")).status == 401
    assert (await house.ask("fetches", house.url("127.0.0.2"), key=other)).status == 403
    assert (await house.ask("fetches", house.url("127.0.0.2"), key=broke)).status == 429
    assert (await house.ask("blind", house.url("127.0.0.2"))).json()["error"]["code"] == "unscannable"
    assert house.pictures.connections == before


async def test_what_a_site_does_wrong_is_told_as_such(house: House) -> None:
    """400 with what was wrong with the address's content, and no byte of it."""
    house.pictures.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret"
    try:
        reply = await house.ask("fetches", house.url("127.0.0.2"))
    finally:
        house.pictures.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(PNG) + PNG
    assert reply.status == 400
    assert "does not hold a PNG" in reply.json()["error"]["message"]
    assert b"secret" not in reply.body


async def test_a_model_that_passes_addresses_on_gets_public_ones_only(house: House) -> None:
    """As the caller wrote them; what shows by itself to be of a local network is refused (CVE-2026-24779)."""
    public = "https://example.org/a.png"
    assert (await house.ask("passes", public)).status == 200
    assert sent(house)[1]["image_url"]["url"] == public
    asked = house.upstream.requests
    for url in ("https://127.0.0.1/a.png", "https://localhost/a", "http://example.org/a.png", "https://metadata.google.internal/"):
        assert (await house.ask("passes", url)).status == 400
    assert house.upstream.requests == asked
    assert house.trap.connections == 0
