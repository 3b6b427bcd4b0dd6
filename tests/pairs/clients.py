"""Clients of the gateway, one for each inbound API: they read what it writes as an application would, and know nothing of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gatehouse.core.ports import Dialect
from gatehouse.dialects.anthropic import AnthropicDialect
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.dialects.openai.responses import ResponsesDialect


@dataclass
class Heard:
    """What an application made of an answer. Arguments are the JSON text, joined."""

    text: str = ""
    reasoning: str = ""
    tools: list[tuple[str, str, str]] = field(default_factory=list)
    """Id, name, arguments."""
    finish: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Client:
    """An inbound API: the dialect behind it, a request, and how an application reads its answers."""

    dialect: Dialect
    request: dict[str, Any]
    whole: Callable[[bytes], Heard]
    stream: Callable[[bytes], Heard]


def frames(data: bytes) -> Iterator[tuple[str, Any]]:
    """Event names and decoded data of a stream; its end is an event called end."""
    for block in data.decode().split("\n\n"):
        name, text = "", ""
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                text += line[6:]
        if text == "[DONE]":
            yield "end", None
        elif text:
            yield name, json.loads(text)


# --- Chat completions --------------------------------------------------------------------------------------------------


def chat_whole(body: bytes) -> Heard:
    answer = json.loads(body)
    choice = answer["choices"][0]
    message = choice["message"]
    tools = [(tool["id"], tool["function"]["name"], tool["function"]["arguments"]) for tool in message.get("tool_calls") or ()]
    text, thoughts = message["content"] or "", message.get("reasoning_content") or ""
    return Heard(text, thoughts, tools, choice["finish_reason"], answer["usage"]["total_tokens"])


def chat_stream(data: bytes) -> Heard:
    heard = Heard()
    tools: dict[int, list[str]] = {}
    ended = False
    for name, chunk in frames(data):
        assert not ended
        if name == "end":
            ended = True
            continue
        if chunk.get("usage"):
            heard.tokens = chunk["usage"]["total_tokens"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            heard.text += delta.get("content") or ""
            heard.reasoning += delta.get("reasoning_content") or ""
            for tool in delta.get("tool_calls") or ():
                known = tools.setdefault(tool["index"], ["", "", ""])
                known[0] += tool.get("id") or ""
                known[1] += tool["function"].get("name") or ""
                known[2] += tool["function"].get("arguments") or ""
            heard.finish = choice["finish_reason"] or heard.finish
    assert ended
    heard.tools = [(tool[0], tool[1], tool[2]) for _, tool in sorted(tools.items())]
    return heard


# --- Responses ---------------------------------------------------------------------------------------------------------


def responses_items(response: Any) -> Heard:
    heard = Heard(finish=response["status"], tokens=response["usage"]["total_tokens"])
    for item in response["output"]:
        if item["type"] == "message":
            heard.text += "".join(part["text"] for part in item["content"] if part["type"] == "output_text")
        elif item["type"] == "reasoning":
            heard.reasoning += "".join(part["text"] for part in item["content"])
        elif item["type"] == "function_call":
            heard.tools.append((item["call_id"], item["name"], item["arguments"]))
    return heard


def responses_whole(body: bytes) -> Heard:
    return responses_items(json.loads(body))


def responses_stream(data: bytes) -> Heard:
    """From the deltas alone; the whole response that ends the stream must say the same."""
    heard = Heard()
    tools: dict[int, list[str]] = {}
    last = None
    for _, event in frames(data):
        kind = event["type"]
        if kind == "response.output_text.delta":
            heard.text += event["delta"]
        elif kind == "response.reasoning_text.delta":
            heard.reasoning += event["delta"]
        elif kind == "response.output_item.added" and event["item"]["type"] == "function_call":
            tools[event["output_index"]] = [event["item"]["call_id"], event["item"]["name"], event["item"]["arguments"]]
        elif kind == "response.function_call_arguments.delta":
            tools[event["output_index"]][2] += event["delta"]
        last = event
    assert last is not None
    assert last["type"] == "response.completed"
    heard.tools = [(tool[0], tool[1], tool[2]) for _, tool in sorted(tools.items())]
    end = responses_items(last["response"])
    heard.finish, heard.tokens = end.finish, end.tokens
    assert end == heard
    return heard


# --- Messages ----------------------------------------------------------------------------------------------------------


def messages_blocks(message: Any) -> Heard:
    heard = Heard(finish=message["stop_reason"], tokens=sum(message["usage"].get(name) or 0 for name in MESSAGES_TOKENS))
    for block in message["content"]:
        if block["type"] == "text":
            heard.text += block["text"]
        elif block["type"] == "thinking":
            heard.reasoning += block["thinking"]
        elif block["type"] == "tool_use":
            heard.tools.append((block["id"], block["name"], json.dumps(block["input"])))
    return heard


def messages_whole(body: bytes) -> Heard:
    return messages_blocks(json.loads(body))


def messages_stream(data: bytes) -> Heard:
    """Blocks put together from their pieces, each inside its own beginning and end."""
    message: Any = None
    written: dict[int, str] = {}
    ended = ""
    for name, event in frames(data):
        kind = event["type"]
        assert name == kind
        if kind == "message_start":
            assert message is None
            message = event["message"]
        elif kind == "content_block_start":
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            messages_piece(message["content"][event["index"]], event["delta"], written, event["index"])
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] |= {name: count for name, count in event["usage"].items() if count is not None}
        ended = kind
    assert ended == "message_stop"
    for index, text in written.items():
        message["content"][index]["input"] = json.loads(text)
    return messages_blocks(message)


def messages_piece(block: Any, delta: Any, written: dict[int, str], index: int) -> None:
    kind = delta["type"]
    if kind == "input_json_delta":
        assert block["type"] == "tool_use"
        if delta["partial_json"]:
            written[index] = written.get(index, "") + delta["partial_json"]
    elif kind == "signature_delta":
        block["signature"] = delta["signature"]
    else:
        field = kind.removesuffix("_delta")
        block[field] += delta[field]


MESSAGES_TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


# --- the same request in each of them ----------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}}
CHAT_REQUEST: dict[str, Any] = {
    "model": "assistant",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How is the weather in Rome?"},
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [{"id": "call_abc123", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}],
        },
        {"role": "tool", "tool_call_id": "call_abc123", "content": "21 degrees"},
        {"role": "user", "content": "And in Oslo?"},
    ],
    "tools": [CHAT_TOOL],
    "tool_choice": "auto",
    "max_tokens": 100,
    "temperature": 0.5,
    "stop": ["###"],
}
RESPONSES_REQUEST: dict[str, Any] = {
    "model": "assistant",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "How is the weather in Rome?"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
        {"type": "function_call", "call_id": "call_abc123", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "call_abc123", "output": "21 degrees"},
        {"role": "user", "content": "And in Oslo?"},
    ],
    "tools": [{"type": "function", "name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}],
    "tool_choice": "auto",
    "max_output_tokens": 100,
    "temperature": 0.5,
    "store": False,
}
MESSAGES_REQUEST: dict[str, Any] = {
    "model": "assistant",
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": "How is the weather in Rome?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "call_abc123", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_abc123", "content": "21 degrees"},
                {"type": "text", "text": "And in Oslo?"},
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "max_tokens": 100,
    "temperature": 0.5,
    "stop_sequences": ["###"],
}

CLIENTS = {
    "chat": Client(OpenAIDialect(), CHAT_REQUEST, chat_whole, chat_stream),
    "responses": Client(ResponsesDialect(), RESPONSES_REQUEST, responses_whole, responses_stream),
    "messages": Client(AnthropicDialect(), MESSAGES_REQUEST, messages_whole, messages_stream),
}
