"""The same answer in every format a provider may write it in, whole and streamed: written here from each API's documentation,
by other code than the product's, so that reader and writer cannot share a mistake.

    openai     https://platform.openai.com/docs/api-reference/chat-streaming
    anthropic  https://docs.anthropic.com/en/docs/build-with-claude/streaming
    gemini     https://ai.google.dev/api/generate-content
    cohere     https://docs.cohere.com/reference/chat-stream
    bedrock    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatehouse.dialects import anthropic, bedrock, cohere, gemini, openai
from gatehouse.testing import bedrock as aws


@dataclass(frozen=True)
class Called:
    """A tool call: its arguments in the pieces a model writes them in. Joined they are a JSON object."""

    id: str
    name: str
    pieces: tuple[str, ...]

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True)
class Story:
    """What a model says: pieces of reasoning and text, then its tool calls."""

    texts: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    tools: tuple[Called, ...] = ()


@dataclass(frozen=True)
class Format:
    """A provider's format: a story whole and streamed, and the product's functions for it."""

    whole: Callable[[Story], bytes]
    stream: Callable[[Story], bytes]
    encode: Callable[..., bytes]
    decode: Callable[[bytes], Any]
    reader: Callable[[], Any]


USAGE: dict[str, Any] = {
    "openai": {
        "prompt_tokens": 20,
        "completion_tokens": 30,
        "total_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 6},
    },
    "anthropic": {"input_tokens": 16, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 30},
    "gemini": {
        "promptTokenCount": 20,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 24,
        "thoughtsTokenCount": 6,
        "totalTokenCount": 50,
    },
    "cohere": {"billed_units": {"input_tokens": 20, "output_tokens": 30}, "tokens": {"input_tokens": 20, "output_tokens": 30}},
    "bedrock": {"inputTokens": 16, "outputTokens": 30, "totalTokens": 50, "cacheReadInputTokens": 4, "cacheWriteInputTokens": 0},
}
"""What each provider counts: 50 tokens in all."""


def sse(*events: Any, named: bool = False, end: bytes = b"") -> bytes:
    out = b""
    for event in events:
        if named:
            out += f"event: {event['type']}\n".encode()
        out += b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
    return out + end


# --- OpenAI ------------------------------------------------------------------------------------------------------------


def openai_whole(story: Story) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(story.texts) if story.texts else None}
    if story.reasoning:
        message["reasoning_content"] = "".join(story.reasoning)
    if story.tools:
        message["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}} for tool in story.tools
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if story.tools else "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_767_268_800, "model": "m"}
    return json.dumps({**head, "choices": [choice], "usage": USAGE["openai"]}).encode()


def openai_stream(story: Story) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_767_268_800, "model": "m"}

    def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    events = [piece(role="assistant", content="")]
    events += [piece(reasoning_content=text) for text in story.reasoning]
    events += [piece(content=text) for text in story.texts]
    for index, tool in enumerate(story.tools):
        begin = {"index": index, "id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}
        events.append(piece(tool_calls=[begin]))
        events += [piece(tool_calls=[{"index": index, "function": {"arguments": text}}]) for text in tool.pieces]
    events.append(piece("tool_calls" if story.tools else "stop"))
    return sse(*events, {**head, "choices": [], "usage": USAGE["openai"]}, end=b"data: [DONE]\n\n")


# --- Anthropic ---------------------------------------------------------------------------------------------------------


def anthropic_whole(story: Story) -> bytes:
    content: list[dict[str, Any]] = []
    if story.reasoning:
        content.append({"type": "thinking", "thinking": "".join(story.reasoning), "signature": "c2ln"})
    if story.texts:
        content.append({"type": "text", "text": "".join(story.texts)})
    content += [{"type": "tool_use", "id": tool.id, "name": tool.name, "input": json.loads(tool.arguments)} for tool in story.tools]
    reason = "tool_use" if story.tools else "end_turn"
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    return json.dumps({**head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": USAGE["anthropic"]}).encode()


def anthropic_stream(story: Story) -> bytes:
    begun: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {**begun, "usage": {**USAGE["anthropic"], "output_tokens": 1}}}]
    index = 0

    def block(start: dict[str, Any], deltas: list[dict[str, Any]]) -> None:
        nonlocal index
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events.extend({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        events.append({"type": "content_block_stop", "index": index})
        index += 1

    if story.reasoning:
        thoughts: list[dict[str, Any]] = [{"type": "thinking_delta", "thinking": text} for text in story.reasoning]
        block({"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, {"type": "signature_delta", "signature": "c2ln"}])
    if story.texts:
        block({"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in story.texts])
    for tool in story.tools:
        start = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
        block(start, [{"type": "input_json_delta", "partial_json": text} for text in ("", *tool.pieces)])
    reason = "tool_use" if story.tools else "end_turn"
    counted = {name: count for name, count in USAGE["anthropic"].items() if name.startswith("output")}
    end = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": counted}
    return sse(*events, end, {"type": "message_stop"}, named=True)


# --- Gemini ------------------------------------------------------------------------------------------------------------


def gemini_answer(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "usageMetadata": USAGE["gemini"], "modelVersion": "m", "responseId": "r1"}


def gemini_call(tool: Called) -> dict[str, Any]:
    return {"functionCall": {"id": tool.id, "name": tool.name, "args": json.loads(tool.arguments)}}


def gemini_whole(story: Story) -> bytes:
    parts: list[dict[str, Any]] = []
    if story.reasoning:
        parts.append({"text": "".join(story.reasoning), "thought": True})
    if story.texts:
        parts.append({"text": "".join(story.texts)})
    return json.dumps(gemini_answer([*parts, *map(gemini_call, story.tools)], "STOP")).encode()


def gemini_stream(story: Story) -> bytes:
    pieces: list[dict[str, Any]] = [{"text": text, "thought": True} for text in story.reasoning]
    pieces += [{"text": text} for text in story.texts]
    pieces += map(gemini_call, story.tools)
    events = [gemini_answer([piece], None) for piece in pieces]
    return sse(*events, gemini_answer([{"text": ""}], "STOP"))


# --- Cohere ------------------------------------------------------------------------------------------------------------


def cohere_whole(story: Story) -> bytes:
    content: list[dict[str, Any]] = []
    if story.reasoning:
        content.append({"type": "thinking", "thinking": "".join(story.reasoning)})
    if story.texts:
        content.append({"type": "text", "text": "".join(story.texts)})
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if story.tools:
        message["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}} for tool in story.tools
        ]
    finish = "TOOL_CALL" if story.tools else "COMPLETE"
    return json.dumps({"id": "c1", "message": message, "finish_reason": finish, "usage": USAGE["cohere"]}).encode()


def cohere_stream(story: Story) -> bytes:
    def event(kind: str, index: int | None = None, **message: Any) -> dict[str, Any]:
        head = {"type": kind} if index is None else {"type": kind, "index": index}
        return {**head, "delta": {"message": message}} if message else head

    events = [{"id": "c1", **event("message-start", role="assistant")}]
    index = 0
    for member, texts in (("thinking", story.reasoning), ("text", story.texts)):
        if texts:
            events.append(event("content-start", index, content={"type": member, member: ""}))
            events += [event("content-delta", index, content={member: text}) for text in texts]
            events.append(event("content-end", index))
            index += 1
    for number, tool in enumerate(story.tools):
        begin = {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": ""}}
        events.append(event("tool-call-start", number, tool_calls=begin))
        events += [event("tool-call-delta", number, tool_calls={"function": {"arguments": text}}) for text in tool.pieces]
        events.append(event("tool-call-end", number))
    finish = "TOOL_CALL" if story.tools else "COMPLETE"
    return sse(*events, {"type": "message-end", "delta": {"finish_reason": finish, "usage": USAGE["cohere"]}}, named=True)


# --- Bedrock -----------------------------------------------------------------------------------------------------------


def bedrock_whole(story: Story) -> bytes:
    content: list[dict[str, Any]] = []
    if story.reasoning:
        content.append({"reasoningContent": {"reasoningText": {"text": "".join(story.reasoning), "signature": "c2ln"}}})
    if story.texts:
        content.append({"text": "".join(story.texts)})
    content += [{"toolUse": {"toolUseId": tool.id, "name": tool.name, "input": json.loads(tool.arguments)}} for tool in story.tools]
    body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "tool_use" if story.tools else "end_turn"}
    return json.dumps({**body, "usage": USAGE["bedrock"], "metrics": {"latencyMs": 7}}).encode()


def bedrock_stream(story: Story) -> bytes:
    out = [aws.event("messageStart", {"role": "assistant"})]
    index = 0

    def block(deltas: list[dict[str, Any]], start: dict[str, Any] | None = None) -> None:
        nonlocal index
        if start is not None:
            out.append(aws.event("contentBlockStart", {"start": start, "contentBlockIndex": index}))
        out.extend(aws.event("contentBlockDelta", {"delta": delta, "contentBlockIndex": index}) for delta in deltas)
        out.append(aws.event("contentBlockStop", {"contentBlockIndex": index}))
        index += 1

    if story.reasoning:
        thoughts = [{"reasoningContent": {"text": text}} for text in story.reasoning]
        block([*thoughts, {"reasoningContent": {"signature": "c2ln"}}])
    if story.texts:
        block([{"text": text} for text in story.texts])
    for tool in story.tools:
        block([{"toolUse": {"input": text}} for text in tool.pieces], {"toolUse": {"toolUseId": tool.id, "name": tool.name}})
    out.append(aws.event("messageStop", {"stopReason": "tool_use" if story.tools else "end_turn"}))
    out.append(aws.event("metadata", {"usage": USAGE["bedrock"], "metrics": {"latencyMs": 7}}))
    return b"".join(out)


FORMATS = {
    "openai": Format(openai_whole, openai_stream, openai.encode_request, openai.decode_answer, openai.StreamDecoder),
    "anthropic": Format(anthropic_whole, anthropic_stream, anthropic.encode_request, anthropic.decode_answer, anthropic.StreamDecoder),
    "gemini": Format(gemini_whole, gemini_stream, gemini.encode_request, gemini.decode_answer, gemini.StreamDecoder),
    "cohere": Format(cohere_whole, cohere_stream, cohere.encode_request, cohere.decode_answer, cohere.StreamDecoder),
    "bedrock": Format(bedrock_whole, bedrock_stream, bedrock.encode_request, bedrock.decode_answer, bedrock.StreamDecoder),
}
"""Every format of a provider. Kinds that speak like OpenAI share one; what they are asked differs by profile."""
