"""`/v1/models` on a whole server: what a key may ask for, and no word about the rest."""

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream
from tests.served.whole import Server, serving

CONFIG = """
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, context_window: 8000, price: {{input: "1", output: "1"}}}}]
    max_output_tokens: 512
  - name: team/large
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: team/small
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""
ANTHROPIC = {"anthropic-version": "2023-06-01"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with FakeUpstream() as upstream, serving(tmp_path_factory.mktemp("models") / "data", CONFIG.format(url=upstream.url)) as running:
        yield running


async def test_the_official_sdk_lists_and_looks_up(server: Server) -> None:
    """Every model in the order of the file; a look-up by an id with a slash; figures a program needs to fit its prompts."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as sdk:
        found = [model async for model in sdk.models.list()]
        assert [model.id for model in found] == ["assistant", "team/large", "team/small"]
        assert {(model.object, model.owned_by) for model in found} == {("model", "gatehouse")}
        assert found[0].to_dict() | {"context_window": 8000, "max_output_tokens": 512} == found[0].to_dict()
        assert (await sdk.models.retrieve("team/large")).id == "team/large"
        with pytest.raises(openai.NotFoundError, match="no model named 'nothing'"):
            await sdk.models.retrieve("nothing")


async def test_a_key_sees_what_it_may_ask_for(server: Server) -> None:
    """A narrow key's list holds its grant only, and a model beyond it answers like one that does not exist."""
    key = await server.make_key(models=["team/*"])
    listed = await server.ask("GET", "/v1/models", key=key)
    assert [each["id"] for each in listed.json()["data"]] == ["team/large", "team/small"]
    hidden = await server.ask("GET", "/v1/models/assistant", key=key)
    nowhere = await server.ask("GET", "/v1/models/nowhere1x", key=key)
    assert hidden.status == nowhere.status == 404
    assert (
        hidden.body.replace(b"assistant", b"").split(b'"request_id"')[0]
        == nowhere.body.replace(b"nowhere1x", b"").split(b'"request_id"')[0]
    )


async def test_who_may_not(server: Server) -> None:
    """No key is a 401, a revoked one too, and a role that may not call models is a 403."""
    assert (await server.ask("GET", "/v1/models", key=None)).status == 401
    made = await server.admin("POST", "/admin/v1/keys", {"name": "short"})
    assert (await server.ask("GET", "/v1/models", key=made["key"])).status == 200
    await server.admin("DELETE", f"/admin/v1/keys/{made['id']}")
    assert (await server.ask("GET", "/v1/models", key=made["key"])).status == 401
    viewer = await server.make_key(roles=["viewer"])
    assert (await server.ask("GET", "/v1/models", key=viewer)).status == 403


async def test_anthropics_shape(server: Server) -> None:
    """With `anthropic-version` the list and the look-up are Anthropic's, pages included."""
    first = (await server.ask("GET", "/v1/models?limit=2", headers=ANTHROPIC)).json()
    assert [each["id"] for each in first["data"]] == ["assistant", "team/large"]
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("assistant", "team/large", True)
    assert first["data"][0] == {"type": "model", "id": "assistant", "display_name": "assistant", "created_at": "1970-01-01T00:00:00Z"}
    second = (await server.ask("GET", "/v1/models?limit=2&after_id=team%2Flarge", headers=ANTHROPIC)).json()
    assert ([each["id"] for each in second["data"]], second["has_more"]) == (["team/small"], False)
    back = (await server.ask("GET", "/v1/models?limit=1&before_id=team%2Fsmall", headers=ANTHROPIC)).json()
    assert ([each["id"] for each in back["data"]], back["has_more"]) == (["team/large"], True)
    assert (await server.ask("GET", "/v1/models/team/small", headers=ANTHROPIC)).json()["type"] == "model"
    for query in ("limit=0", "limit=1001", "limit=x", "after_id=nobody", "after_id=assistant&before_id=assistant", "page=2"):
        assert (await server.ask("GET", f"/v1/models?{query}", headers=ANTHROPIC)).status == 400, query


async def test_anthropics_package_pages_by_itself(server: Server) -> None:
    """One model a page, forwards and backwards, in the package's own list and its beta; the last page says that nothing follows."""
    names = ["assistant", "team/large", "team/small"]
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key=server.key, max_retries=0) as sdk:
        assert [model.id async for model in sdk.models.list(limit=1)] == names
        assert [model.id async for model in sdk.beta.models.list(limit=2)] == names
        assert [model.id async for model in sdk.models.list(limit=1, before_id="team/small")] == ["team/large", "assistant"]
        page = await sdk.models.list(limit=1, after_id="team/large")
        assert (page.first_id, page.last_id, page.has_more) == ("team/small", "team/small", False)
        assert (await sdk.models.list()).has_more is False


async def test_paths_that_are_not_here(server: Server) -> None:
    """Files, batches and what nobody ever heard of: a 404 that says what works."""
    for path in ("/v1/files", "/v1/batches", "/v1/batches/b1/cancel", "/v1/fine_tuning/jobs", "/anything"):
        for method in ("GET", "POST"):
            reply = await server.ask(method, path, {} if method == "POST" else None)
            assert (reply.status, reply.json()["error"]["code"]) == (404, "unknown_path"), path
            assert "POST /v1/chat/completions" in reply.json()["error"]["message"]
            assert "GET /v1/models" in reply.json()["error"]["message"]


async def test_they_are_counted(server: Server) -> None:
    """Each look at the list is in the metrics, by declared path and status; none of it is in the ledger."""
    before = await server.metric("gatehouse_errands_total")
    await server.ask("GET", "/v1/models")
    after = await server.metric("gatehouse_errands_total")
    assert after == before + 1
    assert await server.usage() == []
