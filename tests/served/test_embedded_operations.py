"""Bare text and embeddings from embedded models: one engine that writes, another that reads, each in a process of its own."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.served.embedding_model import write_embedding_model
from tests.served.whole import Server, children_of, serving

CONFIG = """
models:
  - name: tiny
    targets: [{{engine: llamacpp, path: builtin}}]
  - name: vectors
    targets: [{{engine: llamacpp, path: "{path}", operations: [embedding], context_window: 256, slots: 2}}]
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("embedded")
    path = write_embedding_model(folder / "reader.gguf")
    async with serving(folder / "data", CONFIG.format(path=path)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=60) as client:
        yield client


ASK: dict[str, Any] = {"model": "tiny", "prompt": "Ticket: I was charged twice.\n", "temperature": 0, "max_tokens": 12}


async def test_bare_text_whole_and_streamed(sdk: openai.AsyncOpenAI) -> None:
    """The same text either way, counted exactly, with the prompt in front when it was asked for."""
    whole = await sdk.completions.create(**ASK)
    assert whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens >= 1
    streamed = ""
    usage = None
    async for chunk in await sdk.completions.create(**ASK, stream=True, stream_options={"include_usage": True}):
        streamed += "".join(choice.text for choice in chunk.choices)
        usage = chunk.usage or usage
    assert streamed == whole.choices[0].text
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    echoed = await sdk.completions.create(**ASK, echo=True)
    assert echoed.choices[0].text == ASK["prompt"] + whole.choices[0].text
    nothing = await sdk.completions.create(**{**ASK, "max_tokens": 0}, echo=True)
    assert nothing.id
    assert nothing.created
    assert (nothing.choices[0].text, nothing.choices[0].finish_reason) == (ASK["prompt"], "length")


async def test_several_prompts_and_choices(sdk: openai.AsyncOpenAI) -> None:
    """Numbered prompt by prompt; each prompt is counted once; more than the engine has slots for is refused in a sentence."""
    one = await sdk.completions.create(**{**ASK, "prompt": "One"})
    two = await sdk.completions.create(**{**ASK, "prompt": "Two and more"})
    both = await sdk.completions.create(**{**ASK, "prompt": ["One", "Two and more"]}, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in both.choices]
    assert texts[0] == texts[1] == one.choices[0].text
    assert texts[2] == texts[3] == two.choices[0].text
    assert both.usage is not None
    assert one.usage is not None
    assert two.usage is not None
    assert both.usage.prompt_tokens == one.usage.prompt_tokens + two.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="at most 4 choices"):
        await sdk.completions.create(**{**ASK, "prompt": ["x"] * 5})


async def test_token_ids(sdk: openai.AsyncOpenAI) -> None:
    """Ids are read as they are; one that the vocabulary does not have never reaches native code."""
    answer = await sdk.completions.create(model="tiny", prompt=[1, 2, 3], max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        await sdk.completions.create(model="tiny", prompt=[1, 10**6], max_tokens=2)
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        await sdk.embeddings.create(model="vectors", input=[[1], [10**6]])


async def test_what_an_engine_cannot_do(server: Server, sdk: openai.AsyncOpenAI) -> None:
    """A suffix, embeddings of a model that chats, a chat with one that embeds: sentences, and nobody is asked."""
    with pytest.raises(openai.BadRequestError, match="infill"):
        await sdk.completions.create(**ASK, suffix="the end")
    with pytest.raises(openai.BadRequestError, match="it takes chat, completion requests, and this is an embedding request"):
        await sdk.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.BadRequestError, match="it takes embedding requests, and this is a chat request"):
        await sdk.chat.completions.create(model="vectors", messages=[{"role": "user", "content": "x"}])
    assert len([words for _, words in children_of(server.pid) if "_engine" in words]) == 2


async def test_embeddings(sdk: openai.AsyncOpenAI) -> None:
    """A vector for each input, of length one, the same for the same text however it is asked for; tokens are counted exactly."""
    texts = ["I was charged twice.", "The page is blank.", "I was charged twice."]
    answer = await sdk.embeddings.create(model="vectors", input=texts)
    vectors = [item.embedding for item in answer.data]
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-3) for vector in vectors)
    assert sum(a * b for a, b in zip(vectors[0], vectors[2], strict=True)) > 0.999
    assert sum(a * b for a, b in zip(vectors[0], vectors[1], strict=True)) < 0.999
    numbers = await sdk.embeddings.create(model="vectors", input=texts[0], encoding_format="float")
    assert sum(a * b for a, b in zip(vectors[0], numbers.data[0].embedding, strict=True)) > 0.999
    assert numbers.usage.prompt_tokens >= 3
    same = await sdk.embeddings.create(model="vectors", input=texts[0], dimensions=len(vectors[0]))
    assert len(same.data[0].embedding) == len(vectors[0])
    with pytest.raises(openai.BadRequestError, match=f"vectors of {len(vectors[0])} numbers"):
        await sdk.embeddings.create(model="vectors", input="x", dimensions=7)


async def test_many_inputs_at_once(sdk: openai.AsyncOpenAI) -> None:
    """More calls than slots, each of many texts: all are answered; a text beyond the context is refused, others beside it or not."""
    answers = await asyncio.gather(
        *(sdk.embeddings.create(model="vectors", input=[f"text {one} of {each}" for one in range(20)]) for each in range(6))
    )
    assert [len(answer.data) for answer in answers] == [20] * 6
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.embeddings.create(model="vectors", input=["fine", "word " * 400])
    assert caught.value.code == "context_length_exceeded"


async def test_the_ledger_knows(server: Server, sdk: openai.AsyncOpenAI) -> None:
    """Free of charge, and counted under its own target."""
    raw = await sdk.embeddings.with_raw_response.create(model="vectors", input="count me")
    assert raw.headers["x-gatehouse-target"] == "llamacpp/reader"
    trace = await server.admin("GET", f"/admin/v1/requests/{raw.headers['x-gatehouse-request-id']}")
    assert (trace["operation"], trace["attempts"][-1]["cost_usd"]) == ("embedding", "0")
    assert trace["attempts"][-1]["usage"]["input"] == raw.parse().usage.prompt_tokens


async def test_a_model_that_chats_cannot_be_made_to_embed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file that does not say how its vectors become one is refused when it is loaded, and the rest serves."""
    from gatehouse.models import builtin_path

    folder = tmp_path_factory.mktemp("wrong")
    path = folder / "chats.gguf"
    path.write_bytes(builtin_path().read_bytes())
    async with serving(folder / "data", CONFIG.format(path=path)) as server:
        reply = await server.ask("POST", "/v1/embeddings", {"model": "vectors", "input": "x"})
        assert (reply.status, reply.json()["error"]["code"]) == (503, "upstream_unreachable")
        assert "no embedding model" in server.log.read_text()
        assert (await server.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2})).status == 200
