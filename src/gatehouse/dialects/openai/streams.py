"""Streams of `chat.completion.chunk`, both ways."""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, FinishReason, ToolDelta
from gatehouse.core.usage import Usage
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._sse import MAX_FRAME, FrameTooLarge, SSEParser, read_frame
from gatehouse.dialects.openai._replies import ChoicePiece, ChunkReply, StrictChunkReply, ToolPiece, finish_reason, given, is_known
from gatehouse.dialects.openai.answers import NAME, without_usage
from gatehouse.dialects.openai.errors import error_in_answer
from gatehouse.dialects.openai.usage import read_usage, write_usage

DONE: Final = b"[DONE]"
_END: Final = b"data: [DONE]\n\n"


class StreamDecoder:
    """Bytes of a stream, as they come, to events.

    A stream is complete when every choice has its finish reason: each that began once it said `[DONE]` (what comes after that is
    dropped), or as many as were asked for when it just ends, since some servers forget to say so. `[DONE]` by itself is no end:
    servers and gateways write it behind an answer that failed, too. Read until `finished` or the end of the bytes, then `close`.
    """

    dialect = NAME
    """What the events it makes are marked with."""
    __slots__ = ("_begun", "_choices", "_decode", "_decode_strictly", "_ended", "_failure", "_opaque", "_parser", "finished")

    def __init__(self, choices: int = 1, max_frame: int = MAX_FRAME) -> None:
        """`choices` is how many were asked for; `max_frame` bounds one frame in bytes."""
        self._parser = SSEParser(max_frame)
        self._decode = msgspec.json.Decoder(ChunkReply).decode
        self._decode_strictly = msgspec.json.Decoder(StrictChunkReply).decode
        self._opaque = False
        """A target that once wrote what we do not read is not expected to stop."""
        self._choices = choices
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._failure: UpstreamFailed | None = None
        self.finished = False
        """Nothing that may still come matters: the stream said so, or it failed."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            UpstreamFailed: the target reported an error or sent what is no chunk. Events that came before it are returned
                first; then `finished` is True and the next `feed` or `close` raises.
        """
        if self.finished:
            if self._failure is not None:
                raise self._failure
            return []
        events: list[Event] = []
        try:
            for name, payload, frame in self._parser.feed(data):
                if payload == DONE:
                    self._finish()
                    break
                if name == b"error":
                    raise error_in_answer(payload)
                chunk = self._chunk(payload, _plain(payload) if name else frame) if payload else None
                if chunk is not None:
                    events.append(chunk)
        except FrameTooLarge as fault:
            self._failure = not_understood(str(fault))
        except UpstreamFailed as failure:
            self._failure = failure
        if self._failure is not None:
            self.finished = True
            if not events:
                raise self._failure
        return events

    def close(self) -> None:
        """Say that no more bytes will come.

        Raises:
            UpstreamFailed: the stream failed, or it broke off (upstream_broken).
        """
        if not self.finished:
            frame = read_frame(self._parser.rest().strip(b"\n"))
            if frame is not None and frame[1] == DONE:
                self._finish()
        if self._failure is not None:
            raise self._failure
        if not self.finished and (len(self._ended) < self._choices or self._begun - self._ended):
            raise self._broken()
        self.finished = True

    def _finish(self) -> None:
        if not self._begun:
            raise not_understood("a stream without a choice")
        if self._begun - self._ended:
            raise self._broken()
        self.finished = True

    def _broken(self) -> UpstreamFailed:
        detail = f"{len(self._ended)} choices ended of {len(self._begun)}, {self._choices} asked for"
        return UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail=detail)

    def _chunk(self, payload: bytes, raw: bytes) -> Chunk | None:
        try:
            reply = self._read(payload)
        except (ValueError, RecursionError) as fault:
            raise not_understood(f"frame of {len(payload)} bytes: {type(fault).__name__}") from None
        if given(reply.error):
            raise error_in_answer(reply.error)
        usage = None
        if given(reply.usage):
            usage = read_usage(reply.usage)
            if usage is None:
                if not reply.choices:
                    return None
                rest = without_usage(payload)
                raw = _plain(rest) if rest else b""
        choices = reply.choices
        if not choices:
            deltas: tuple[ChoiceDelta, ...] = ()
        elif len(choices) == 1:
            deltas = (self._delta(choices[0]),)
        else:
            deltas = tuple([self._delta(choice) for choice in choices])
        return Chunk(
            deltas,
            reply.id or "",
            reply.model or "",
            int(reply.created or 0),
            usage,
            reply.system_fingerprint,
            raw,
            self.dialect,
            self._opaque,
        )

    def _read(self, payload: bytes) -> ChunkReply:
        if not self._opaque:
            try:
                return self._decode_strictly(payload)
            except msgspec.ValidationError:
                self._opaque = True
        return self._decode(payload)

    def _delta(self, choice: ChoicePiece) -> ChoiceDelta:
        index = choice.index
        begins, finish = self._follow(index, choice.finish_reason)
        delta = choice.delta
        if delta is None:
            return ChoiceDelta(index, finish=finish, logprobs=choice.logprobs, begins=begins)
        return ChoiceDelta(
            index,
            delta.content or "",
            delta.thoughts() or "",
            delta.refusal or "",
            tuple([_tool_delta(at, piece) for at, piece in enumerate(delta.tool_calls)]) if delta.tool_calls else (),
            finish,
            choice.logprobs,
            begins,
        )

    def _follow(self, index: int, said: str | None) -> tuple[bool, FinishReason | None]:
        """Whether a choice begins with this piece, and how it ends with it."""
        begins = index not in self._begun
        if begins:
            self._begun.add(index)
        if not said:
            return begins, None  # some servers write "" as long as there is no reason
        self._ended.add(index)
        if not is_known(said):
            self._opaque = True
        return begins, finish_reason(said)


def _tool_delta(at: int, piece: ToolPiece) -> ToolDelta:
    """Servers that send each call whole often leave its index out; then its place counts."""
    index = at if piece.index is None else piece.index
    function = piece.function
    if function is None:
        return ToolDelta(index, piece.id)
    return ToolDelta(index, piece.id, function.name, function.arguments or "")


def encode_event(event: Event, call: Call, cost: str | None) -> bytes:
    """The frames for one event; none for usage that the client did not ask for.

    A chunk of this dialect passes as the bytes that came, unless usage has to leave it or the cost has to join it.
    """
    if type(event) is Chunk:
        if event.raw and event.dialect == NAME:
            if event.usage is None:
                return event.raw
            passed = pass_usage(event, call, cost)
            if passed is not None:
                return passed
        return _write_chunk(event, call, cost)
    assert isinstance(event, Answer)
    return _replay(event, call, cost)


def end_of_stream() -> bytes:
    """What a finished stream ends with."""
    return _END


def pass_usage(chunk: Chunk, call: Call, cost: str | None) -> bytes | None:
    """A chunk as it came, but without usage or with its cost; None when what the target put beside it cannot be written again."""
    if not call.include_usage and not chunk.choices:
        return b""
    if call.include_usage and cost is None:
        return chunk.raw
    frame = read_frame(chunk.raw.rstrip(b"\n"))
    try:
        value = msgspec.json.decode(frame[1] if frame else b"", type=dict[str, Any])
        if call.include_usage:
            value["gatehouse"] = {"cost_usd": cost}
        else:
            value.pop("usage", None)
        return _frame(value)
    except (ValueError, RecursionError, OverflowError):
        return None


def _write_chunk(chunk: Chunk, call: Call, cost: str | None) -> bytes:
    """A chunk in our own words. Usage that another dialect tells with the finish gets a frame of its own, where clients look for it."""
    usage = chunk.usage if call.include_usage and not chunk.interim else None
    if not chunk.choices:
        return b"" if usage is None else _frame(with_usage(_body(chunk, call, []), usage, cost))
    body = _body(chunk, call, [_write_delta(delta) for delta in chunk.choices])
    if usage is None or chunk.dialect == NAME:
        return _frame(with_usage(body, usage, cost))
    return _frame(body) + _frame(with_usage(_body(chunk, call, []), usage, cost))


def _body(event: Chunk | Answer, call: Call, choices: list[dict[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": event.id,
        "object": "chat.completion.chunk",
        "created": event.created,
        "model": event.model or call.model,
        "choices": choices,
    }
    if event.fingerprint is not None:
        body["system_fingerprint"] = event.fingerprint
    return body


def with_usage(body: dict[str, Any], usage: Usage | None, cost: str | None) -> dict[str, Any]:
    """`body` with the usage that was asked for, and what it cost."""
    if usage is not None:
        body["usage"] = write_usage(usage)
        if cost is not None:
            body["gatehouse"] = {"cost_usd": cost}
    return body


def _write_delta(piece: ChoiceDelta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if piece.begins:
        delta["role"] = "assistant"
        if not piece.tools:
            delta["content"] = ""
    if piece.text:
        delta["content"] = piece.text
    if piece.reasoning:
        delta["reasoning_content"] = piece.reasoning
    if piece.refusal:
        delta["refusal"] = piece.refusal
    if piece.tools:
        delta["tool_calls"] = [_write_tool(tool) for tool in piece.tools]
    choice: dict[str, Any] = {"index": piece.index, "delta": delta}
    if piece.logprobs is not None:
        choice["logprobs"] = piece.logprobs
    choice["finish_reason"] = piece.finish
    return choice


def _write_tool(tool: ToolDelta) -> dict[str, Any]:
    function: dict[str, Any] = {} if tool.name is None else {"name": tool.name}
    function["arguments"] = tool.arguments
    if tool.id is None:
        return {"index": tool.index, "function": function}
    return {"index": tool.index, "id": tool.id, "type": "function", "function": function}


def _replay(answer: Answer, call: Call, cost: str | None) -> bytes:
    """A whole answer as a stream: a chunk with each choice's content, one with its end, and the usage if asked for."""
    frames = []
    for choice in answer.choices:
        frames.append(_frame(_body(answer, call, [_write_delta(_whole(choice))])))
        frames.append(_frame(_body(answer, call, [_write_delta(ChoiceDelta(choice.index, finish=choice.finish))])))
    if answer.usage is not None and call.include_usage:
        frames.append(_frame(with_usage(_body(answer, call, []), answer.usage, cost)))
    return b"".join(frames)


def _whole(choice: Choice) -> ChoiceDelta:
    tools = tuple([ToolDelta(at, called.id, called.name, called.arguments) for at, called in enumerate(choice.tools)])
    text, reasoning, refusal = choice.text or "", choice.reasoning or "", choice.refusal or ""
    return ChoiceDelta(choice.index, text, reasoning, refusal, tools, None, choice.logprobs, True)


def _plain(payload: bytes) -> bytes:
    """A frame of nothing but `payload`."""
    return b"data: %s\n\n" % payload.replace(b"\n", b"\ndata: ")


def _frame(body: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(body)
