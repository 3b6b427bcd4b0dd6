"""Completions and embeddings on a whole server, with the unchanged `openai` package in front and a provider behind."""

import asyncio
import json
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, frame, http, stream
from tests.served.whole import Server, serving

CONFIG = """
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}", api_key: "upstream-secret-value"}}
models:
  - name: text
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "2"}}, context_window: 4000}}]
  - name: vectors
    targets: [{{provider: lab, model: embed, operations: [embedding], price: {{input: "1", output: "0"}}, context_window: 1000}}]
    cache: {{}}
  - name: strict
    targets: [{{provider: lab, model: embed, operations: [embedding], price: {{input: "1", output: "0"}}}}]
    guard: {{unscannable: {{tokens: deny}}}}
  - name: chatting
    targets: [{{provider: lab, model: fake, operations: [chat], price: {{input: "1", output: "2"}}}}]
    fallbacks: [vectors]
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def text(*texts: str, usage: tuple[int, int] = (3, 5), **choice: Any) -> bytes:
    choices = [{"text": each, "index": index, "logprobs": None, "finish_reason": "stop", **choice} for index, each in enumerate(texts)]
    body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "fake", "choices": choices}
    return http(json.dumps({**body, "usage": counted(*usage)}).encode())


def counted(into: int, out: int) -> dict[str, int]:
    return {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}


async def embed(seen: Seen, wire: Wire) -> None:
    """One vector for each input: its length, and -1; in the format that was asked for."""
    asked = seen.json()
    inputs = asked["input"] if isinstance(asked["input"], list) and not isinstance(asked["input"][0], int) else [asked["input"]]
    vectors: list[Any] = [[float(len(each)), -1.0] for each in inputs]
    if asked.get("encoding_format") == "base64":
        vectors = [b64encode(struct.pack("<2f", *each)).decode() for each in vectors]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    wire.write(http(json.dumps({"object": "list", "data": data, "model": "embed", "usage": usage}).encode()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(provider: FakeUpstream) -> FakeUpstream:
    provider.drop()
    provider.will(text("Hello."))
    return provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, provider: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("operations") / "data", CONFIG.format(url=provider.url)) as running:
        yield running


def client(server: Server, key: str = "") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key or server.key, max_retries=0, timeout=30)


async def test_completions_with_the_official_sdk(server: Server, upstream: FakeUpstream) -> None:
    """Whole and streamed, one prompt and several: what the provider said, at its price, on its own path."""
    async with client(server) as sdk:
        upstream.will(text(" upon a time", usage=(10, 5)))
        raw = await sdk.completions.with_raw_response.create(model="text", prompt="Once", max_tokens=20)
        assert raw.parse().choices[0].text == " upon a time"
        assert raw.headers["x-gatehouse-cost-usd"] == "0.00002"
        assert upstream.seen[-1].path == "/v1/completions"
        assert upstream.seen[-1].json() == {"model": "fake", "prompt": "Once", "max_tokens": 20}

        upstream.will(text("a", "b"))
        both = await sdk.completions.create(model="text", prompt=["x", "y"])
        assert [choice.text for choice in both.choices] == ["a", "b"]
        assert upstream.seen[-1].json()["max_tokens"] == 16

        pieces = [{"text": each, "index": 0, "finish_reason": None} for each in ("on", "ce")] + [
            {"text": "", "index": 0, "finish_reason": "stop"}
        ]
        frames = [frame({"id": "c", "object": "text_completion", "created": 1, "model": "fake", "choices": [each]}) for each in pieces]
        upstream.will(stream([*frames, frame({"choices": [], "usage": counted(4, 2)}), frame("[DONE]")]))
        texts, told = "", None
        async for chunk in await sdk.completions.create(model="text", prompt="x", stream=True, stream_options={"include_usage": True}):
            texts += "".join(choice.text for choice in chunk.choices)
            told = chunk.usage or told
        assert texts == "once"
        assert told is not None
        assert told.total_tokens == 6


async def test_completions_with_the_synchronous_sdk(server: Server, upstream: FakeUpstream) -> None:
    """The other client class, in a thread of its own."""

    def ask() -> str:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as sdk:
            return sdk.completions.create(model="text", prompt="x").choices[0].text + str(len(sdk.models.list().data))

    assert await asyncio.to_thread(ask) == "Hello.4"


async def test_embeddings_with_the_official_sdk(server: Server, upstream: FakeUpstream) -> None:
    """Text, texts and tokens; base64, which the package asks for by itself, and numbers; the price of what went in."""
    upstream.will(embed)
    async with client(server) as sdk:
        raw = await sdk.embeddings.with_raw_response.create(model="vectors", input=["abc", "abcdef"])
        assert [each.embedding for each in raw.parse().data] == [[3.0, -1.0], [6.0, -1.0]]
        assert upstream.seen[-1].path == "/v1/embeddings"
        assert upstream.seen[-1].json() == {"model": "embed", "input": ["abc", "abcdef"], "encoding_format": "base64"}
        assert raw.headers["x-gatehouse-cost-usd"] == "0.000004"
        numbers = await sdk.embeddings.create(model="vectors", input=[1, 2, 3, 4], dimensions=2, encoding_format="float")
        assert numbers.data[0].embedding == [4.0, -1.0]
        assert upstream.seen[-1].json() == {"model": "embed", "input": [1, 2, 3, 4], "dimensions": 2, "encoding_format": "float"}


async def test_a_target_that_knows_one_format_serves_both(server: Server, upstream: FakeUpstream) -> None:
    """Numbers from a provider that knows nothing else leave as base64 for who asked for it, exactly."""
    vector = [0.1, -2.5]
    upstream.will(http(json.dumps({"object": "list", "data": [{"index": 0, "embedding": vector}], "model": "embed"}).encode()))
    reply = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": "one format", "encoding_format": "base64"})
    assert reply.json()["data"][0]["embedding"] == b64encode(struct.pack("<2f", *vector)).decode()


async def test_the_ledger_knows_what_was_done(server: Server, upstream: FakeUpstream) -> None:
    """A call's trace says which operation it was, with its tokens and cost; an answer without usage is estimated from its input."""
    reply = await server.ask("POST", "/v1/completions", {"model": "text", "prompt": "x"})
    trace = await server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert (trace["operation"], used(trace)) == ("completion", {"input": 3, "output": 5})
    upstream.will(http(b'{"object":"list","data":[{"index":0,"embedding":[1]}],"model":"embed"}'))
    reply = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": [[7] * 40]})
    trace = await server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert (trace["operation"], used(trace)) == ("embedding", {"input": 40})
    assert trace["attempts"][-1]["flags"] == ["estimated_usage"]


def used(trace: dict[str, Any]) -> dict[str, int]:
    return {bucket: tokens for bucket, tokens in trace["attempts"][-1]["usage"].items() if tokens}


async def test_operations_and_models(server: Server, upstream: FakeUpstream) -> None:
    """A model is asked for what it does and nothing else, and its fallbacks too; the refusal says what it takes."""
    before = upstream.requests
    for path, model in (("/v1/embeddings", "text"), ("/v1/chat/completions", "vectors"), ("/v1/completions", "chatting")):
        body: dict[str, Any] = {"model": model, "input": "x"} if "emb" in path else {"model": model, "prompt": "x"}
        if "chat" in path:
            body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        reply = await server.ask("POST", path, body)
        assert (reply.status, reply.json()["error"]["code"]) == (400, "unsupported_operation"), path
    assert upstream.requests == before
    listed = (await server.ask("GET", "/v1/models")).json()["data"]
    assert {each["id"]: each["operations"] for each in listed}["vectors"] == ["embedding"]
    assert {each["id"]: each["operations"] for each in listed}["text"] == ["chat", "completion"]


async def test_guards_read_prompts_and_inputs(server: Server, upstream: FakeUpstream) -> None:
    """A credential in a prompt, a suffix or an input is refused by its place; token ids pass only where the policy lets them."""
    token = "ghp_" + "a1B2c3D4e5F6" * 3
    before = upstream.requests
    for path, body, place in (
        ("/v1/completions", {"model": "text", "prompt": ["fine", f"my {token}"]}, "prompt[1]"),
        ("/v1/completions", {"model": "text", "prompt": "fine", "suffix": token}, "suffix"),
        ("/v1/embeddings", {"model": "vectors", "input": token}, "input[0]"),
        ("/v1/embeddings", {"model": "strict", "input": [1, 2]}, "input[0]"),
    ):
        reply = await server.ask("POST", path, body)
        assert (reply.status, reply.json()["error"]["param"]) == (400, place)
        assert token not in reply.body.decode()
    assert upstream.requests == before
    upstream.will(text(f"use {token} now"))
    reply = await server.ask("POST", "/v1/completions", {"model": "text", "prompt": "x"})
    assert (reply.status, token in reply.body.decode()) == (200, False)


async def test_embeddings_are_cached(server: Server, upstream: FakeUpstream) -> None:
    """The second identical call is a hit that costs nothing; `Cache-Control: no-cache` asks the target again, no-store keeps nothing."""
    upstream.will(embed)
    body = {"model": "vectors", "input": "to be kept"}
    replies = [await server.ask("POST", "/v1/embeddings", body) for _ in range(2)]
    assert [reply.headers["x-gatehouse-cache"] for reply in replies] == ["miss", "hit"]
    assert replies[0].body == replies[1].body
    assert replies[1].headers["x-gatehouse-cost-usd"] == "0"
    fresh = await server.ask("POST", "/v1/embeddings", body, headers={"cache-control": "no-cache"})
    assert fresh.headers["x-gatehouse-cache"] == "miss"
    unkept = {"model": "vectors", "input": "not to be kept"}
    for _ in range(2):
        assert (await server.ask("POST", "/v1/embeddings", unkept, headers={"cache-control": "no-store"})).headers[
            "x-gatehouse-cache"
        ] == "bypass"


async def test_holds_of_both_operations(server: Server, upstream: FakeUpstream) -> None:
    """Every prompt's answer is held for; embeddings have no answer; each input must fit the context, not all of them together."""
    key = await server.make_key(limits={"tokens_per_minute": 2000})
    many = await server.ask("POST", "/v1/completions", {"model": "text", "prompt": ["x"] * 10, "max_tokens": 300}, key=key)
    assert (many.status, many.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (await server.ask("POST", "/v1/completions", {"model": "text", "prompt": "x", "max_tokens": 300}, key=key)).status == 200
    upstream.will(embed)
    assert (await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": ["word " * 600] * 3})).status == 200
    long = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": ["fine", "word " * 1500]})
    assert (long.status, long.json()["error"]["code"], long.json()["error"]["param"]) == (400, "context_length_exceeded", "input")


async def test_a_budget_holds_for_embeddings(server: Server, upstream: FakeUpstream) -> None:
    """What they cost is spent of the key's budget, and one that cannot be paid for is refused."""
    upstream.will(embed)
    key = await server.make_key(budget={"usd": "0.0002", "period": "total"})
    assert (await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": "cheap"}, key=key)).status == 200
    dear = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": ["a b c d " * 20] * 5}, key=key)
    assert (dear.status, dear.json()["error"]["code"]) == (429, "insufficient_quota")


async def test_a_provider_that_fails(server: Server, upstream: FakeUpstream) -> None:
    """Its fault is never the caller's: nonsense in place of vectors is a 502."""
    upstream.will(http(b'{"object":"list","data":[],"model":"embed"}'))
    reply = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": "nothing comes"})
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_invalid")
