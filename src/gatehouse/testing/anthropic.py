"""What a provider of Anthropic's API answers, for `gatehouse.testing.upstream.FakeUpstream` to play."""

import json
from collections.abc import Iterable
from typing import Any, Final

from gatehouse.testing.upstream import http


def text(said: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": said}


def thinking(thought: str, signature: str) -> dict[str, Any]:
    """A block of reasoning."""
    return {"type": "thinking", "thinking": thought, "signature": signature}


def tool_use(identifier: str, name: str, **fields: Any) -> dict[str, Any]:
    """A block that calls a tool."""
    return {"type": "tool_use", "id": identifier, "name": name, "input": fields}


def usage_of(into: int, out: int) -> dict[str, int]:
    """The usage object."""
    return {"input_tokens": into, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": out}


def message(*blocks: dict[str, Any], stop: str = "end_turn", usage: dict[str, int] | None = None) -> bytes:
    """A complete answer; one block of text and usage of 3 + 5 tokens unless told."""
    body = _message(list(blocks) or [text("Hello there.")], usage or usage_of(3, 5)) | {"stop_reason": stop}
    return http(json.dumps(body).encode(), headers=[("request-id", "req_upstream")])


def failure(status: int, kind: str, said: str = "no", *, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """An error in Anthropic's words."""
    return http(json.dumps(_error(kind, said)).encode(), status=status, headers=headers)


def frame(kind: str, **fields: Any) -> bytes:
    """One event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, separators=(',', ':'))}\n\n".encode()


PING: Final = frame("ping")
STOP: Final = frame("message_stop")


def error_frame(kind: str, said: str = "no") -> bytes:
    """The event that ends a stream which failed."""
    return frame("error", error=_error(kind, said)["error"])


def story(*blocks: dict[str, Any], stop: str = "end_turn", usage: dict[str, int] | None = None, pieces: int = 2) -> list[bytes]:
    """The frames of a proper stream, each block's content cut into so many `pieces`."""
    counted = usage or usage_of(3, 5)
    frames = [frame("message_start", message=_message([], counted | {"output_tokens": 1})), PING]
    for index, block in enumerate(blocks or (text("Hello there."),)):
        frames += _block(index, block, pieces)
    return [*frames, frame("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=counted), STOP]


def _block(index: int, block: dict[str, Any], pieces: int) -> list[bytes]:
    kind = block["type"]
    empty, deltas = block, []
    if kind == "text":
        empty = text("")
        deltas = [{"type": "text_delta", "text": part} for part in _cut(block["text"], pieces)]
    elif kind == "thinking":
        empty = thinking("", "")
        deltas = [{"type": "thinking_delta", "thinking": part} for part in _cut(block["thinking"], pieces)]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif kind == "tool_use":
        empty = block | {"input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ["", *_cut(json.dumps(block["input"]), pieces)]]
    return [
        frame("content_block_start", index=index, content_block=empty),
        *(frame("content_block_delta", index=index, delta=delta) for delta in deltas),
        frame("content_block_stop", index=index),
    ]


def _cut(whole: str, pieces: int) -> list[str]:
    size = max(1, -(-len(whole) // pieces))
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _message(content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _error(kind: str, said: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_upstream"}
