"""Whole answers of Converse."""

from typing import Final

import msgspec

from gatehouse.core.calls import ToolCall
from gatehouse.core.events import Answer, Choice
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.bedrock._replies import ABSENT, AnswerReply, Block, ToolUse, finish_reason, stop_sequence
from gatehouse.dialects.bedrock.usage import read_usage

NAME: Final = "bedrock"
_decode: Final = msgspec.json.Decoder(AnswerReply).decode


def decode_answer(body: bytes) -> Answer:
    """The answer in a 200 response's body. A usage that cannot be true is left out.

    Raises:
        UpstreamFailed: not an answer, or one that the service itself calls malformed (upstream_invalid).
    """
    try:
        reply = _decode(body)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    blocks = reply.output.message.content
    text = "".join([_text(block) for block in blocks])
    tools = tuple([_tool(block.tool_use) for block in blocks if block.tool_use is not None])
    thoughts = [block.reasoning_content for block in blocks if block.reasoning_content is not None]
    said = [thought.reasoning_text for thought in thoughts if thought.reasoning_text is not None]
    choice = Choice(
        0,
        text if text or not tools else None,
        "".join([piece.text for piece in said]) or None,
        None,
        tools,
        finish_reason(reply.stop_reason),
        signature="".join([piece.signature or "" for piece in said]) or None,
        redacted=tuple([thought.redacted_content for thought in thoughts if thought.redacted_content]),
        stop_sequence=stop_sequence(reply.additional_model_response_fields) if reply.stop_reason == "stop_sequence" else None,
    )
    return Answer((choice,), usage=read_usage(reply.usage), dialect=NAME)


def _text(block: Block) -> str:
    if block.citations_content is not None:
        return "".join([piece.text for piece in block.citations_content.content])
    return block.text or ""


def _tool(use: ToolUse) -> ToolCall:
    return ToolCall(use.tool_use_id, use.name, "{}" if use.input is ABSENT else bytes(use.input).decode())
