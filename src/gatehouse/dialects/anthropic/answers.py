"""Whole answers, both ways. The bytes of an answer pass as they came; it is written anew only when a stage changed it."""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, ToolCall
from gatehouse.core.events import Answer, Choice
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.anthropic._messages import tool_use
from gatehouse.dialects.anthropic._replies import LooseAnswer, LooseBlock, StrictAnswer, finish_reason, given, stop_reason
from gatehouse.dialects.anthropic.errors import error_in_answer
from gatehouse.dialects.anthropic.usage import read_usage, write_usage

NAME: Final = "anthropic"
_read_strictly: Final = msgspec.json.Decoder(StrictAnswer).decode


def decode_answer(body: bytes) -> Answer:
    """The answer in a 200 response's body; what we do not know stays in `raw` only, and in the content it makes the answer opaque.

    A usage that cannot be true is left out of both the value and `raw`.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or an error dressed as one.
    """
    try:
        reply = msgspec.json.decode(body, type=LooseAnswer)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    if reply.type == "error" or (reply.content is None and given(reply.error)):
        raise error_in_answer(reply.error)
    if reply.content is None:
        raise not_understood(f"answer of {len(body)} bytes without content")
    opaque = False
    try:
        _read_strictly(body)
    except msgspec.ValidationError:
        opaque = True
    usage = None
    if given(reply.usage):
        usage = read_usage(reply.usage)
        if usage is None:
            body = b""
    return Answer((_choice(reply, reply.content),), reply.id or "", reply.model or "", 0, usage, None, body, NAME, opaque)


def _choice(reply: LooseAnswer, content: list[LooseBlock]) -> Choice:
    texts = [block.text or "" for block in content if block.type == "text"]
    thoughts = [block for block in content if block.type == "thinking"]
    signatures = [block.signature for block in thoughts if block.signature]
    return Choice(
        0,
        "".join(texts) if texts else None,
        "".join([block.thinking or "" for block in thoughts]) if thoughts else None,
        None,
        tuple([_tool_call(block) for block in content if block.type == "tool_use"]),
        finish_reason(reply.stop_reason),
        None,
        # Two proofs cannot be told apart once their reasoning is one text.
        signatures[0] if len(signatures) == 1 == len(thoughts) else None,
        tuple([block.data or "" for block in content if block.type == "redacted_thinking"]),
        reply.stop_sequence,
    )


def _tool_call(block: LooseBlock) -> ToolCall:
    return ToolCall(block.id or "", block.name or "", bytes(block.input).decode() if given(block.input) else "{}")


def encode_answer(answer: Answer, call: Call) -> bytes:
    """The body for `answer`: its own bytes when they are of this dialect. The API gives one choice, so the first is told."""
    if answer.raw and answer.dialect == NAME:
        return answer.raw
    choice = answer.choices[0] if answer.choices else Choice()
    return msgspec.json.encode(
        {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "model": answer.model or call.model,
            "content": blocks(choice),
            "stop_reason": stop_reason(choice.finish, choice.stop_sequence, calls=bool(choice.tools)),
            "stop_sequence": choice.stop_sequence,
            "usage": write_usage(answer.usage),
        }
    )


def blocks(choice: Choice) -> list[dict[str, Any]]:
    """The content of a message: what was thought, what was said, which tools are called."""
    content: list[dict[str, Any]] = []
    if choice.reasoning or choice.signature:
        content.append({"type": "thinking", "thinking": choice.reasoning or "", "signature": choice.signature or ""})
    content += [{"type": "redacted_thinking", "data": data} for data in choice.redacted]
    said = (choice.text or "") + (choice.refusal or "")
    if said:
        content.append({"type": "text", "text": said})
    content += [tool_use(called) for called in choice.tools]
    return content
