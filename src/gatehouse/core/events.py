"""A reply is always a stream of events. Most often that is many `Chunk`s; a target that answers in one piece yields one `Answer`.

`raw` is the event as it came, in the words of `dialect`: when no stage changed the event and the caller speaks that
dialect, these bytes are what leaves. A stage that changes an event makes a new one without `raw`.
A stream that ends without an exception is complete; every other end raises.
"""

from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec

from gatehouse.core.calls import ToolCall
from gatehouse.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ToolDelta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A piece of a tool call: `id` and `name` come with its first piece, `arguments` in pieces."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ChoiceDelta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one event adds to one choice. `logprobs` is opaque JSON. `begins` is true on the first piece of its choice (and
    only there): dialects say the role with it."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: tuple[ToolDelta, ...] = ()
    finish: FinishReason | None = None
    logprobs: Any = None
    begins: bool = False
    signature: str = ""
    """The target's proof of the reasoning before it."""
    redacted: str = ""
    """A whole piece of reasoning as the target encrypted it."""
    stop_sequence: str | None = None
    """Beside finish stop: the caller's stop text that was met, where the target says which."""


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One piece of an answer. A usage-only chunk has no choices. `usage` is the target's own word, already in disjoint buckets."""

    choices: tuple[ChoiceDelta, ...] = ()
    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None
    fingerprint: str | None = None
    raw: bytes = b""
    """The complete frame ("data: {...}\\n\\n" for SSE), or empty."""
    dialect: str = ""
    opaque: bool = False
    """`raw` holds members of a choice that were not decoded: who must have read all that leaves makes the event anew without `raw`."""
    interim: bool = False
    """`usage` is a count so far, and another follows: it is accounted, and told only by dialects that count as they go."""
    kept: bool = True
    """False on a chunk of nothing after the last one: the response was to be kept and could not be."""

    @property
    def text(self) -> str:
        """What it adds to the first choice's text; "" when it adds none."""
        return next((choice.text for choice in self.choices if choice.index == 0), "")


class Choice(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One complete choice. `text` is None when the model only called tools."""

    index: int = 0
    text: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tools: tuple[ToolCall, ...] = ()
    finish: FinishReason = "stop"
    logprobs: Any = None
    signature: str | None = None
    """As in `ChoiceDelta`."""
    redacted: tuple[str, ...] = ()
    """As in `ChoiceDelta`, one a piece."""
    stop_sequence: str | None = None
    """As in `ChoiceDelta`."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A whole answer in one event."""

    choices: tuple[Choice, ...]
    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None
    fingerprint: str | None = None
    raw: bytes = b""
    """The complete body as it came, or empty."""
    dialect: str = ""
    opaque: bool = False
    """As in `Chunk`."""
    vectors: tuple[bytes, ...] = ()
    """An embedding's answer: a vector for each input, as little-endian float32; `choices` is empty then."""

    @property
    def text(self) -> str:
        """The first choice's text; "" when the model only called tools."""
        return (self.choices[0].text or "") if self.choices else ""


Event = Chunk | Answer
Events = AsyncGenerator[Event, None]
"""Who opens one closes it (`aclose`) on every exit; who wraps one closes what it wrapped."""
