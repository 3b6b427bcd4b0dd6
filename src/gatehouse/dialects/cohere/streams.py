"""Streams of Cohere's `/v2/chat`: typed events, ended by a `message-end` that says why."""

from typing import Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._sse import MAX_FRAME, FrameTooLarge, SSEParser
from gatehouse.dialects.cohere._replies import (
    NAME,
    ContentReply,
    DeltaPiece,
    EventReply,
    MessagePiece,
    ToolReply,
    finish_reason,
    given,
    read_logprobs,
    read_usage,
)

_decode: Final = msgspec.json.Decoder(EventReply).decode
_TEXTS: Final = frozenset({"content-start", "content-delta", "tool-plan-delta"})
_CALLS: Final = frozenset({"tool-call-start", "tool-call-delta"})


class StreamDecoder:
    """Bytes of a stream, as they come, to events. Read until `finished` or the end of the bytes, then `close`."""

    __slots__ = ("_begun", "_failure", "_id", "_parser", "finished")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        """`max_frame` bounds one event in bytes."""
        self._parser = SSEParser(max_frame)
        self._begun = False
        self._id = ""
        self._failure: UpstreamFailed | None = None
        self.finished = False
        """Nothing that may still come matters: the message has ended, or the stream failed."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            UpstreamFailed: the target reported an error or sent what is no event. Events that came before it are returned
                first; then `finished` is True and the next `feed` or `close` raises.
        """
        if self.finished:
            if self._failure is not None:
                raise self._failure
            return []
        events: list[Event] = []
        try:
            for _, payload, _ in self._parser.feed(data):
                if payload and not self.finished:
                    self._take(payload, events)
        except FrameTooLarge as fault:
            self._failure = not_understood(str(fault))
        except UpstreamFailed as failed:
            self._failure = failed
        if self._failure is not None:
            self.finished = True
            if not events:
                raise self._failure
        return events

    def close(self) -> None:
        """Say that no more bytes will come.

        Raises:
            UpstreamFailed: the stream failed, or it broke off before its end (upstream_broken).
        """
        if self._failure is not None:
            raise self._failure
        if not self.finished:
            raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail="no message-end")

    def _take(self, payload: bytes, events: list[Event]) -> None:
        try:
            event = _decode(payload)
        except (ValueError, RecursionError) as fault:
            raise not_understood(f"event of {len(payload)} bytes: {type(fault).__name__}") from None
        if event.type == "message-start":
            self._id = event.id or ""
        elif event.type == "message-end":
            events.append(self._end(event.delta or DeltaPiece()))
        elif event.type in _TEXTS or event.type in _CALLS:
            delta = self._delta(event, (event.delta and event.delta.message) or MessagePiece())
            if delta is not None:
                self._begun = True
                events.append(Chunk((delta,), self._id, dialect=NAME))
        elif not event.type and event.message is not None:
            raise UpstreamFailed("The model failed to answer.", code="upstream_rejected", detail="an error in the stream")

    def _delta(self, event: EventReply, message: MessagePiece) -> ChoiceDelta | None:
        begins = not self._begun
        if event.type in _CALLS:
            called = message.tool_calls
            if not isinstance(called, ToolReply):
                raise not_understood("a tool call that is none")
            function = called.function
            name = None if function is None else function.name
            arguments = "" if function is None else function.arguments or ""
            return ChoiceDelta(tools=(ToolDelta(event.index, called.id, name, arguments),), begins=begins)
        content = message.content if isinstance(message.content, ContentReply) else ContentReply()
        text = (content.text or "") + (message.tool_plan or "")
        thought = content.thinking or ""
        logprobs = None if event.logprobs is None else read_logprobs([event.logprobs])
        if not text and not thought and logprobs is None:
            return None
        return ChoiceDelta(text=text, reasoning=thought, logprobs=logprobs, begins=begins)

    def _end(self, delta: DeltaPiece) -> Chunk:
        if delta.error:
            raise UpstreamFailed("The model failed to answer.", code="upstream_rejected", detail="the message ended in an error")
        if not delta.finish_reason:
            raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail="message-end without a reason")
        finish = finish_reason(delta.finish_reason)
        usage = read_usage(delta.usage) if given(delta.usage) else None
        self.finished = True
        return Chunk((ChoiceDelta(finish=finish, begins=not self._begun),), self._id, usage=usage, dialect=NAME)
