"""Streams of the Responses API: events that each say where in the response they belong, and that whole parts are told again.

The reasoning and the message are done when something else begins; function calls, which may be written alternately, at the end.
The closing frames are written by `end`, when the call is settled: who holds a completed response is in the ledger.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, ToolCall
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, FinishReason, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai.errors import describe
from gatehouse.dialects.openai.responses import answers
from gatehouse.dialects.openai.responses.answers import Ids, turn_of
from gatehouse.dialects.openai.responses.items import sealed

_encode: Final = msgspec.json.encode
_NO_PARTS: Final[list[Any]] = []


class _Part:
    """One text while it is written: of a message, a refusal, or reasoning."""

    def __init__(self, kind: str, place: dict[str, Any]) -> None:
        self.kind = kind
        self.place = place
        """item_id, output_index and the part's own index."""
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.head = b""
        """What every delta of it begins with after its number, encoded once."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def value(self) -> dict[str, Any]:
        match self.kind:
            case "output_text":
                return answers.text_part(self.text, self.logprobs)
            case "refusal":
                return answers.refusal_part(self.text)
            case "summary_text":
                return answers.summary_part(self.text)
            case _:
                return answers.reasoning_part(self.text)


class _Item:
    """One item of the output while it is written."""

    def __init__(self, kind: str, name: str, index: int, *, summary: bool) -> None:
        self.kind = kind
        self.name = name
        self.index = index
        self.summary = summary
        self.parts: list[_Part] = []
        self.tool = ToolCall("", "", "")
        self.arguments: list[str] = []
        self.secret: str | None = None
        self.done = False

    def value(self) -> dict[str, Any]:
        """The item as far as it is."""
        if self.kind == "fc":
            return answers.call_item(self.name, self.tool.id, self.tool.name, "".join(self.arguments))
        if self.kind == "msg":
            return answers.message_item(self.name, [part.value() for part in self.parts])
        return answers.reasoning_item(self.name, "".join(part.text for part in self.parts), self.secret, summary=self.summary)


_WORDS: Final = {
    # kind of part: its place's index, events of the part, events of its text, and what the whole text is called there
    "output_text": ("content_index", "response.content_part", "response.output_text", "text"),
    "refusal": ("content_index", "response.content_part", "response.refusal", "refusal"),
    "reasoning_text": ("content_index", "response.content_part", "response.reasoning_text", "text"),
    "summary_text": ("summary_index", "response.reasoning_summary_part", "response.reasoning_summary_text", "text"),
}


class ResponsesStreamWriter:
    """Implements `StreamWriter`. Remembers what was written, because the last frames say all of it again."""

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._turn = turn = turn_of(call)
        self._request_id = request_id
        self._ids = Ids(turn.id or answers.PREFIX + request_id.removeprefix("req_"))
        self._response: dict[str, Any] | None = None
        self._number = 0
        self._items: list[_Item] = []
        self._open: _Item | None = None
        """The reasoning or message that is being written."""
        self._tools: dict[int, _Item] = {}
        self._signature = ""
        self._redacted: list[str] = []
        self._finish: FinishReason = "stop"
        self._usage: Usage | None = None
        self._cost: str | None = None

    # -- the writer --------------------------------------------------------------------------------------------------

    def event(self, event: Event, cost: str | None) -> bytes:
        """The frames for one event, possibly none."""
        frames: list[bytes] = []
        if self._response is None:
            self._begin(frames, event.model, event.created)
        assert self._response is not None
        if event.usage is not None:
            self._usage, self._cost = event.usage, cost
        if type(event) is Chunk:
            if not event.kept:
                self._response["store"] = False
            for delta in event.choices:
                if delta.index == 0:
                    self._add(frames, delta)
        else:
            assert isinstance(event, Answer)
            for choice in event.choices[:1]:
                self._add(frames, _whole(choice))
                self._redacted += choice.redacted
        return b"".join(frames)

    def end(self) -> bytes:
        """What is not done yet, and the whole response."""
        frames: list[bytes] = []
        if self._response is None:
            self._begin(frames, "", 0)
        assert self._response is not None
        self._seal(frames)
        if not self._items:
            self._part(frames, self._message(frames), "output_text")
        cut = self._finish in ("length", "content_filter")
        for item in self._items:
            if not item.done:
                self._done(frames, item, cut=cut and item is self._items[-1])
        answers.finish(self._response, [item.value() for item in self._items], self._finish, self._usage, self._cost)
        self._frame(frames, f"response.{self._response['status']}", {"response": self._response})
        return b"".join(frames)

    def error(self, error: GatehouseError) -> bytes:
        """The response as far as it came, failed; and the error by itself, so that no reader takes this for an end."""
        frames: list[bytes] = []
        if self._response is None:
            self._begin(frames, "", 0)
        assert self._response is not None
        answers.fail(self._response, [item.value() for item in self._items], error)
        self._frame(frames, "response.failed", {"response": self._response})
        said = describe(error, self._request_id)[1]["error"]
        flat = {name: said[name] for name in ("code", "message", "param")}
        self._frame(frames, "error", {**flat, "error": said})
        return b"".join(frames)

    # -- what an event adds --------------------------------------------------------------------------------------------

    def _add(self, frames: list[bytes], delta: ChoiceDelta) -> None:
        if delta.reasoning:
            self._text(frames, self._reasoning(frames), "summary_text" if self._turn.summary else "reasoning_text", delta.reasoning, None)
        if delta.signature:
            self._signature += delta.signature
        if delta.redacted:
            self._redacted.append(delta.redacted)
        if delta.text:
            self._text(frames, self._message(frames), "output_text", delta.text, delta.logprobs)
        if delta.refusal:
            self._text(frames, self._message(frames), "refusal", delta.refusal, None)
        for tool in delta.tools:
            self._call_piece(frames, tool)
        if delta.finish is not None:
            self._finish = delta.finish

    def _reasoning(self, frames: list[bytes]) -> _Item:
        return self._current(frames, "rs")

    def _message(self, frames: list[bytes]) -> _Item:
        return self._current(frames, "msg")

    def _current(self, frames: list[bytes], kind: str) -> _Item:
        """The open item if it is of this kind, else a new one; what was open is done then."""
        item = self._open
        if item is None or item.kind != kind:
            self._close(frames)
            item = self._open = self._item(kind, sum(each.kind == kind for each in self._items))
            self._added(frames, item)
        return item

    def _added(self, frames: list[bytes], item: _Item) -> None:
        fields = {"output_index": item.index, "item": item.value() | {"status": "in_progress"}}
        self._frame(frames, "response.output_item.added", fields)

    def _item(self, kind: str, number: int) -> _Item:
        item = _Item(kind, self._ids.item(kind, number), len(self._items), summary=self._turn.summary)
        self._items.append(item)
        return item

    def _text(self, frames: list[bytes], item: _Item, kind: str, text: str, logprobs: Any) -> None:
        part = item.parts[-1] if item.parts and item.parts[-1].kind == kind else self._part(frames, item, kind)
        part.pieces.append(text)
        if kind == "output_text":
            tokens = answers.tokens_of(logprobs) if logprobs is not None else _NO_PARTS
            part.logprobs += tokens
            tail = b',"logprobs":%b}\n\n' % (_encode(tokens) if tokens else b"[]")
        else:
            tail = b"}\n\n"
        frames.append(b'%b%d,"delta":%b%b' % (part.head, self._number, _encode(text), tail))
        self._number += 1

    def _part(self, frames: list[bytes], item: _Item, kind: str) -> _Part:
        if item.parts:
            self._part_done(frames, item.parts[-1])
        index, events, texts, _ = _WORDS[kind]
        part = _Part(kind, {"item_id": item.name, "output_index": item.index, index: len(item.parts)})
        item.parts.append(part)
        self._frame(frames, f"{events}.added", {**part.place, "part": part.value()})
        name = f"{texts}.delta"
        place = _encode(part.place)[1:-1].decode()
        part.head = f'event: {name}\ndata: {{"type":"{name}",{place},"sequence_number":'.encode()
        return part

    def _call_piece(self, frames: list[bytes], piece: ToolDelta) -> None:
        item = self._tools.get(piece.index)
        if item is None:
            self._close(frames)
            number = len(self._tools)
            item = self._tools[piece.index] = self._item("fc", number)
            item.tool = ToolCall(self._ids.call(piece.id, number), piece.name or "", "")
            self._added(frames, item)
        if piece.arguments:
            item.arguments.append(piece.arguments)
            place = {"item_id": item.name, "output_index": item.index, "delta": piece.arguments}
            self._frame(frames, "response.function_call_arguments.delta", place)

    # -- what is done ----------------------------------------------------------------------------------------------------

    def _close(self, frames: list[bytes]) -> None:
        item, self._open = self._open, None
        # Reasoning whose proof may still come is not done.
        if item is not None and not (item.kind == "rs" and self._turn.sealed):
            self._done(frames, item, cut=False)

    def _seal(self, frames: list[bytes]) -> None:
        """Give the reasoning what the target recognises it by; it may be all there is of it."""
        secret = sealed(self._signature or None, self._redacted) if self._turn.sealed else None
        if secret is None:
            return
        item = next((item for item in self._items if item.kind == "rs"), None)
        if item is None:
            self._close(frames)
            item = self._current(frames, "rs")
        item.secret = secret

    def _done(self, frames: list[bytes], item: _Item, *, cut: bool) -> None:
        item.done = True
        if item.parts:
            self._part_done(frames, item.parts[-1])
        if item.kind == "fc":
            place = {"item_id": item.name, "output_index": item.index, "arguments": "".join(item.arguments)}
            self._frame(frames, "response.function_call_arguments.done", place)
        value = item.value()
        if cut:
            value["status"] = "incomplete"
        self._frame(frames, "response.output_item.done", {"output_index": item.index, "item": value})

    def _part_done(self, frames: list[bytes], part: _Part) -> None:
        _, events, texts, field = _WORDS[part.kind]
        told: dict[str, Any] = {**part.place, field: part.text}
        if part.kind == "output_text":
            told["logprobs"] = part.logprobs
        self._frame(frames, f"{texts}.done", told)
        self._frame(frames, f"{events}.done", {**part.place, "part": part.value()})

    # -- frames ------------------------------------------------------------------------------------------------------------

    def _begin(self, frames: list[bytes], model: str, created: int) -> None:
        self._response = answers.begun(self._call, self._ids, model or self._call.model, created)
        self._frame(frames, "response.created", {"response": self._response})
        self._frame(frames, "response.in_progress", {"response": self._response})

    def _frame(self, frames: list[bytes], name: str, fields: dict[str, Any]) -> None:
        body = _encode({"type": name, **fields, "sequence_number": self._number})
        self._number += 1
        frames.append(b"event: %b\ndata: %b\n\n" % (name.encode(), body))


def _whole(choice: Choice) -> ChoiceDelta:
    """A whole choice as one piece."""
    tools = tuple([ToolDelta(at, tool.id, tool.name, tool.arguments) for at, tool in enumerate(choice.tools)])
    return ChoiceDelta(
        text=choice.text or "",
        reasoning=choice.reasoning or "",
        refusal=choice.refusal or "",
        tools=tools,
        finish=choice.finish,
        logprobs=choice.logprobs,
        signature=choice.signature or "",
    )
