"""Whole answers, both ways. The bytes of an answer pass as they came; it is written anew only when a stage changed it."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Choice
from gatehouse.core.usage import Usage
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.openai._replies import FINISHES, AnswerReply, ChoiceReply, StrictAnswerReply, given
from gatehouse.dialects.openai.errors import error_in_answer
from gatehouse.dialects.openai.requests import tool_call
from gatehouse.dialects.openai.usage import UsageReply, buckets, read_usage, write_usage

NAME: Final = "openai"
_decode_strictly: Final = msgspec.json.Decoder(StrictAnswerReply).decode


class _Counted(StrictAnswerReply, gc=False):
    """As nearly every answer is: with a usage that reads as one."""

    usage: UsageReply | None = None  # type: ignore[assignment]


_decode_counted: Final = msgspec.json.Decoder(_Counted).decode


def decode_answer(body: bytes, call: Call | None = None) -> Answer:
    """The answer in a 200 response's body; unknown fields stay in `raw` only, and in a choice they make it opaque.

    A usage that cannot be true is left out of both the value and `raw`.

    Raises:
        UpstreamFailed: not an answer (upstream_invalid), or an error dressed as one.
    """
    try:
        counted: _Counted = _decode_counted(body)
    except (ValueError, RecursionError):
        return _decode_with_care(body)
    usage = None if counted.usage is None else buckets(counted.usage)
    choices = []
    for choice in counted.choices or ():
        if (choice.finish_reason or "stop") not in FINISHES:
            return _decode_with_care(body)
        choices.append(_choice(choice))
    if usage is None or not choices:
        return _decode_with_care(body)
    return _answer(counted, choices, usage, body)


def _decode_with_care(body: bytes) -> Answer:
    """The same for an answer of which not all is as it should be."""
    opaque = False
    try:
        try:
            reply: AnswerReply = _decode_strictly(body)
        except msgspec.ValidationError:
            reply = msgspec.json.decode(body, type=AnswerReply)
            opaque = True
    except (ValueError, RecursionError) as fault:
        raise not_understood(f"answer of {len(body)} bytes: {type(fault).__name__}") from None
    if not reply.choices:
        if given(reply.error):
            raise error_in_answer(reply.error)
        raise not_understood(f"answer of {len(body)} bytes without choices")
    for choice in reply.choices:
        opaque = opaque or (choice.finish_reason or "stop") not in FINISHES
    usage = None
    if given(reply.usage):
        usage = read_usage(reply.usage)
        if usage is None:
            body = without_usage(body)
    return _answer(reply, [_choice(choice) for choice in reply.choices], usage, body, opaque=opaque)


def _answer(reply: AnswerReply, choices: Sequence[Choice], usage: Usage | None, body: bytes, *, opaque: bool = False) -> Answer:
    return Answer(
        tuple(choices),
        reply.id or "",
        reply.model or "",
        int(reply.created or 0),
        usage,
        reply.system_fingerprint,
        body,
        NAME,
        opaque,
    )


def _choice(reply: ChoiceReply) -> Choice:
    message = reply.message
    return Choice(
        reply.index,
        message.content,
        message.thoughts() if message.reasoning_content or message.reasoning else None,
        message.refusal,
        tuple([piece.core() for piece in message.tool_calls]) if message.tool_calls else (),
        FINISHES.get(reply.finish_reason or "stop", "stop"),
        reply.logprobs,
    )


def without_usage(body: bytes) -> bytes:
    """The same JSON object without its usage; empty when what a target wrote beside the answer cannot be written again."""
    try:
        value = msgspec.json.decode(body, type=dict[str, Any])
        value.pop("usage", None)
        return msgspec.json.encode(value)
    except (ValueError, RecursionError, OverflowError):
        return b""


def encode_answer(answer: Answer, call: Call) -> bytes:
    """The body for `answer`: its own bytes when they are of this dialect."""
    if answer.raw and answer.dialect == NAME:
        return answer.raw
    body: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model or call.model,
        "choices": [_write_choice(choice) for choice in answer.choices],
    }
    if answer.usage is not None:
        body["usage"] = write_usage(answer.usage)
    if answer.fingerprint is not None:
        body["system_fingerprint"] = answer.fingerprint
    return msgspec.json.encode(body)


def _write_choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": choice.refusal}
    if choice.reasoning is not None:
        message["reasoning_content"] = choice.reasoning
    if choice.tools:
        message["tool_calls"] = [tool_call(called) for called in choice.tools]
    return {"index": choice.index, "message": message, "logprobs": choice.logprobs, "finish_reason": choice.finish}
