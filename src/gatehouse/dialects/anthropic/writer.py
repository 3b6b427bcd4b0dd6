"""A streamed answer on its way to a caller: a message, its blocks one after the other, why it ended.

What came in these words passes as it came, as long as every frame of the stream does. When a stage took a frame out, what
follows is written anew with indices of its own, so that what leaves is always whole. What comes from other dialects has no
blocks: one is begun where the kind of content changes.

Frames are put together from their parts: the words around a piece of text are made once a block.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, FinishReason, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects.anthropic._replies import stop_reason
from gatehouse.dialects.anthropic.answers import NAME
from gatehouse.dialects.anthropic.errors import describe
from gatehouse.dialects.anthropic.usage import write_usage

_PIECE: Final = b"event: content_block_delta\n"
_PING: Final = b"event: ping\n"
_COST: Final = b'"gatehouse"'
_SIGNED: Final = "signed"
"""A block of reasoning after its signature: more reasoning is another one."""
_DELTAS: Final = {
    "text": b'{"type":"text_delta","text":',
    "thinking": b'{"type":"thinking_delta","thinking":',
    "tool_use": b'{"type":"input_json_delta","partial_json":',
}
_BEGINNINGS: Final = {"text": {"type": "text", "text": ""}, "thinking": {"type": "thinking", "thinking": "", "signature": ""}}
_encode: Final = msgspec.json.Encoder().encode


class _Block(msgspec.Struct, gc=False):
    type: str = ""


class _Beginning(msgspec.Struct, gc=False):
    content_block: _Block
    index: int = 0


class AnthropicStreamWriter:
    """Writes one stream. What it remembers is which block is open, and what the end will say."""

    __slots__ = ("_call", "_cost", "_ended", "_finish", "_head", "_next", "_open", "_passing", "_request_id", "_sequence", "_started",
                 "_tools", "_usage")  # fmt: skip

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._request_id = request_id
        self._passing = True
        """Every frame so far passed as it came, or was written in its place."""
        self._started = False
        self._ended = False
        """The caller knows why it ended."""
        self._open = ""
        """The kind of the open block; "" when none is."""
        self._head = b""
        """What stands before the text of a piece of the open block."""
        self._next = 0
        """The index of the next block."""
        self._tools: dict[int, int] = {}
        """Tool call to the index of its block."""
        self._finish: FinishReason = "stop"
        self._sequence: str | None = None
        self._usage: Usage | None = None
        self._cost: str | None = None

    def event(self, event: Event, cost: str | None) -> bytes:
        """The frames for one event, possibly none."""
        if type(event) is Chunk:
            raw = event.raw
            if raw and event.dialect == NAME:
                if not self._passing:
                    return self._rewrite(event, raw, cost)
                # The short way, for what most frames are.
                return raw if raw.startswith(_PIECE) else self._pass(event, raw, cost)
            return self._write(event, cost)
        assert isinstance(event, Answer)
        return self._replay(event, cost)

    def end(self) -> bytes:
        """Why it ended, unless that was said, and that it did."""
        frames = [] if self._started else [self._start(Chunk())]
        if not self._ended:
            frames.append(self._close())
            reason = stop_reason(self._finish, self._sequence, calls=bool(self._tools))
            body: dict[str, Any] = {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": self._sequence},
                "usage": write_usage(self._usage),
            }
            if self._usage is not None and self._cost is not None:
                body["gatehouse"] = {"cost_usd": self._cost}
            frames.append(_frame("message_delta", body))
        return b"".join(frames) + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def error(self, error: GatehouseError) -> bytes:
        """One frame with the error object."""
        return _frame("error", describe(error, self._request_id)[1])

    # What came in these words

    def _pass(self, chunk: Chunk, raw: bytes, cost: str | None) -> bytes:
        """A frame as it came, noting what it does to the blocks."""
        name = raw[7 : raw.index(b"\n")]
        if name == b"content_block_start":
            return self._pass_beginning(chunk, raw)
        if name == b"content_block_stop":
            if not self._open:
                return b""
            self._open = ""
        elif name == b"message_start":
            self._started = True
        elif name == b"message_delta":
            closing = self._close()
            self._ended = self._ended or any(choice.finish for choice in chunk.choices)
            return closing + (raw if cost is None or chunk.usage is None else _with_cost(raw, cost))
        return raw

    def _pass_beginning(self, chunk: Chunk, raw: bytes) -> bytes:
        beginning = msgspec.json.decode(raw[raw.index(b"data: ") + 6 :].replace(b"\ndata: ", b"\n"), type=_Beginning)
        if beginning.index != self._next:
            # A frame was lost on the way, or the target cannot count.
            self._passing = False
            return self._write(chunk, None)
        closing = self._close()
        self._begin(beginning.content_block.type)
        for choice in chunk.choices:
            for tool in choice.tools:
                self._tools[tool.index] = self._next - 1
        return closing + raw

    def _rewrite(self, chunk: Chunk, raw: bytes, cost: str | None) -> bytes:
        """A frame as it came where others did not pass: only signs of life do, and the ends of blocks in words of ours."""
        if raw.startswith(_PING):
            return raw
        frames = self._write(chunk, cost)
        return frames + self._close() if raw.startswith(b"event: content_block_stop\n") else frames

    # What is written

    def _write(self, chunk: Chunk, cost: str | None) -> bytes:
        if chunk.usage is not None:
            self._usage, self._cost = chunk.usage, cost
        choices = chunk.choices
        if not choices:
            if chunk.dialect == NAME and not chunk.raw and chunk.usage is None:
                self._passing = False
            return b""
        frames = b"" if self._started else self._start(chunk)
        for choice in choices:
            if choice.index == 0:
                frames += self._piece(choice)
        return frames

    def _piece(self, choice: ChoiceDelta) -> bytes:
        frames = b""
        if choice.reasoning:
            frames += self._into("thinking", choice.reasoning)
        if choice.signature:
            frames += self._sign(choice.signature)
        if choice.redacted:
            frames += self._whole({"type": "redacted_thinking", "data": choice.redacted})
        if choice.text:
            frames += self._into("text", choice.text)
        if choice.refusal:
            frames += self._into("text", choice.refusal)
        for tool in choice.tools:
            frames += self._tool(tool)
        if choice.finish is not None:
            self._finish, self._sequence = choice.finish, choice.stop_sequence
        return frames

    def _into(self, kind: str, text: str) -> bytes:
        """More of the open block, or the first of a new one."""
        if self._open == kind:
            return b"%b%b}}\n\n" % (self._head, _encode(text))
        return b"%b%b%b%b}}\n\n" % (self._close(), self._block(kind, _BEGINNINGS[kind]), self._head, _encode(text))

    def _sign(self, signature: str) -> bytes:
        frames = b""
        if self._open not in ("thinking", _SIGNED):
            frames = self._close() + self._block("thinking", _BEGINNINGS["thinking"])
        self._open = _SIGNED
        delta = {"type": "signature_delta", "signature": signature}
        return frames + _frame("content_block_delta", {"type": "content_block_delta", "index": self._next - 1, "delta": delta})

    def _tool(self, tool: ToolDelta) -> bytes:
        """A piece of a tool call. One that comes when its block has been left still goes there: clients put pieces together by index."""
        frames = b""
        index = self._tools.get(tool.index)
        if index is None:
            index = self._tools[tool.index] = self._next
            identifier = tool.id or f"toolu_{self._request_id}_{tool.index}"
            frames = self._close() + self._block("tool_use", {"type": "tool_use", "id": identifier, "name": tool.name or "", "input": {}})
        if not tool.arguments:
            return frames
        head = self._head if index == self._next - 1 and self._open == "tool_use" else _head(index, "tool_use")
        return b"%b%b%b}}\n\n" % (frames, head, _encode(tool.arguments))

    def _whole(self, block: dict[str, Any]) -> bytes:
        """A block that comes in one piece."""
        return self._close() + self._block("", block) + _stop(self._next - 1)

    def _block(self, kind: str, block: dict[str, Any]) -> bytes:
        self._begin(kind)
        return _frame("content_block_start", {"type": "content_block_start", "index": self._next - 1, "content_block": block})

    def _begin(self, kind: str) -> None:
        self._head = _head(self._next, kind) if kind in _DELTAS else b""
        self._open = kind
        self._next += 1

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _stop(self._next - 1)

    def _start(self, event: Chunk | Answer) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": event.id or f"msg_{self._request_id.removeprefix('req_')}",
            "type": "message",
            "role": "assistant",
            "model": event.model or self._call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": write_usage(event.usage),
        }
        return _frame("message_start", {"type": "message_start", "message": message})

    def _replay(self, answer: Answer, cost: str | None) -> bytes:
        """A whole answer as a stream: each block in one piece."""
        if answer.usage is not None:
            self._usage, self._cost = answer.usage, cost
        frames = b"" if self._started else self._start(answer)
        return frames + b"".join([self._piece(piece) for choice in answer.choices[:1] for piece in _pieces(choice)])


def _pieces(choice: Choice) -> list[ChoiceDelta]:
    """A choice in the order of a message's blocks."""
    pieces = [ChoiceDelta(reasoning=choice.reasoning or "", signature=choice.signature or "")]
    pieces += [ChoiceDelta(redacted=data) for data in choice.redacted]
    tools = tuple([ToolDelta(at, called.id, called.name, called.arguments) for at, called in enumerate(choice.tools)])
    pieces.append(ChoiceDelta(0, choice.text or "", "", choice.refusal or "", tools, choice.finish, stop_sequence=choice.stop_sequence))
    return pieces


def _head(index: int, kind: str) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b' % (index, _DELTAS[kind])


def _stop(index: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index


def _with_cost(raw: bytes, cost: str) -> bytes:
    """A frame that came, with what the call cost beside what it told; as it came when it already tells of a cost."""
    if _COST in raw or not raw.endswith(b"}\n\n"):
        return raw
    return b'%b,"gatehouse":{"cost_usd":%b}}\n\n' % (raw[:-3], _encode(cost))


def _frame(kind: str, body: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(body))
