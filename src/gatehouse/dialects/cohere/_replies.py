"""The shapes of what Cohere answers. Fields we do not know are tolerated: citations, for which nobody can ask."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import FinishReason
from gatehouse.core.usage import Usage

NAME: Final = "cohere"
ABSENT: Final = Raw()

_FINISHES: Final[dict[str, FinishReason]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "ERROR_LIMIT": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}


def given(member: Raw) -> bool:
    """Whether the member is there and not null."""
    return member is not ABSENT and bytes(member) != b"null"


def finish_reason(said: str) -> FinishReason:
    """Why the answer ended, in core's words; words that are new to us count as stop.

    Raises:
        UpstreamFailed: it ended because the target failed.
    """
    if said == "TIMEOUT":
        raise UpstreamFailed("The model took too long to answer.", code="upstream_timeout", detail="finish reason TIMEOUT")
    finish = _FINISHES.get(said)
    if finish is None and said.startswith(("ERROR", "USER_CANCEL")):
        raise UpstreamFailed("The model failed to answer.", code="upstream_rejected", detail="finish reason ERROR")
    return finish or "stop"


class FunctionReply(Struct, gc=False):
    """The function of a tool call, or a piece of its arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolReply(Struct, gc=False):
    """A tool call, or a piece of one."""

    id: str | None = None
    function: FunctionReply | None = None


class ContentReply(Struct, gc=False):
    """A piece of content: text or reasoning."""

    text: str | None = None
    thinking: str | None = None


class MessageReply(Struct, gc=False):
    """The message of a whole answer."""

    content: list[ContentReply] | None = None
    tool_plan: str | None = None
    tool_calls: list[ToolReply] | None = None


class LogprobReply(Struct, gc=False):
    """A piece of text with the probabilities of its tokens."""

    text: str | None = None
    logprobs: list[float] | None = None


class AnswerReply(Struct, gc=False):
    """A whole answer."""

    message: MessageReply | None = None
    id: str | None = None
    finish_reason: str | None = None
    usage: Raw = ABSENT
    logprobs: list[LogprobReply] | None = None


class MessagePiece(Struct, gc=False):
    """What an event adds to the message; a tool call stands alone here, not in a list. What begins a message has lists."""

    content: ContentReply | list[Any] | None = None
    tool_plan: str | None = None
    tool_calls: ToolReply | list[Any] | None = None


class DeltaPiece(Struct, gc=False):
    """What an event says."""

    message: MessagePiece | None = None
    finish_reason: str | None = None
    usage: Raw = ABSENT
    error: str | None = None


class EventReply(Struct, gc=False):
    """One event of a stream."""

    type: str = ""
    id: str | None = None
    index: int = 0
    delta: DeltaPiece | None = None
    logprobs: LogprobReply | None = None
    message: str | None = None
    """Of an error in place of an event."""


def read_logprobs(items: list[LogprobReply]) -> dict[str, Any] | None:
    """Log probabilities in the shape core carries them in (OpenAI's): a piece of several tokens counts as one."""
    if not items:
        return None
    content = [
        {
            "token": item.text or "",
            "logprob": sum(item.logprobs or ()),
            "bytes": list((item.text or "").encode("utf-8", "replace")),
            "top_logprobs": [],
        }
        for item in items
    ]
    return {"content": content}


_Count = Annotated[float, Meta(ge=0, le=10**9)]


class _Counts(Struct, gc=False):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None


class _Usage(Struct, gc=False):
    billed_units: _Counts | None = None
    tokens: _Counts | None = None
    cached_tokens: _Count | None = None


def read_usage(raw: bytes | Raw) -> Usage | None:
    """The buckets of a usage object; None when it is absurd (negative, nothing at all, above 10^9).

    What is billed counts, where Cohere says it: the tokens of its own template are in `tokens` and not paid for.
    """
    try:
        usage = msgspec.json.decode(raw, type=_Usage)
    except (ValueError, RecursionError):
        return None
    counts = usage.billed_units
    if counts is None or (counts.input_tokens is None and counts.output_tokens is None):
        counts = usage.tokens
    if counts is None:
        return None
    into, out = int(counts.input_tokens or 0), int(counts.output_tokens or 0)
    if not into + out:
        return None
    cached = min(into, int(usage.cached_tokens or 0))
    return Usage(input=into - cached, cached_input=cached, output=out)
