"""Whole answers of `generateContent`."""

from typing import Final

import msgspec

from gatehouse.core.calls import ToolCall
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.gemini._contents import SIGNATURE
from gatehouse.dialects.gemini._replies import CandidateReply, GenerateReply, call_id, finish_reason, given, read_logprobs
from gatehouse.dialects.gemini.errors import error_in_answer
from gatehouse.dialects.gemini.usage import read_usage

NAME: Final = "gemini"
_decode: Final = msgspec.json.Decoder(GenerateReply).decode


def decode_answer(body: bytes) -> Answer:
    """The answer in a 200 response's body. A prompt that the provider blocked is an answer of nothing that a filter ended.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or an error dressed as one.
    """
    try:
        reply = _decode(body)
        return _answer(reply, body)
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None


def _answer(reply: GenerateReply, body: bytes) -> Answer:
    if given(reply.error):
        raise error_in_answer(reply.error)
    identifier = reply.response_id or ""
    if reply.candidates:
        choices = tuple([_choice(candidate, at, identifier, body) for at, candidate in enumerate(reply.candidates)])
    elif is_blocked(reply):
        choices = (Choice(0, "", finish="content_filter"),)
    else:
        raise not_understood(f"answer of {len(body)} bytes without candidates")
    usage = read_usage(reply.usage_metadata) if given(reply.usage_metadata) else None
    return Answer(choices, identifier, reply.model_version or "", 0, usage, dialect=NAME)


def is_blocked(reply: GenerateReply) -> bool:
    """Whether the provider refused the prompt itself."""
    return reply.prompt_feedback is not None and bool(reply.prompt_feedback.block_reason)


def _choice(candidate: CandidateReply, at: int, response_id: str, body: bytes) -> Choice:
    texts: list[str] = []
    thoughts: list[str] = []
    tools: list[ToolCall] = []
    signature = ""
    for part in candidate.parts(body):
        if part.function_call is not None:
            called = part.function_call
            tools.append(ToolCall(call_id(called.id, response_id, len(tools)), called.name, called.arguments()))
            signature = signature or part.thought_signature or ""
        elif part.text:
            (thoughts if part.thought else texts).append(part.text)
    if candidate.finish_reason is None:
        raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail="a candidate without a finish reason")
    text = "".join(texts)
    return Choice(
        at if candidate.index is None else candidate.index,
        text if text or not tools else None,
        "".join(thoughts) or None,
        None,
        tuple(tools),
        finish_reason(candidate.finish_reason, called=bool(tools)),
        read_logprobs(candidate.logprobs_result),
        signature=SIGNATURE + signature if signature else None,
    )
