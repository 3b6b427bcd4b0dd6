"""The shapes of what a target answers, whole and streamed: strict ones, and a loose one for what the strict ones do not know.

What decodes under a strict shape was read to the last word. Everything else is decoded loosely and marked opaque, so that a
guard that must have read all of it does not let the bytes pass. Usage and errors stay undecoded at first: a count or an error
that is written badly must not spoil the answer around it.
"""

from typing import Annotated, Final

from msgspec import Meta, Raw, Struct

from gatehouse.core.events import FinishReason

ABSENT: Final = Raw()

_FINISHES: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_REASONS: Final[dict[FinishReason, str]] = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def given(member: Raw) -> bool:
    """Whether the member is there and not null."""
    return member is not ABSENT and bytes(member) != b"null"


def finish_reason(said: str | None) -> FinishReason:
    """Why a message ended, in core's words; reasons to come count as stop."""
    return _FINISHES.get(said or "end_turn", "stop")


def stop_reason(finish: FinishReason, sequence: str | None, *, calls: bool) -> str:
    """Why a choice ended, in Anthropic's words. Where tools are called (`calls`) that is the reason; some targets say stop."""
    if finish == "stop":
        return "tool_use" if calls else "end_turn" if sequence is None else "stop_sequence"
    return _REASONS[finish]


class _Strict(Struct, gc=False, forbid_unknown_fields=True, tag_field="type"):
    """Base of the shapes that know every member."""


class _Direct(_Strict, tag="direct"):
    pass


_Nothing = Annotated[list[None], Meta(max_length=0)]


class _TextBlock(_Strict, tag="text"):
    text: str
    citations: _Nothing | None = None


class _ThinkingBlock(_Strict, tag="thinking"):
    thinking: str
    signature: str = ""


class _RedactedBlock(_Strict, tag="redacted_thinking"):
    data: str


class _ToolBlock(_Strict, tag="tool_use"):
    id: str
    name: str
    input: Raw
    caller: _Direct | None = None
    toolset_name: None = None


_Block = _TextBlock | _ThinkingBlock | _RedactedBlock | _ToolBlock


class StrictAnswer(Struct, gc=False):
    """A whole answer whose content holds nothing that we do not read. What stands beside the content is no part of it."""

    content: list[_Block]
    stop_details: None = None
    container: None = None


class TextDelta(_Strict, tag="text_delta"):
    """More text."""

    text: str


class InputDelta(_Strict, tag="input_json_delta"):
    """More of a tool's input."""

    partial_json: str


class ThinkingDelta(_Strict, tag="thinking_delta"):
    """More reasoning."""

    thinking: str


class SignatureDelta(_Strict, tag="signature_delta"):
    """The signature of the reasoning before it."""

    signature: str


class Piece(_Strict, tag="content_block_delta"):
    """What most frames of a stream are: a piece of a block."""

    index: int
    delta: TextDelta | InputDelta | ThinkingDelta | SignatureDelta


class _Begun(Struct, gc=False):
    content: _Nothing | None = None
    container: None = None


class _Start(Struct, gc=False, tag_field="type", tag="message_start"):
    message: _Begun


class _BlockStart(_Strict, tag="content_block_start"):
    index: int
    content_block: _Block


class _BlockStop(_Strict, tag="content_block_stop"):
    index: int


class _Ended(Struct, gc=False, forbid_unknown_fields=True):
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None


class _MessageDelta(Struct, gc=False, tag_field="type", tag="message_delta"):
    delta: _Ended


class _Ping(_Strict, tag="ping"):
    pass


StrictEvent = Piece | _Start | _BlockStart | _BlockStop | _MessageDelta | _Ping
"""Every event that carries content, and nothing in it that we do not read."""


class LooseBlock(Struct, gc=False):
    """A block of any kind, as far as we know it; or the change of one."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = ABSENT
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class LooseAnswer(Struct, gc=False):
    """A whole answer, or the message a stream begins with."""

    content: list[LooseBlock] | None = None
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Raw = ABSENT
    type: str | None = None
    error: Raw = ABSENT


class LooseEvent(Struct, gc=False):
    """An event of any kind."""

    type: str
    index: int = 0
    message: LooseAnswer | None = None
    content_block: LooseBlock | None = None
    delta: LooseBlock | None = None
    usage: Raw = ABSENT
    error: Raw = ABSENT


KNOWN_BLOCKS: Final = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
