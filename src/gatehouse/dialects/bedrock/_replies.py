"""The shapes of what Converse answers, whole and in pieces. What we do not know is tolerated and left out: no bytes of this
dialect ever leave for a caller, so what was not decoded does not pass.
"""

from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from gatehouse.core.events import FinishReason
from gatehouse.dialects._failures import not_understood

ABSENT: Final = Raw()

_FINISHES: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_MALFORMED: Final = frozenset({"malformed_model_output", "malformed_tool_use"})


def finish_reason(said: str) -> FinishReason:
    """Why an answer ended, in core's words; a reason that is not known counts as stop.

    Raises:
        UpstreamFailed: the service says that what the model wrote is no answer.
    """
    if said in _MALFORMED:
        raise not_understood(f"stop reason {said}")
    return _FINISHES.get(said, "stop")


class _Shape(Struct, rename="camel", gc=False):
    """Base of all shapes."""


class ReasoningText(_Shape):
    """Reasoning and the proof of it."""

    text: str = ""
    signature: str | None = None


class ReasoningBlock(_Shape):
    """Reasoning: readable or encrypted (base64)."""

    reasoning_text: ReasoningText | None = None
    redacted_content: str | None = None


class ToolUse(_Shape):
    """A tool called; `input` is its arguments, any JSON."""

    tool_use_id: str = ""
    name: str = ""
    input: Raw = ABSENT


class CitedText(_Shape):
    """A piece of text that has citations."""

    text: str = ""


class Cited(_Shape):
    """Text with citations; the text is part of the answer."""

    content: list[CitedText] = []


class Block(_Shape):
    """One block of content: exactly one member is there."""

    text: str | None = None
    tool_use: ToolUse | None = None
    reasoning_content: ReasoningBlock | None = None
    citations_content: Cited | None = None


class _Message(_Shape):
    content: list[Block] = []


class _Output(_Shape):
    message: _Message


class Beyond(_Shape, rename=None):
    """Fields of the model's own answer that we asked for."""

    stop_sequence: str | None = None


class AnswerReply(_Shape):
    """A whole answer."""

    output: _Output
    stop_reason: str
    usage: Raw = ABSENT
    additional_model_response_fields: Raw = ABSENT


class ToolStart(_Shape):
    """A tool call begins."""

    tool_use_id: str = ""
    name: str = ""


class _Start(_Shape):
    tool_use: ToolStart | None = None


class BlockStart(_Shape):
    """`contentBlockStart`."""

    content_block_index: int
    start: _Start


class ReasoningPiece(_Shape):
    """A piece of reasoning, its proof, or an encrypted whole."""

    text: str = ""
    signature: str = ""
    redacted_content: str = ""


class ToolPiece(_Shape):
    """A piece of a tool's arguments."""

    input: str = ""


class _Delta(_Shape):
    text: str = ""
    tool_use: ToolPiece | None = None
    reasoning_content: ReasoningPiece | None = None


class BlockDelta(_Shape):
    """`contentBlockDelta`."""

    content_block_index: int
    delta: _Delta


class BlockStop(_Shape):
    """`contentBlockStop`."""

    content_block_index: int


class MessageStop(_Shape):
    """`messageStop`."""

    stop_reason: str
    additional_model_response_fields: Raw = ABSENT


class Metadata(_Shape):
    """`metadata`."""

    usage: Raw = ABSENT


EventName = Literal["contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"]


def stop_sequence(raw: Raw) -> str | None:
    """The stop text that was met, when the model's own answer told it."""
    try:
        return msgspec.json.decode(raw, type=Beyond).stop_sequence
    except (ValueError, RecursionError):
        return None
