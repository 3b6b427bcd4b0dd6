"""The shapes of what a target answers. Fields we do not know are tolerated here: the bytes pass on as they came.

Usage and errors stay undecoded at first: a count or an error that is written badly must not spoil the answer around it.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Raw, Struct

from gatehouse.core.calls import ToolCall
from gatehouse.core.events import FinishReason

FINISHES: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
"""The protocol's words for why a choice ended, in core's."""


ABSENT: Final = Raw()


def given(member: Raw) -> bool:
    """Whether the member is there and not null."""
    return member is not ABSENT and bytes(member) != b"null"


def finish_reason(said: str | None) -> FinishReason:
    """Why a choice ended, in core's words; reasons that only one server knows (`eos`, `abort`) count as stop."""
    return FINISHES.get(said or "stop", "stop")


def is_known(said: str | None) -> bool:
    """Whether a finish reason is one of the protocol's; what else stands there is a target's own word, which nobody reads."""
    return not said or said in FINISHES


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Custom(Struct, gc=False):
    name: str | None = None
    input: str | None = None


class ToolPiece(Struct, gc=False):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None

    def core(self) -> ToolCall:
        """The complete call of an answer."""
        if self.custom is not None:
            return ToolCall(self.id or "", self.custom.name or "", self.custom.input or "", "custom")
        function = self.function or _Function()
        return ToolCall(self.id or "", function.name or "", function.arguments or "")


class MessageReply(Struct, gc=False):
    """The message of an answer, or the delta of a chunk."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolPiece] | None = None

    def thoughts(self) -> str | None:
        """The reasoning under both its names, so that none passes unread; servers that use both say the same twice."""
        first, second = self.reasoning_content, self.reasoning
        if not first or not second or first == second:
            return first or second
        return first + second


class ChoiceReply(Struct, gc=False):
    """One choice of an answer."""

    message: MessageReply
    index: int = 0
    finish_reason: str | None = None
    logprobs: Any = None


class ChoicePiece(Struct, gc=False):
    """One choice of a chunk."""

    delta: MessageReply | None = None
    index: int = 0
    finish_reason: str | None = None
    logprobs: Any = None


class AnswerReply(Struct, gc=False):
    """A whole answer."""

    choices: list[ChoiceReply] | None = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: Raw = ABSENT
    system_fingerprint: str | None = None
    error: Raw = ABSENT


class ChunkReply(Struct, gc=False):
    """One frame of a stream."""

    choices: list[ChoicePiece] | None = None
    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    usage: Raw = ABSENT
    system_fingerprint: str | None = None
    error: Raw = ABSENT


# The same shapes, strict: what decodes under these was read to the last word. Everything else is decoded under the ones above
# and marked opaque, so that a guard that must have read all of it does not let the bytes pass.


class _StrictFunction(_Function, gc=False, forbid_unknown_fields=True):
    pass


class _StrictCustom(_Custom, gc=False, forbid_unknown_fields=True):
    pass


class _StrictToolPiece(ToolPiece, gc=False, forbid_unknown_fields=True):
    function: _StrictFunction | None = None
    custom: _StrictCustom | None = None
    type: str | None = None


class _StrictMessage(MessageReply, gc=False, forbid_unknown_fields=True):
    role: str | None = None
    tool_calls: list[_StrictToolPiece] | None = None  # type: ignore[assignment]
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[None], Meta(max_length=0)] | None = None


class _StrictChoice(ChoiceReply, gc=False, forbid_unknown_fields=True):
    message: _StrictMessage
    stop_reason: int | None = None
    matched_stop: int | None = None


class _StrictPiece(ChoicePiece, gc=False, forbid_unknown_fields=True):
    delta: _StrictMessage | None = None
    stop_reason: int | None = None
    matched_stop: int | None = None


class StrictAnswerReply(AnswerReply, gc=False):
    """A whole answer whose choices hold nothing that we do not read."""

    choices: list[_StrictChoice] | None = None  # type: ignore[assignment]


class StrictChunkReply(ChunkReply, gc=False):
    """A frame whose choices hold nothing that we do not read."""

    choices: list[_StrictPiece] | None = None  # type: ignore[assignment]
