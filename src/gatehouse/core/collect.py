"""A stream of events folded into one answer: for readers that do not stream, and for the cache."""

from typing import Any

from gatehouse.core.calls import ToolCall
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events, FinishReason, ToolDelta
from gatehouse.core.usage import Usage


class Collector:
    """Add every event of a stream, then ask for the answer. An `Answer` among them is the answer, untouched, bytes and all."""

    __slots__ = ("_choices", "_created", "_fingerprint", "_id", "_model", "_usage", "_whole")

    def __init__(self) -> None:
        self._whole: Answer | None = None
        self._choices: dict[int, _Growing] = {}
        self._id = ""
        self._model = ""
        self._created = 0
        self._fingerprint: str | None = None
        self._usage: Usage | None = None

    def add(self, event: Event) -> None:
        """Take in the next event."""
        if type(event) is not Chunk:
            assert isinstance(event, Answer)
            self._whole = event
            return
        for delta in event.choices:
            growing = self._choices.get(delta.index)
            if growing is None:
                growing = self._choices[delta.index] = _Growing()
            growing.add(delta)
        if event.usage is not None:
            self._usage = event.usage
        if not self._id:
            self._id, self._model, self._created = event.id, event.model, event.created
        if event.fingerprint is not None:
            self._fingerprint = event.fingerprint

    def answer(self) -> Answer:
        """The answer so far; whole once the stream has ended without an exception."""
        if self._whole is not None:
            return self._whole
        choices = tuple(growing.choice(index) for index, growing in sorted(self._choices.items()))
        return Answer(choices, self._id, self._model, self._created, self._usage, self._fingerprint)


async def collected(events: Events) -> Answer:
    """A whole answer: the one event it came in, or all of them put together."""
    answer: Answer | None = None
    collector: Collector | None = None
    async for event in events:
        if type(event) is Answer:
            answer = event
        else:
            collector = collector or Collector()
            collector.add(event)
    if answer is None and collector is not None:
        answer = collector.answer()
    if answer is None:
        raise RuntimeError("a call was answered without an event")
    return answer


class _Growing:
    """One choice while its pieces come in."""

    __slots__ = (
        "_finish",
        "_logprobs",
        "_reasoning",
        "_redacted",
        "_refusal",
        "_resumed",
        "_signature",
        "_stop_sequence",
        "_text",
        "_tools",
    )

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tools: dict[int, list[ToolDelta]] = {}
        self._finish: FinishReason | None = None
        self._logprobs: Any = None
        self._signature = ""
        self._resumed = False
        """More reasoning came after a signature: as one text, no proof covers it."""
        self._redacted: list[str] = []
        self._stop_sequence: str | None = None

    def add(self, delta: ChoiceDelta) -> None:
        if delta.text:
            self._text.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
            self._resumed = self._resumed or self._signature != ""
        if delta.refusal:
            self._refusal.append(delta.refusal)
        for tool in delta.tools:
            self._tools.setdefault(tool.index, []).append(tool)
        if delta.finish is not None:
            self._finish = delta.finish
        if delta.logprobs is not None:
            self._logprobs = _joined(self._logprobs, delta.logprobs)
        if delta.signature:
            self._signature += delta.signature
        if delta.redacted:
            self._redacted.append(delta.redacted)
        if delta.stop_sequence is not None:
            self._stop_sequence = delta.stop_sequence

    def choice(self, index: int) -> Choice:
        tools = tuple(_tool_call(pieces) for _, pieces in sorted(self._tools.items()))
        text = "".join(self._text)
        refusal = "".join(self._refusal)
        return Choice(
            index,
            text if text or not (tools or refusal) else None,
            "".join(self._reasoning) or None,
            refusal or None,
            tools,
            self._finish or "stop",
            self._logprobs,
            None if self._resumed else self._signature or None,
            tuple(self._redacted),
            self._stop_sequence,
        )


def _tool_call(pieces: list[ToolDelta]) -> ToolCall:
    identifier = next((piece.id for piece in pieces if piece.id), "")
    name = next((piece.name for piece in pieces if piece.name), "")
    return ToolCall(identifier, name, "".join([piece.arguments for piece in pieces]))


def _joined(before: Any, more: Any) -> Any:
    """Log probabilities of both pieces: lists under the same name follow each other; what is not so shaped is replaced."""
    if not isinstance(before, dict) or not isinstance(more, dict):
        return more
    joined = dict(before)
    for name, items in more.items():
        earlier = joined.get(name)
        if isinstance(earlier, list) and isinstance(items, list):
            joined[name] = earlier + items
        elif items is not None:
            joined[name] = items
    return joined
