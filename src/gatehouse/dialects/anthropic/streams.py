"""Streams of a target: bytes, as they come, to events. One frame becomes one chunk.

Frames that add nothing to the answer (the beginning and end of a block, a ping) become chunks without choices: nobody has to
look at them, and a caller who speaks this dialect still gets them as they came, in their place. Two frames are not passed on
as such: `message_stop`, because a finished stream is ended by whoever settled the call, and errors, which are raised.
"""

from typing import Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._sse import MAX_FRAME, FrameTooLarge, SSEParser, read_frame
from gatehouse.dialects.anthropic._replies import (
    KNOWN_BLOCKS,
    InputDelta,
    LooseBlock,
    LooseEvent,
    Piece,
    SignatureDelta,
    StrictEvent,
    TextDelta,
    finish_reason,
    given,
)
from gatehouse.dialects.anthropic.answers import NAME
from gatehouse.dialects.anthropic.errors import error_in_answer
from gatehouse.dialects.anthropic.usage import NOTHING_COUNTED, read_counts

_PIECE: Final = b"content_block_delta"
_DONE: Final = b"[DONE]"
"""OpenAI's end, which some servers that imitate both APIs send here too."""


class StreamDecoder:
    """Bytes of a stream to events.

    A stream is complete when it said why it ended and then `message_stop`; what follows is dropped. Read until `finished` or
    the end of the bytes, then `close`.
    """

    __slots__ = (
        "_begun",
        "_counts",
        "_decode",
        "_decode_piece",
        "_decode_strictly",
        "_ended",
        "_failure",
        "_id",
        "_model",
        "_parser",
        "_silent",
        "_tools",
        "_unread",
        "finished",
    )

    def __init__(self, choices: int = 1, max_frame: int = MAX_FRAME) -> None:
        """`choices` is always 1 here; `max_frame` bounds one frame in bytes."""
        assert choices == 1
        self._parser = SSEParser(max_frame)
        self._decode_piece = msgspec.json.Decoder(Piece).decode
        self._decode_strictly = msgspec.json.Decoder(StrictEvent).decode
        self._decode = msgspec.json.Decoder(LooseEvent).decode
        self._id = ""
        self._model = ""
        self._tools: dict[int, int] = {}
        """Block index to the number of the tool call it is."""
        self._silent: set[int] = set()
        """Blocks of tools whose input has not begun."""
        self._unread: set[int] = set()
        """Blocks of kinds that we do not know (a tool that ran at the target, what it found)."""
        self._counts = NOTHING_COUNTED
        self._begun = False
        self._ended = False
        self._failure: UpstreamFailed | None = None
        self.finished = False
        """Nothing that may still come matters: the stream said so, or it failed."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            UpstreamFailed: the target reported an error or sent what is no event. Events that came before it are returned
                first; then `finished` is True and the next `feed` or `close` raises.
        """
        finished = self.finished
        if finished:
            if self._failure is not None:
                raise self._failure
            return []
        events: list[Event] = []
        try:
            for name, payload, frame in self._parser.feed(data):
                event = self._event(name, payload, frame)
                if event is not None:
                    events.append(event)
                if self.finished:
                    break
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
        if not self.finished and self._ended:
            frame = read_frame(self._parser.rest().strip(b"\n"))
            if frame is not None and frame[0] == b"message_stop":
                self.finished = True
        if self._failure is not None:
            raise self._failure
        if not self.finished:
            raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail="no message_stop")

    def _event(self, name: bytes, payload: bytes, frame: bytes) -> Chunk | None:
        if name == _PIECE:
            try:
                piece = self._decode_piece(payload)
            except msgspec.ValidationError:
                pass
            except (ValueError, RecursionError) as fault:
                raise _unreadable(payload, fault) from None
            else:
                if not self._begun:
                    raise not_understood("a piece before its message")
                return self._piece(piece, frame)
        return self._other(name, payload, frame)

    def _piece(self, piece: Piece, frame: bytes) -> Chunk:
        """The short way, for what most frames are."""
        delta = piece.delta
        kind = delta.__class__
        if kind is TextDelta:
            choice = ChoiceDelta(0, delta.text)  # type: ignore[union-attr]
        elif kind is InputDelta:
            index = piece.index
            return self._chunk(self._arguments(index, delta.partial_json), frame, opaque=index in self._unread)  # type: ignore[union-attr]
        elif kind is SignatureDelta:
            choice = ChoiceDelta(signature=delta.signature)  # type: ignore[union-attr]
        else:
            choice = ChoiceDelta(0, "", delta.thinking)  # type: ignore[union-attr]
        return Chunk((choice,), self._id, self._model, 0, None, None, frame, NAME)

    def _arguments(self, index: int, text: str) -> ChoiceDelta | None:
        number = self._tools.get(index)
        if number is None:
            if index in self._unread:
                return None
            raise not_understood("a tool's input outside of its block")
        if not text:
            return None
        self._silent.discard(index)
        return ChoiceDelta(tools=(ToolDelta(number, arguments=text),))

    def _other(self, name: bytes, payload: bytes, frame: bytes) -> Chunk | None:
        if payload == _DONE:
            return None
        try:
            event = self._decode(payload)
        except (ValueError, RecursionError) as fault:
            raise _unreadable(payload, fault) from None
        kind = event.type
        if kind == "error":
            raise error_in_answer(event.error)
        if name != kind.encode():
            frame = _frame(kind, payload)
        if kind == "message_start":
            return self._start(event, payload, frame)
        if not self._begun:
            if kind == "ping":
                return None
            raise not_understood(f"an event before its message ({len(payload)} bytes)")
        if kind == "message_stop":
            if not self._ended:
                raise not_understood("a message that ended without a reason")
            self.finished = True
            return None
        if kind == "message_delta":
            return self._end(event, payload, frame)
        choice = self._block(event)
        return self._chunk(choice, frame, opaque=event.index in self._unread or not self._known(payload))

    def _start(self, event: LooseEvent, payload: bytes, frame: bytes) -> Chunk:
        message = event.message
        if message is None or self._begun:
            raise not_understood("not one beginning of a message")
        self._begun = True
        self._id, self._model = message.id or "", message.model or ""
        usage = None
        if given(message.usage):
            counts = read_counts(message.usage)
            if counts is None:
                frame = b""
            else:
                self._counts = counts
                usage = counts.core()
        choices = (ChoiceDelta(begins=True),)
        opaque = not self._known(payload)
        return Chunk(choices, self._id, self._model, 0, usage, None, frame, NAME, opaque, interim=usage is not None)

    def _end(self, event: LooseEvent, payload: bytes, frame: bytes) -> Chunk:
        usage = None
        if given(event.usage):
            counts = read_counts(event.usage)
            usage = None
            if counts is not None:
                self._counts = counts.after(self._counts)
                usage = self._counts.core()
            if usage is None:
                frame = b""
        delta = event.delta
        choice = None
        if delta is not None and delta.stop_reason:
            self._ended = True
            choice = ChoiceDelta(finish=finish_reason(delta.stop_reason), stop_sequence=delta.stop_sequence)
        choices = () if choice is None else (choice,)
        return Chunk(choices, self._id, self._model, 0, usage, None, frame, NAME, not self._known(payload))

    def _block(self, event: LooseEvent) -> ChoiceDelta | None:
        """What the beginning, the end or a loosely written piece of a block adds; None for what we do not know."""
        index = event.index
        if event.type == "content_block_start" and event.content_block is not None:
            return self._block_start(index, event.content_block)
        if event.type == "content_block_stop":
            if index not in self._silent:
                return None
            # A tool without parameters: its input never came, and everywhere else that is an empty object.
            self._silent.discard(index)
            return ChoiceDelta(tools=(ToolDelta(self._tools[index], arguments="{}"),))
        if event.type == "content_block_delta" and event.delta is not None:
            delta = event.delta
            if delta.type == "input_json_delta":
                return self._arguments(index, delta.partial_json or "")
            return _said(delta)
        return None

    def _block_start(self, index: int, block: LooseBlock) -> ChoiceDelta | None:
        if block.type not in KNOWN_BLOCKS:
            self._unread.add(index)
            return None
        if block.type == "tool_use":
            number = self._tools.setdefault(index, len(self._tools))
            written = bytes(block.input).strip() if given(block.input) else b"{}"
            arguments = "" if written.replace(b" ", b"") == b"{}" else written.decode()
            if not arguments:
                self._silent.add(index)
            return ChoiceDelta(tools=(ToolDelta(number, block.id or "", block.name or "", arguments),))
        return _said(block)

    def _chunk(self, choice: ChoiceDelta | None, frame: bytes, *, opaque: bool = False) -> Chunk:
        return Chunk(() if choice is None else (choice,), self._id, self._model, 0, None, None, frame, NAME, opaque)

    def _known(self, payload: bytes) -> bool:
        """Whether the event holds nothing that we do not read."""
        try:
            self._decode_strictly(payload)
        except (ValueError, RecursionError):
            return False
        return True


def _said(block: LooseBlock) -> ChoiceDelta | None:
    if block.text or block.thinking or block.signature or block.data:
        return ChoiceDelta(0, block.text or "", block.thinking or "", signature=block.signature or "", redacted=block.data or "")
    return None


def _unreadable(payload: bytes, fault: Exception) -> UpstreamFailed:
    return not_understood(f"frame of {len(payload)} bytes: {type(fault).__name__}")


def _frame(kind: str, payload: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), payload.replace(b"\n", b"\ndata: "))
