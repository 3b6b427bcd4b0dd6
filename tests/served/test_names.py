"""Names on a whole server: aliases, and models asked for by their provider's name."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, completion, usage_of
from tests.served.whole import Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
prices: {{on_unknown: block}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}", passthrough: true}}
  - {{name: openai, kind: openai-compatible, base_url: "{url}", passthrough: ["gpt-5*"]}}
  - {{name: shut, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    aliases: [fast, gpt-4]
    targets: [{{provider: shut, model: fake, price: {{input: "1", output: "1"}}}}]
"""
FREE = CONFIG.replace("on_unknown: block", "on_unknown: zero")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, FakeUpstream]]:
    async with (
        FakeUpstream(completion(usage=usage_of(3, 5))) as upstream,
        serving(tmp_path_factory.mktemp("names") / "data", FREE.format(url=upstream.url)) as server,
    ):
        yield server, upstream


async def test_an_alias_is_booked_under_the_models_own_name(house: tuple[Server, FakeUpstream]) -> None:
    """In the ledger and the metrics there is one name; the list of models has each name."""
    server, _ = house
    key = await server.make_key(models=["assistant"])
    assert {(await server.chat(model=name, key=key)).status for name in ("assistant", "fast", "gpt-4")} == {200}
    (row,) = [row for row in await server.usage("key,model") if row["key"] == key[8:16]]
    assert (row["model"], row["requests"]) == ("assistant", 3)
    listed = (await server.ask("GET", "/v1/models", key=key)).json()["data"]
    assert [model["id"] for model in listed] == ["assistant", "fast", "gpt-4"]
    metrics = (await server.ask("GET", "/metrics", admin=True, key=None)).body
    assert b'model="gpt-4"' not in metrics


async def test_a_grant_of_an_alias_is_for_that_name_only(house: tuple[Server, FakeUpstream]) -> None:
    """And a pattern reads own names only: nobody reaches further because an alias was added."""
    server, _ = house
    alias = await server.make_key(models=["fast"])
    assert (await server.chat(model="fast", key=alias)).status == 200
    assert (await server.chat(model="assistant", key=alias)).status == 403
    assert [model["id"] for model in (await server.ask("GET", "/v1/models", key=alias)).json()["data"]] == ["fast"]
    pattern = await server.make_key(models=["gpt-*"])
    assert (await server.chat(model="gpt-4", key=pattern)).status == 403
    assert (await server.ask("GET", "/v1/models", key=pattern)).json()["data"] == []


async def test_a_model_by_its_providers_name(house: tuple[Server, FakeUpstream]) -> None:
    """Asked for without a listing: the target gets the name behind the provider's, the ledger has it, and metrics have the provider."""
    server, upstream = house
    reply = await server.chat(model="lab/meta/llama-3.1@turbo")
    assert reply.status == 200, reply
    assert upstream.seen[-1].json()["model"] == "meta/llama-3.1@turbo"
    (row,) = [row for row in await server.usage("model,target") if row["model"].startswith("lab/")]
    assert (row["model"], row["target"]) == ("lab/meta/llama-3.1@turbo", "lab/*")
    metrics = (await server.ask("GET", "/metrics", admin=True, key=None)).body
    assert b"llama" not in metrics
    assert b'model="lab/*"' in metrics


async def test_only_what_is_open_and_granted(house: tuple[Server, FakeUpstream]) -> None:
    """A provider that is not open, a name no pattern covers, a key without the grant: nothing is asked of anybody."""
    server, upstream = house
    asked = upstream.requests
    for name in ("shut/fake", "openai/gpt-4", "nobody/x", "lab/../x", "lab/", "openai/gpt-5/../../admin"):
        assert (await server.chat(model=name)).status == 404, name
    key = await server.make_key(models=["openai/*"])
    assert (await server.chat(model="lab/x", key=key)).status == 403
    assert upstream.requests == asked
    assert (await server.chat(model="openai/gpt-5-mini", key=key)).status == 200
    assert (await server.chat(model="openai/gpt-4", key=key)).status == 404


async def test_a_model_of_unknown_price_is_not_run_when_the_operator_says_so(house: tuple[Server, FakeUpstream]) -> None:
    """The policy on unknown prices holds for unlisted models as for any; a reload takes it up for names that were asked for before."""
    server, upstream = house
    assert (await server.chat(model="lab/new")).status == 200
    server.config.write_text(CONFIG.format(url=upstream.url))
    try:
        reply = await server.chat(model="lab/new")
        while reply.status == 200:
            reply = await server.chat(model="lab/new")
        assert (reply.status, reply.json()["error"]["code"]) == (503, "price_unknown")
    finally:
        server.config.write_text(FREE.format(url=upstream.url))
