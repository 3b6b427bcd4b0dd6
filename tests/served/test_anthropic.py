"""The official `anthropic` package against a whole server, sync and async, whatever stands behind: a target that speaks Anthropic's
API, one that speaks OpenAI's, and the embedded model."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic.types import Message, MessageParam, ToolParam

from gatehouse.testing import anthropic as claude
from gatehouse.testing import upstream as openai
from gatehouse.testing.upstream import FakeUpstream
from tests.served.whole import Server, serving

CONFIG = """
drain_seconds: 5
listen: {{http: {{max_body_bytes: 200000}}}}
providers:
  - {{name: claude, kind: anthropic, base_url: "{claude}", api_key: "sk-ant-test"}}
  - {{name: lab, kind: openai-compatible, base_url: "{openai}"}}
  - {{name: faulty529, kind: anthropic, base_url: "{claude}", api_key: "sk-ant-test"}}
  - {{name: faulty401, kind: anthropic, base_url: "{claude}", api_key: "sk-ant-test"}}
  - {{name: faulty400, kind: anthropic, base_url: "{claude}", api_key: "sk-ant-test"}}
  - {{name: faulty500, kind: anthropic, base_url: "{claude}", api_key: "sk-ant-test"}}
models:
  - {{name: faulty529, targets: [{{provider: faulty529, model: x, price: {{input: "1", output: "2"}}}}]}}
  - {{name: faulty401, targets: [{{provider: faulty401, model: x, price: {{input: "1", output: "2"}}}}]}}
  - {{name: faulty400, targets: [{{provider: faulty400, model: x, price: {{input: "1", output: "2"}}}}]}}
  - {{name: faulty500, targets: [{{provider: faulty500, model: x, price: {{input: "1", output: "2"}}}}]}}
  - name: native
    targets: [{{provider: claude, model: claude-x, price: {{input: "1", output: "2"}}}}]
  - name: other
    targets: [{{provider: lab, model: gpt-x, price: {{input: "1", output: "2"}}}}]
  - name: tiny
    targets: [{{engine: llamacpp, path: builtin}}]
"""
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
TOOL: ToolParam = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()

pytestmark = pytest.mark.asyncio(loop_scope="module")


class House:
    """A server with its two upstreams."""

    def __init__(self, server: Server, native: FakeUpstream, other: FakeUpstream) -> None:
        self.server = server
        self.native = native
        self.other = other

    def client(self, key: str | None = None) -> anthropic.AsyncAnthropic:
        """The official client, which does not try again."""
        return anthropic.AsyncAnthropic(base_url=self.server.url, api_key=key or self.server.key, max_retries=0)

    def will(self, *blocks: dict[str, Any], stop: str = "end_turn") -> None:
        """What both upstreams answer to calls that do not stream: the same content, each in its own words."""
        self.native.will(claude.message(*blocks, stop=stop))
        self.other.will(openai.http(json.dumps(_completion(blocks)).encode()))

    def will_stream(self, *blocks: dict[str, Any], stop: str = "end_turn") -> None:
        """The same, streamed."""
        self.native.will(openai.stream(claude.story(*blocks, stop=stop)))
        self.other.will(openai.stream(_chunks(blocks)))

    def sent(self, model: str) -> Any:
        """The body that the last call sent to the upstream of `model`."""
        return (self.native if model == "native" else self.other).seen[-1].json()


def _completion(blocks: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    calls = [
        {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
        for block in blocks
        if block["type"] == "tool_use"
    ]
    said = "".join(block["text"] for block in blocks if block["type"] == "text")
    thought = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    content: dict[str, Any] = {"role": "assistant", "content": said or None}
    if calls:
        content["tool_calls"] = calls
    if thought:
        content["reasoning_content"] = thought
    choice = {"index": 0, "message": content, "finish_reason": "tool_calls" if calls else "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": openai.usage_of(3, 5),
    }


def _chunks(blocks: tuple[dict[str, Any], ...]) -> list[bytes]:
    def frame(finish: str | None = None, **delta: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return openai.frame({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})

    frames = [frame(role="assistant", content="")]
    tools = 0
    for block in blocks:
        if block["type"] == "tool_use":
            frames.append(
                frame(
                    tool_calls=[
                        {"index": tools, "id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": ""}}
                    ]
                )
            )
            written = json.dumps(block["input"])
            frames += [frame(tool_calls=[{"index": tools, "function": {"arguments": part}}]) for part in (written[:7], written[7:])]
            tools += 1
        else:
            field = "content" if block["type"] == "text" else "reasoning_content"
            whole = block["text"] if block["type"] == "text" else block["thinking"]
            frames += [frame(**{field: part}) for part in (whole[:3], whole[3:])]
    return [*frames, frame("tool_calls" if tools else "stop"), openai.usage_frame(openai.usage_of(3, 5)), openai.DONE]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with FakeUpstream() as native, FakeUpstream() as other:
        config = CONFIG.format(claude=native.url, openai=other.url)
        async with serving(tmp_path_factory.mktemp("anthropic") / "data", config, "--workers", "1") as server:
            yield House(server, native, other)


def texts(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("model", ["native", "other"])
async def test_a_message(house: House, model: str) -> None:
    """Content, reason, usage and cost; the target is asked in its own words, with its own key."""
    house.will(claude.text("Hello there."))
    async with house.client() as client:
        raw = await client.messages.with_raw_response.create(
            model=model, max_tokens=64, messages=HI, system="be brief", stop_sequences=["END"], metadata={"user_id": "u-7"},
            extra_body={"temperature": 0.5},
        )  # fmt: skip
    message = await raw.parse()
    assert (texts(message), message.stop_reason, message.role, message.type) == ("Hello there.", "end_turn", "assistant", "message")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 5)
    assert raw.headers["x-gatehouse-cost-usd"] == "0.000013"
    assert message._request_id == raw.headers["x-gatehouse-request-id"]
    sent = house.sent(model)
    assert (sent["max_tokens"], sent["temperature"]) == (64, 0.5)
    if model == "native":
        assert sent["system"] == "be brief"
        assert sent["stop_sequences"] == ["END"]
        assert house.native.seen[-1].headers["x-api-key"] == "sk-ant-test"
        assert house.native.seen[-1].headers["anthropic-version"] == "2023-06-01"
    else:
        assert sent["messages"][0] == {"role": "system", "content": "be brief"}
        assert sent["stop"] == ["END"]


@pytest.mark.parametrize("model", ["native", "other"])
async def test_a_stream(house: House, model: str) -> None:
    """Text as it comes, and a final message with usage."""
    house.will_stream(claude.text("Hello there."))
    async with house.client() as client, client.messages.stream(model=model, max_tokens=64, messages=HI) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert len(pieces) == 2
    assert texts(message) == "".join(pieces) == "Hello there."
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 3, 5)


@pytest.mark.parametrize("model", ["native", "other"])
async def test_the_events_of_a_stream(house: House, model: str) -> None:
    """In the API's order, whatever the target's; the cost stands beside the last count."""
    house.will_stream(claude.text("Hello"))
    async with house.client() as client:
        events = [event async for event in await client.messages.create(model=model, max_tokens=64, messages=HI, stream=True)]
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[-2].to_dict()["gatehouse"] == {"cost_usd": "0.000013"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", ["native", "other"])
async def test_tools_there_and_back(house: House, model: str, streaming: bool) -> None:
    """Two calls at once, their input whole, and their results, one of them an error, back to the target."""
    calls = (claude.tool_use("t1", "get_weather", location="Paris, FR"), claude.tool_use("t2", "get_weather", location="Oslo"))
    (house.will_stream if streaming else house.will)(claude.text("Let me see."), *calls, stop="tool_use")
    async with house.client() as client:
        asked: dict[str, Any] = {"model": model, "max_tokens": 64, "tools": [TOOL], "tool_choice": {"type": "any"}}
        if streaming:
            async with client.messages.stream(messages=HI, **asked) as stream:
                message = await stream.get_final_message()
        else:
            message = await client.messages.create(messages=HI, **asked)
        assert message.stop_reason == "tool_use"
        used = [block for block in message.content if block.type == "tool_use"]
        assert [(block.id, block.name, block.input) for block in used] == [
            ("t1", "get_weather", {"location": "Paris, FR"}),
            ("t2", "get_weather", {"location": "Oslo"}),
        ]
        house.will(claude.text("Sunny."))
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
            {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "no such place"}], "is_error": True},
            {"type": "text", "text": "Well?"},
        ]
        history: list[MessageParam] = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        answer = await client.messages.create(model=model, max_tokens=64, tools=[TOOL], messages=history)
    assert texts(answer) == "Sunny."
    sent = house.sent(model)["messages"]
    if model == "native":
        assert [turn["role"] for turn in sent] == ["user", "assistant", "user"]
        assert [block["type"] for block in sent[2]["content"]] == ["tool_result", "tool_result", "text"]
        assert sent[2]["content"][1]["is_error"] is True
    else:
        assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool", "user"]
        assert [call["id"] for call in sent[1]["tool_calls"]] == ["t1", "t2"]


@pytest.mark.parametrize("model", ["native", "other"])
async def test_an_image(house: House, model: str) -> None:
    """By content."""
    house.will(claude.text("A pixel."))
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    async with house.client() as client:
        await client.messages.create(
            model=model, max_tokens=64, messages=[{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}]
        )
    (sent,) = house.sent(model)["messages"]
    if model == "native":
        assert sent["content"][0] == image
    else:
        assert sent["content"][0] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", ["native", "other"])
async def test_thinking(house: House, model: str, streaming: bool) -> None:
    """Reasoning arrives with its signature, and goes back with it to the target that can check it; nobody else is sent it."""
    (house.will_stream if streaming else house.will)(claude.thinking("Let me think.", "sig=="), claude.text("42"))
    asked: dict[str, Any] = {"model": model, "max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 2048}}
    async with house.client() as client:
        if streaming:
            async with client.messages.stream(messages=HI, **asked) as stream:
                message = await stream.get_final_message()
        else:
            message = await client.messages.create(messages=HI, **asked)
        thought = message.content[0]
        assert thought.type == "thinking"
        assert (thought.thinking, thought.signature) == ("Let me think.", "sig==" if model == "native" else "")
        house.will(claude.text("Yes."))
        await client.messages.create(
            messages=[*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": "Sure?"}], **asked
        )
    sent = house.sent(model)
    if model == "native":
        assert sent["thinking"] == {"type": "enabled", "budget_tokens": 2048}
        assert sent["messages"][1]["content"][0] == {"type": "thinking", "thinking": "Let me think.", "signature": "sig=="}
    else:
        assert sent["messages"][1]["content"] in ("42", [{"type": "text", "text": "42"}])


async def test_marks_for_the_cache_reach_the_target_that_has_one(house: House) -> None:
    """On the system prompt, a tool and a message; the other target is not sent what it does not know."""
    mark: Any = {"type": "ephemeral"}
    asked: dict[str, Any] = {
        "max_tokens": 64,
        "system": [{"type": "text", "text": "long", "cache_control": mark}],
        "tools": [{**TOOL, "cache_control": mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {**mark, "ttl": "1h"}}]}],
    }
    house.will(claude.text("ok"))
    async with house.client() as client:
        for model in ("native", "other"):
            await client.messages.create(model=model, **asked)
    sent = house.sent("native")
    assert sent["system"][0]["cache_control"] == sent["tools"][0]["cache_control"] == mark
    assert sent["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert "cache" not in json.dumps(house.sent("other"))


async def test_the_embedded_model(house: House) -> None:
    """A whole message, and a stream whose text is what its final message says."""
    async with house.client() as client:
        message = await client.messages.create(model="tiny", max_tokens=8, messages=HI)
        assert message.usage.output_tokens > 0
        assert message.stop_reason in ("end_turn", "max_tokens")
        async with client.messages.stream(model="tiny", max_tokens=8, messages=HI) as stream:
            pieces = [piece async for piece in stream.text_stream]
            assert "".join(pieces) == texts(await stream.get_final_message())


async def test_an_openai_client_of_an_anthropic_target(house: House) -> None:
    """The other way round: chunks, tool calls, finish and usage as OpenAI's clients know them."""
    house.will_stream(
        claude.thinking("hm", "sig"), claude.text("Hi."), claude.tool_use("t1", "get_weather", location="Oslo"), stop="tool_use"
    )
    reply = await house.server.chat(model="native", stream=True, stream_options={"include_usage": True})
    frames = [json.loads(line[6:]) for line in reply.body.decode().split("\n\n") if line.startswith("data: {")]
    deltas = [frame["choices"][0]["delta"] for frame in frames if frame["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hi."
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "hm"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"location": "Oslo"}
    assert frames[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (frames[-1]["choices"], frames[-1]["usage"]["total_tokens"]) == ([], 8)
    assert reply.body.endswith(b"data: [DONE]\n\n")


# Errors


async def test_errors_of_ours_are_the_packages_own(house: House) -> None:
    """Each with its status and type, and the request id in the body."""
    narrow = await house.server.make_key(models=["other"])
    odd: Any = [{"role": "user", "content": [{"type": "video"}]}]
    async with house.client() as client, house.client("gh_live_nobody_xxxxxxxxxxxxxxxxxxxx") as stranger, house.client(narrow) as limited:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.create(model="native", max_tokens=1, messages=HI)
        with pytest.raises(anthropic.PermissionDeniedError):
            await limited.messages.create(model="native", max_tokens=1, messages=HI)
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="nothing", max_tokens=1, messages=HI)
        with pytest.raises(anthropic.BadRequestError) as bad:
            await client.messages.create(model="native", max_tokens=1, messages=odd)
        body: Any = bad.value.body
        assert body["error"]["type"] == "invalid_request_error"
        assert "messages[0].content[0].type" in body["error"]["message"]
        assert body["request_id"] == bad.value.request_id == bad.value.response.headers["x-gatehouse-request-id"]
        with pytest.raises(anthropic.RequestTooLargeError) as large:
            await client.messages.create(model="native", max_tokens=1, messages=[{"role": "user", "content": "x" * 250_000}])
        assert large.value.status_code == 413


@pytest.mark.parametrize(
    ("play", "told", "status", "kind"),
    [
        (claude.failure(529, "overloaded_error", "Overloaded", headers=[("retry-after", "7")]), 529, 529, "overloaded_error"),
        (claude.failure(401, "authentication_error", "invalid x-api-key"), 401, 502, "api_error"),
        (claude.failure(400, "invalid_request_error", "max_tokens: too many"), 400, 400, "invalid_request_error"),
        (claude.failure(500, "api_error", "Internal server error"), 500, 502, "api_error"),
    ],
)
async def test_errors_of_the_target(house: House, play: bytes, told: int, status: int, kind: str) -> None:
    """Told as whose they are; only a refusal of the request itself is the caller's, in the target's words."""
    house.native.will(play)
    async with house.client() as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=f"faulty{told}", max_tokens=1, messages=HI)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["type"]) == (status, kind)
    assert ("too many" in body["error"]["message"]) == (status == 400)
    assert "invalid x-api-key" not in str(body)
    house.native.will(claude.message())


@pytest.mark.parametrize("model", ["native", "other"])
async def test_a_stream_that_breaks_never_looks_finished(house: House, model: str) -> None:
    """The package raises; what came before it stands, and no reason to stop was told."""
    house.native.will(openai.stream([*claude.story()[:4], claude.error_frame("overloaded_error", "Overloaded")]))
    house.other.will(openai.streamed([*openai.story()[:3]], then=lambda wire: wire.reset()))
    events = []
    async with house.client() as client:
        with pytest.raises(anthropic.APIError):  # noqa: PT012 - it may fail at any event
            async for event in await client.messages.create(model=model, max_tokens=64, messages=HI, stream=True):
                events.append(event.type)  # noqa: PERF401 - it raises on the way
    assert "content_block_delta" in events
    assert not {"message_delta", "message_stop"} & set(events)


async def test_what_a_broken_stream_began_with_is_accounted(house: House) -> None:
    """The target told its input when it began: that is booked as told, the output as far as it came by estimate."""
    key = await house.server.make_key(name="broken")
    told = claude.usage_of(1234, 99)
    house.native.will(openai.streamed(claude.story(usage=told)[:5], then=lambda wire: wire.reset()))
    async with house.client(key) as client:
        with pytest.raises(anthropic.APIError):
            async for _ in await client.messages.create(model="native", max_tokens=64, messages=HI, stream=True):
                pass
    (row,) = [row for row in await house.server.usage() if row["input_tokens"] == 1234]
    assert 1 <= row["output_tokens"] < 99


async def test_a_path_that_is_nobodys_answers_in_the_words_of_who_asks(house: House) -> None:
    """The header of Anthropic's clients decides."""
    reply = await house.server.ask("GET", "/v1/nothing", headers={"anthropic-version": "2023-06-01"})
    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found_error")
    assert (await house.server.ask("GET", "/v1/nothing")).json()["error"]["type"] == "invalid_request_error"


# Counting


async def test_count_tokens(house: House) -> None:
    """An estimate where the target cannot count, and said to be one; refused like a call of the model would be."""
    async with house.client() as client:
        raw = await client.messages.with_raw_response.count_tokens(model="native", system="be brief", messages=HI, tools=[TOOL])
        assert raw.headers["x-gatehouse-count"] == "estimate"
        longer = await client.messages.count_tokens(model="native", messages=[{"role": "user", "content": "hi " * 400}])
        assert longer.input_tokens > (await raw.parse()).input_tokens > 0
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="nothing", messages=HI)
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.count_tokens(model="native", messages=[])
    narrow = await house.server.make_key(models=["other"])
    async with house.client(narrow) as limited:
        with pytest.raises(anthropic.PermissionDeniedError):
            await limited.messages.count_tokens(model="native", messages=HI)


# The synchronous client


@pytest.mark.parametrize("model", ["native", "other"])
async def test_the_synchronous_client(house: House, model: str) -> None:
    """The same package without a loop: a message, a stream, an error, a count."""
    house.native.will(claude.message(), openai.stream(claude.story()))
    house.other.will(openai.completion(), openai.stream())

    def talk() -> None:
        with anthropic.Anthropic(base_url=house.server.url, api_key=house.server.key, max_retries=0) as client:
            assert texts(client.messages.create(model=model, max_tokens=64, messages=HI)) == "Hello there."
            with client.messages.stream(model=model, max_tokens=64, messages=HI) as stream:
                assert "".join(stream.text_stream) == "Hello there."
            with pytest.raises(anthropic.NotFoundError):
                client.messages.create(model="nothing", max_tokens=1, messages=HI)
            assert client.messages.count_tokens(model=model, messages=HI).input_tokens > 0

    await asyncio.to_thread(talk)
