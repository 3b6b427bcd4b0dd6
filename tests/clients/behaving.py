"""A provider that behaves like a model that can do everything, for clients that we must not surprise, and the server before it."""

import contextlib
import json
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, http, stream
from tests.served.whole import Server, serving

CONFIG = """
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: vectors
    targets: [{{provider: lab, model: embed, operations: [embedding], price: {{input: "1", output: "0"}}}}]
"""
WEATHER = "It is 21 degrees in Paris."
PERSON = '{"name":"Ada","age":36}'
ARGUMENTS = '{"city":"Paris"}'
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "fake"}


@contextlib.asynccontextmanager
async def gatehouse(folder: Path) -> AsyncIterator[Server]:
    """A whole server before such a provider."""
    async with FakeUpstream() as upstream:
        upstream.will(behave)
        async with serving(folder / "data", CONFIG.format(url=upstream.url)) as server:
            yield server


async def behave(seen: Seen, wire: Wire) -> None:
    """Answer as the request asks."""
    asked = seen.json()
    if seen.path.endswith("/embeddings"):
        wire.write(http(json.dumps(_vectors(asked)).encode()))
    elif seen.path.endswith("/completions") and "prompt" in asked:
        wire.write(_text(asked))
    else:
        wire.write(_chat(asked))


def _vectors(asked: dict[str, Any]) -> dict[str, Any]:
    inputs = asked["input"] if isinstance(asked["input"], list) and not isinstance(asked["input"][0], int) else [asked["input"]]
    vectors: list[Any] = [[float(len(each)), 0.5, -0.25] for each in inputs]
    if asked.get("encoding_format") == "base64":
        vectors = [b64encode(struct.pack("<3f", *each)).decode() for each in vectors]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "embed", "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def _text(asked: dict[str, Any]) -> bytes:
    def choice(text: str, finish: str | None) -> dict[str, Any]:
        body = {**_HEAD, "object": "text_completion"}
        return {**body, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]}

    if not asked.get("stream"):
        return http(json.dumps({**choice("upon a time", "stop"), "usage": USAGE}).encode())
    return stream(_frames([choice("upon ", None), choice("a time", None), choice("", "stop"), _usage("text_completion")]))


def _chat(asked: dict[str, Any]) -> bytes:
    last = asked["messages"][-1]
    text: str | None = "Hello there."
    if last["role"] == "tool":
        text = WEATHER
    elif "response_format" in asked:
        text = PERSON
    elif asked.get("tools"):
        text = None
    finish = "stop" if text is not None else "tool_calls"
    call = {"id": "call_1", "type": "function", "function": {"name": _tool(asked), "arguments": ARGUMENTS}}
    if not asked.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if text is None:
            message["tool_calls"] = [call]
        choices = [{"index": 0, "message": message, "finish_reason": finish}]
        return http(json.dumps({**_HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}).encode())
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if text is not None:
        pieces += [{"content": text[:5]}, {"content": text[5:]}]
    else:
        pieces += [
            {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": _tool(asked), "arguments": ""}}]},
            *({"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in (ARGUMENTS[:4], ARGUMENTS[4:])),
        ]
    body = {**_HEAD, "object": "chat.completion.chunk"}
    frames = [{**body, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
    frames.append({**body, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return stream(_frames([*frames, _usage("chat.completion.chunk")]))


def _tool(asked: dict[str, Any]) -> str:
    return str(asked["tools"][0]["function"]["name"]) if asked.get("tools") else ""


def _usage(kind: str) -> dict[str, Any]:
    return {**_HEAD, "object": kind, "choices": [], "usage": USAGE}


def _frames(bodies: list[dict[str, Any]]) -> list[bytes]:
    return [*(b"data: %s\n\n" % json.dumps(body).encode() for body in bodies), b"data: [DONE]\n\n"]
