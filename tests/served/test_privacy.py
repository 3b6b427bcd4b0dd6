"""Privacy at the edge on a whole server: what a provider really gets of who asks, on its socket."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.core.traces import parse_traceparent
from gatehouse.testing.upstream import FakeUpstream, completion, failure
from tests.served.whole import Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
providers:
  - {{name: third, kind: openai, base_url: "{url}"}}
  - {{name: ours, kind: openai-compatible, base_url: "{url}", forward: {{user: plain, metadata: true, store: true, traceparent: true}}}}
  - {{name: hashed, kind: openai-compatible, base_url: "{url}", forward: {{user: hash}}}}
  - {{name: strict, kind: mistral, base_url: "{url}", forward: {{user: hash}}}}
models:
  - {{name: strict, targets: [{{provider: strict, model: strict, price: {{input: "1", output: "1"}}}}]}}
  - {{name: third, extra_fields: [store], targets: [{{provider: third, model: third, price: {{input: "1", output: "1"}}}}]}}
  - {{name: ours, extra_fields: [store], targets: [{{provider: ours, model: ours, price: {{input: "1", output: "1"}}}}]}}
  - {{name: hashed, targets: [{{provider: hashed, model: hashed, price: {{input: "1", output: "1"}}}}]}}
  - name: falls
    fallbacks: [third]
    targets: [{{provider: ours, model: ours, price: {{input: "1", output: "1"}}}}]
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    "tracestate": "vendor=secretstate",
    "baggage": "user=secretbaggage",
    "x-custom": "secretcustom",
    "cookie": "secretcookie",
    "x-gatehouse-tags": "project=secrettag",
}
BODY = {"messages": [{"role": "user", "content": "hi"}], "user": "ann@example.com", "metadata": {"project": "apollo"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, FakeUpstream]]:
    async with (
        FakeUpstream(completion()) as upstream,
        serving(tmp_path_factory.mktemp("privacy") / "data", CONFIG.format(url=upstream.url)) as server,
    ):
        yield server, upstream


async def ask(house: tuple[Server, FakeUpstream], model: str, **fields: Any) -> list[tuple[dict[str, str], Any, str]]:
    """Headers, body and everything as text of each request that the call made."""
    server, upstream = house
    before = len(upstream.seen)
    reply = await server.ask("POST", "/v1/chat/completions", {"model": model, **BODY, **fields}, headers=HEADERS)
    assert reply.status == 200, reply
    return [(dict(seen.headers), seen.json(), f"{seen.headers}{seen.body!r}") for seen in upstream.seen[before:]]


async def test_a_third_party_is_told_the_question_and_nothing_else(house: tuple[Server, FakeUpstream]) -> None:
    """By default: no user, metadata, storing or trace; of the caller's headers none, whatever its name."""
    ((headers, body, everything),) = await ask(house, "third", store=True)
    assert not {"user", "metadata", "store"} & body.keys()
    assert not {"traceparent", "tracestate", "baggage", "cookie", "x-custom", "x-gatehouse-tags"} & headers.keys()
    for word in ("secret", "ann@example.com", "apollo", TRACE):
        assert word not in everything
    ((_, body, _),) = await ask(house, "third", store=False)
    assert body["store"] is False


async def test_what_only_advises_needs_no_list(house: tuple[Server, FakeUpstream]) -> None:
    """What applications written for OpenAI send along is taken by a model that lists none of it. Names in it go by policy."""
    advice = {"verbosity": "low", "modalities": ["text"], "service_tier": "auto", "store": False}
    names = {"safety_identifier": "ann@example.com", "prompt_cache_key": "ann@example.com"}
    ((_, body, everything),) = await ask(house, "third", **advice, **names)
    assert {name: body.get(name) for name in (*advice, *names)} == {**advice, "safety_identifier": None, "prompt_cache_key": None}
    assert "ann@example.com" not in everything
    ((_, body, everything),) = await ask(house, "hashed", **advice, **names)
    assert body["prompt_cache_key"] == body["safety_identifier"] == body["user"]
    assert (body["store"], body["verbosity"]) == (False, "low")
    assert not {"modalities", "service_tier"} & body.keys()
    assert "ann@example.com" not in everything
    ((_, body, _),) = await ask(house, "strict", **advice, **names)
    assert {*advice, *names} & body.keys() == {"prompt_cache_key"}


async def test_that_it_may_be_stored_must_be_listed(house: tuple[Server, FakeUpstream]) -> None:
    """A wish is no advice: 400 that names the field, and nothing is sent."""
    server, upstream = house
    before = len(upstream.seen)
    for fields in ({"store": True}, {"service_tier": "flex"}, {"modalities": ["text", "audio"]}):
        reply = await server.ask("POST", "/v1/chat/completions", {"model": "hashed", **BODY, **fields})
        assert (reply.status, reply.json()["error"]["param"]) == (400, next(iter(fields)))
    assert len(upstream.seen) == before


async def test_what_the_operator_forwards_arrives(house: tuple[Server, FakeUpstream]) -> None:
    """User, metadata, storing, and a child of the caller's trace; baggage, tracestate and all else still never."""
    ((headers, body, everything),) = await ask(house, "ours", store=True)
    assert (body["user"], body["metadata"], body["store"]) == ("ann@example.com", {"project": "apollo"}, True)
    child = parse_traceparent(headers["traceparent"].encode())
    assert child is not None
    assert (child.trace, child.sampled) == (TRACE, True)
    assert child.span != "00f067aa0ba902b7"
    assert "secret" not in everything


async def test_a_user_as_a_hash(house: tuple[Server, FakeUpstream]) -> None:
    """The provider can tell users apart and cannot tell who they are."""
    ((_, body, everything),) = await ask(house, "hashed")
    assert body["user"].startswith("u_")
    assert "ann@example.com" not in everything
    ((_, again, _),) = await ask(house, "hashed")
    assert again["user"] == body["user"]


async def test_each_target_of_a_call_has_its_own_policy(house: tuple[Server, FakeUpstream]) -> None:
    """A fallback to a third party is told nothing, though the first target may know everything."""
    upstream = house[1]
    upstream.will(failure(500), completion())
    try:
        first, second = await ask(house, "falls")
    finally:
        upstream.will(completion())
    assert first[1]["user"] == "ann@example.com"
    assert "user" not in second[1]
    assert "traceparent" not in second[0]
