"""`/v1/responses` as applications use it: the official package against a whole server, and who may see what was kept."""

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
import pytest_asyncio

from gatehouse.testing.upstream import DONE, FakeUpstream, completion, delta, endless, frame, http, story, stream, usage_frame, usage_of
from tests.served.whole import Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
workers: {workers}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
responses: {{store: {store}, scope: {scope}{more}}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: tiny
    targets: [{{engine: llamacpp, path: builtin}}]
"""
TOOL: Any = {
    "type": "function",
    "name": "lookup",
    "description": "finds",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
    "strict": True,
}
CALLED = {"id": "call_a", "type": "function", "function": {"name": "lookup", "arguments": '{"city": "Ulm"}'}}


class Weather(pydantic.BaseModel):
    """What a structured answer is read as."""

    city: str
    degrees: int


def config(url: str, *, workers: int = 1, store: str = "on", scope: str = "key", more: str = "") -> str:
    return CONFIG.format(url=url, workers=workers, store=store, scope=scope, more=more)


def calling() -> bytes:
    """A whole answer that calls a function."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [CALLED]}, "finish_reason": "tool_calls"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice], "usage": usage_of(3, 5)}
    return http(json.dumps(body).encode())


def calling_stream() -> bytes:
    """The same in pieces."""
    start = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "lookup", "arguments": ""}}
    pieces = [start, *({"index": 0, "function": {"arguments": piece}} for piece in ('{"ci', 'ty": ', '"Ulm"}'))]
    frames = [
        frame({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake",
               "choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]})
        for piece in pieces
    ]  # fmt: skip
    return stream([*frames, delta(finish="tool_calls"), usage_frame(usage_of(3, 5)), DONE])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(completion()) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Two workers that keep responses."""
    async with serving(tmp_path_factory.mktemp("responses") / "data", config(upstream.url, workers=2)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


def words(item: Any) -> str:
    """The first text of an input item."""
    return str(item.content[0].text)


def asked(upstream: FakeUpstream) -> list[dict[str, Any]]:
    """The messages of the last request that reached the target."""
    return list(upstream.seen[-1].json()["messages"])


async def test_create_continue_retrieve_and_delete(server: Server, upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """A conversation of two turns through the official package: nothing is sent twice, and what was kept can be read and deleted."""
    upstream.will(completion("Sunny."))
    first = await sdk.responses.create(model="assistant", input="Weather?", instructions="be brief", metadata={"team": "search"})
    assert (first.output_text, first.status, first.metadata) == ("Sunny.", "completed", {"team": "search"})
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens, first.usage.total_tokens) == (3, 5, 8)
    second = await sdk.responses.create(model="assistant", input="And tomorrow?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert asked(upstream) == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Sunny."},
        {"role": "user", "content": "And tomorrow?"},
    ]
    assert await sdk.responses.retrieve(first.id) == first
    items = await sdk.responses.input_items.list(second.id)
    assert [words(item) for item in items.data] == ["And tomorrow?"]
    await sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.responses.create(model="assistant", input="x", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    assert (await sdk.responses.retrieve(second.id)).output_text == "Sunny."


async def test_a_stream_is_what_the_package_accumulates(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """Its own accumulator is content, the deltas are the whole, and the response can be read and continued the moment it is complete."""
    upstream.will(stream(story(("Hel", "lo", ' "there".\n'))))
    text = ""
    async with sdk.responses.stream(model="assistant", input="hi") as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                text += event.delta
        final = await events.get_final_response()
    assert text == final.output_text == 'Hello "there".\n'
    assert final.usage is not None
    assert final.usage.total_tokens == 8
    read = await sdk.responses.retrieve(final.id)
    assert (read.output_text, read.usage, read.created_at) == (text, final.usage, final.created_at)
    assert [item.to_dict()["id"] for item in read.output] == [item.to_dict()["id"] for item in final.output]
    async with sdk.responses.stream(model="assistant", input="more", previous_response_id=final.id) as events:
        await events.until_done()
    assert asked(upstream)[1] == {"role": "assistant", "content": 'Hello "there".\n'}


async def test_tools_make_the_round_trip(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """Called whole and in pieces, answered with the items themselves and by the response's id: the target gets the same conversation."""
    upstream.will(calling())
    first = await sdk.responses.create(model="assistant", input="Weather in Ulm?", tools=[TOOL])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.call_id, call.name, json.loads(call.arguments)) == ("call_a", "lookup", {"city": "Ulm"})
    assert upstream.seen[-1].json()["tools"] == [
        {"type": "function", "function": {name: value for name, value in TOOL.items() if name != "type"}}
    ]

    upstream.will(calling_stream())
    async with sdk.responses.stream(model="assistant", input="Weather in Ulm?", tools=[TOOL]) as events:
        pieces = [event.delta async for event in events if event.type == "response.function_call_arguments.delta"]
        streamed = await events.get_final_response()
    assert "".join(pieces) == call.arguments
    (again,) = streamed.output
    assert again.type == "function_call"
    assert (again.call_id, again.name, again.arguments) == (call.call_id, call.name, call.arguments)

    upstream.will(completion("Rain."))
    answer: Any = {"type": "function_call_output", "call_id": "call_a", "output": "rain"}
    expected = [
        {"role": "user", "content": "Weather in Ulm?"},
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_a"},
    ]
    await sdk.responses.create(model="assistant", input=[answer], previous_response_id=streamed.id, tools=[TOOL])
    by_id = asked(upstream)
    # Objects as the package gave them, its own additions to what was streamed among them.
    history: Any = [{"role": "user", "content": "Weather in Ulm?"}, *streamed.output, answer]
    await sdk.responses.create(model="assistant", input=history, tools=[TOOL], store=False)
    assert by_id == asked(upstream) == expected


async def test_reasoning_is_shown_and_continued(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """It is an item of its own, in full or as the summary asked for; and what is continued is a history the target takes."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Rain.", "reasoning_content": "It is autumn."},
        "finish_reason": "stop",
    }
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "fake", "choices": [choice], "usage": usage_of(3, 5)}
    upstream.will(http(json.dumps(body).encode()))
    made = await sdk.responses.create(model="assistant", input="Weather?")
    thought = made.output[0]
    assert thought.type == "reasoning"
    assert [part.text for part in thought.content or []] == ["It is autumn."]
    summed = await sdk.responses.create(model="assistant", input="Weather?", reasoning={"summary": "auto"}, store=False)
    assert summed.output[0].type == "reasoning"
    assert [part.text for part in summed.output[0].summary] == ["It is autumn."]
    history: Any = [{"role": "user", "content": "Weather?"}, *made.output, {"role": "user", "content": "Sure?"}]
    await sdk.responses.create(model="assistant", input="Sure?", previous_response_id=made.id)
    by_id = asked(upstream)
    await sdk.responses.create(model="assistant", input=history, store=False)
    assert by_id == asked(upstream)
    assert [message["role"] for message in by_id] == ["user", "assistant", "user"]
    assert by_id[1]["content"] in ("Rain.", [{"type": "text", "text": "Rain."}])


async def test_structured_answers_are_parsed(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """`responses.parse` gets the schema to the target and its object back."""
    upstream.will(completion('{"city": "Ulm", "degrees": 4}'))
    parsed = await sdk.responses.parse(model="assistant", input="Weather in Ulm?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Ulm", degrees=4)
    form = upstream.seen[-1].json()["response_format"]
    history: Any = [{"role": "user", "content": "Weather in Ulm?"}, *parsed.output, {"role": "user", "content": "Sure?"}]
    await sdk.responses.parse(model="assistant", input=history, text_format=Weather)
    assert asked(upstream)[1] == {"role": "assistant", "content": '{"city": "Ulm", "degrees": 4}'}
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == ("json_schema", "Weather", True)


async def test_the_synchronous_package(server: Server, upstream: FakeUpstream) -> None:
    """The same without asyncio: create, stream, retrieve, delete."""
    upstream.will(completion("Sunny."))

    def work() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
            made = client.responses.create(model="assistant", input="Weather?")
            with client.responses.stream(model="assistant", input="Weather?", previous_response_id=made.id) as events:
                text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
                final = events.get_final_response()
            client.responses.delete(made.id)
            return text, client.responses.retrieve(final.id).output_text

    assert await asyncio.to_thread(work) == ("Sunny.", "Sunny.")


async def test_the_embedded_model_speaks_it_too(sdk: openai.AsyncOpenAI) -> None:
    """Whatever stands behind: a stream and its continuation from the model inside, structured output included."""
    async with sdk.responses.stream(model="tiny", input="Who are you?", temperature=0, max_output_tokens=60) as events:
        text = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
        final = await events.get_final_response()
    assert text == final.output_text
    assert "gatehouse" in text.lower()
    assert final.usage is not None
    assert final.usage.output_tokens > 3
    again = await sdk.responses.create(
        model="tiny",
        input="I was charged twice this month.",
        previous_response_id=final.id,
        max_output_tokens=60,
        text={
            "format": {
                "type": "json_schema",
                "name": "ticket",
                "schema": {"type": "object", "properties": {"queue": {"type": "string", "enum": ["billing"]}}, "required": ["queue"]},
            }
        },
    )
    assert json.loads(again.output_text) == {"queue": "billing"}


async def test_an_answer_that_was_cut_is_incomplete(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """The package sees why."""
    upstream.will(completion("so f", finish="length"))
    cut = await sdk.responses.create(model="assistant", input="hi", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


async def test_a_broken_stream_is_an_error_for_the_package(upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """It never looks finished: the response failed, and the package raises."""
    upstream.will(stream([delta("so f")]))
    seen = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - it breaks while it is read
        async for event in await sdk.responses.create(model="assistant", input="hi", stream=True):
            seen.append(event.type)  # noqa: PERF401 - it breaks while it is read
    assert seen[-1] == "response.failed"
    assert "response.completed" not in seen
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "upstream_broken"


async def test_cancelling_a_stream_ends_it_in_whichever_worker_it_runs(
    server: Server, upstream: FakeUpstream, sdk: openai.AsyncOpenAI
) -> None:
    """Four streams over two workers are each cancelled by a request on a connection of its own: who reads them is told, the target is let
    go, the books say the client ended it, and it cannot be cancelled twice."""
    upstream.will(endless("word ", gap=0.01))
    for _ in range(4):
        events = await sdk.responses.create(model="assistant", input="hi", stream=True)
        name, status = "", ""
        with pytest.raises(openai.APIError, match="cancelled"):  # noqa: PT012 - it ends while it is read
            async for event in events:
                if event.type == "response.created":
                    name = event.response.id
                if event.type == "response.output_text.delta" and not status:
                    cancelled = await sdk.responses.cancel(name)
                    status = cancelled.status or ""
                    assert (cancelled.id, cancelled.model) == (name, "assistant")
                assert event.type not in ("response.completed", "response.incomplete")
        assert status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.cancel(name)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(name)
    rows = {row["outcome"]: row["requests"] for row in await server.usage("outcome")}
    assert rows["client"] == 4


async def test_a_stranger_can_do_nothing_with_it(server: Server, upstream: FakeUpstream, sdk: openai.AsyncOpenAI) -> None:
    """Another key, and the administrator's too, gets the answer of an id that never was: read, list, continue, delete, cancel (running or
    ended)."""
    stranger = await server.make_key(name="stranger")
    upstream.will(completion("Secret."))
    mine = await sdk.responses.create(model="assistant", input="hi")
    upstream.will(endless("word ", gap=0.01))
    running = await sdk.responses.create(model="assistant", input="hi", stream=True)
    name = (await anext(aiter(running))).response.id  # type: ignore[union-attr]
    calls = len(upstream.seen)
    for each in (mine.id, name):
        for method, path in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
            told = await server.ask(method, f"/v1/responses/{each}{path}", key=stranger)
            never = await server.ask(method, f"/v1/responses/resp_0{path}", key=stranger)
            assert told.status == never.status == 404
            assert told.json()["error"]["message"].replace(each, "resp_0") == never.json()["error"]["message"]
        body = {"model": "assistant", "input": "x", "previous_response_id": each}
        assert (await server.ask("POST", "/v1/responses", body, key=stranger)).status == 404
    assert len(upstream.seen) == calls
    assert (await sdk.responses.retrieve(mine.id)).output_text == "Secret."
    assert (await anext(aiter(running))).type == "response.in_progress"
    await sdk.responses.cancel(name)
    await running.close()
    assert (await server.ask("GET", f"/v1/responses/{mine.id}", key=None)).status == 401


async def test_what_is_asked_wrongly_is_told(server: Server, sdk: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    """Queries that are not known, pages that are not there, methods that are not possible."""
    upstream.will(completion())
    items: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    made = (await sdk.responses.create(model="assistant", input=items)).id
    base = f"/v1/responses/{made}"
    for query, status in (
        ("?stream=true", 400), ("?include[]=x", 400), ("/input_items?limit=0", 400), ("/input_items?limit=101", 400),
        ("/input_items?limit=x", 400), ("/input_items?order=up", 400), ("/input_items?after=nothing", 404), ("?stream=false", 200),
    ):  # fmt: skip
        assert (await server.ask("GET", base + query)).status == status, query
    assert (await server.ask("PUT", base)).headers["allow"] == "GET, DELETE, HEAD"
    told = [words(item) async for item in sdk.responses.input_items.list(made, limit=2, order="asc")]
    assert told == ["0", "1", "2", "3", "4"]
    newest = await sdk.responses.input_items.list(made, limit=2)
    assert [words(item) for item in newest.data] == ["4", "3"]
    assert newest.has_more


async def test_what_was_kept_survives_a_killed_worker_and_a_restart(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Who was told that a response is complete can read and continue it, whatever dies then; and it lies encrypted."""
    upstream.will(completion("The launch is on Friday."))
    async with serving(tmp_path / "data", config(upstream.url)) as server:
        made = (await server.ask("POST", "/v1/responses", {"model": "assistant", "input": "When is the launch?"})).json()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        read = None
        async with asyncio.timeout(30):
            while read is None:
                try:
                    read = await server.ask("GET", f"/v1/responses/{made['id']}")
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.05)
        assert read.json() == made
    async with serving(tmp_path / "data", config(upstream.url)) as server:
        body = {"model": "assistant", "input": "Why?", "previous_response_id": made["id"]}
        assert (await server.ask("POST", "/v1/responses", body)).status == 200
        assert asked(upstream)[1]["content"] == "The launch is on Friday."
        assert (await server.ask("GET", f"/v1/responses/{made['id']}")).json() == made
        await server.stop()
        for file in (path for path in (tmp_path / "data").rglob("*") if path.is_file()):
            assert b"Friday" not in file.read_bytes(), file


async def test_what_expires_is_gone(upstream: FakeUpstream, tmp_path: Path) -> None:
    """After the time the operator set it is not found, though nobody has swept yet; teams share where the operator says so."""
    upstream.will(completion())
    setting = config(upstream.url, scope="team", more=f", days: {4 / 86_400:.8f}")
    async with serving(tmp_path / "data", setting) as server:
        ann, bob = await server.make_key(name="ann", team="red"), await server.make_key(name="bob", team="red")
        made = (await server.ask("POST", "/v1/responses", {"model": "assistant", "input": "hi"}, key=ann)).json()["id"]
        assert (await server.ask("GET", f"/v1/responses/{made}", key=bob)).status == 200
        async with asyncio.timeout(20):
            while (await server.ask("GET", f"/v1/responses/{made}", key=bob)).status == 200:
                await asyncio.sleep(0.1)
        body = {"model": "assistant", "input": "x", "previous_response_id": made}
        assert (await server.ask("POST", "/v1/responses", body, key=ann)).status == 404
        with closing(sqlite3.connect(tmp_path / "data" / "gatehouse.db")) as there:
            assert there.execute("SELECT count(*) FROM responses").fetchone() == (1,)


async def test_where_nothing_is_kept(upstream: FakeUpstream, tmp_path: Path) -> None:
    """The default: calls are answered, nothing is written, and what would need keeping is refused with the setting's name."""
    upstream.will(completion())
    async with serving(tmp_path / "data", config(upstream.url, store="off")) as server:
        made = await server.ask("POST", "/v1/responses", {"model": "assistant", "input": "hi"})
        assert (made.status, made.json()["store"]) == (200, False)
        for fields in ({"store": True}, {"previous_response_id": made.json()["id"]}):
            refused = await server.ask("POST", "/v1/responses", {"model": "assistant", "input": "hi", **fields})
            assert refused.status == 400
            assert "responses.store" in refused.json()["error"]["message"]
        for method in ("GET", "DELETE"):
            reply = await server.ask(method, f"/v1/responses/{made.json()['id']}")
            assert reply.status == 404
            assert "responses.store" in reply.json()["error"]["message"]
        with closing(sqlite3.connect(tmp_path / "data" / "gatehouse.db")) as there:
            assert there.execute("SELECT count(*) FROM responses").fetchone() == (0,)
