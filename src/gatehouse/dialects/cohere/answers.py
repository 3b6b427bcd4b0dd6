"""Whole answers of Cohere's `/v2/chat`."""

from typing import Final

import msgspec

from gatehouse.core.calls import ToolCall
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.cohere._replies import NAME, AnswerReply, ToolReply, finish_reason, given, read_logprobs, read_usage

_decode: Final = msgspec.json.Decoder(AnswerReply).decode


def decode_answer(body: bytes) -> Answer:
    """The answer in a 200 response's body.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or one that ended in an error.
    """
    try:
        reply = _decode(body)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    message = reply.message
    if message is None:
        raise not_understood(f"answer of {len(body)} bytes without a message")
    if reply.finish_reason is None:
        raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail="an answer without a finish reason")
    content = message.content or []
    text = (message.tool_plan or "") + "".join([piece.text or "" for piece in content])
    choice = Choice(
        0,
        text if text or not message.tool_calls else None,
        "".join([piece.thinking or "" for piece in content]) or None,
        None,
        tuple([_tool(called) for called in message.tool_calls]) if message.tool_calls else (),
        finish_reason(reply.finish_reason),
        read_logprobs(reply.logprobs or []),
    )
    usage = read_usage(reply.usage) if given(reply.usage) else None
    return Answer((choice,), reply.id or "", "", 0, usage, dialect=NAME)


def _tool(called: ToolReply) -> ToolCall:
    function = called.function
    if function is None:
        return ToolCall(called.id or "", "", "{}")
    return ToolCall(called.id or "", function.name or "", function.arguments or "{}")
