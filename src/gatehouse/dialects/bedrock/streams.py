"""Streams of ConverseStream: messages in AWS's binary framing to events."""

from typing import Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk, Event, FinishReason, ToolDelta
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects.bedrock._replies import BlockDelta, BlockStart, BlockStop, MessageStop, Metadata, finish_reason, stop_sequence
from gatehouse.dialects.bedrock.answers import NAME
from gatehouse.dialects.bedrock.errors import error_in_stream
from gatehouse.dialects.bedrock.frames import MAX_MESSAGE, BrokenMessage, Message, MessageParser
from gatehouse.dialects.bedrock.usage import read_usage

_start: Final = msgspec.json.Decoder(BlockStart).decode
_delta: Final = msgspec.json.Decoder(BlockDelta).decode
_stop: Final = msgspec.json.Decoder(BlockStop).decode
_message_stop: Final = msgspec.json.Decoder(MessageStop).decode
_metadata: Final = msgspec.json.Decoder(Metadata).decode


class StreamDecoder:
    """Bytes of a stream, as they come, to events.

    A stream is complete when its message stopped; the metadata behind it, with the usage, ends it at once, but their lack is
    forgiven. Read until `finished` or the end of the bytes, then `close`. `messageStart` is no event: a target that fails
    right after it has not begun to answer yet, so another one can still be tried.
    """

    __slots__ = ("_begun", "_failure", "_parser", "_stopped", "_tools", "finished")

    def __init__(self, choices: int = 1, max_frame: int = MAX_MESSAGE) -> None:
        """`choices` is always one here; `max_frame` bounds one message in bytes."""
        self._parser = MessageParser(max_frame)
        self._begun = False
        self._stopped = False
        self._tools: dict[int, tuple[int, bool]] = {}
        """By content block: which tool call it is, and whether its arguments have begun."""
        self._failure: UpstreamFailed | None = None
        self.finished = False
        """Nothing that may still come matters: the stream said so, or it failed."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            UpstreamFailed: the target reported an error or sent what is no message. Events that came before it are returned
                first; then `finished` is True and the next `feed` or `close` raises.
        """
        if self.finished:
            if self._failure is not None:
                raise self._failure
            return []
        events: list[Event] = []
        try:
            self._read(data, events)
        except UpstreamFailed as failure:
            self._failure = failure
            self.finished = True
            if not events:
                raise
        return events

    def close(self) -> None:
        """Say that no more bytes will come.

        Raises:
            UpstreamFailed: the stream failed, or it broke off (upstream_broken).
        """
        if self._failure is not None:
            raise self._failure
        if not self._stopped:
            detail = f"a stream without the end of its message, {self._parser.held} bytes left"
            raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail=detail)
        self.finished = True

    def _read(self, data: bytes, events: list[Event]) -> None:
        """Add the events of `data` to `events`, up to the end of the stream or what breaks it."""
        parser = self._parser
        try:
            messages = parser.feed(data)
        except BrokenMessage as fault:
            raise not_understood(str(fault)) from None
        for message in messages:
            event = self._event(message)
            if event is not None:
                events.append(event)
            if self.finished:
                return
        if parser.broken is not None:
            raise not_understood(str(parser.broken))

    def _event(self, message: Message) -> Event | None:
        headers, payload = message
        if headers.get(":message-type", "event") != "event":
            raise error_in_stream(headers, payload)
        name = headers.get(":event-type", "")
        try:
            match name:
                case "contentBlockDelta":
                    return self._piece(_delta(payload))
                case "contentBlockStart":
                    return self._begin(_start(payload))
                case "contentBlockStop":
                    return self._end(_stop(payload))
                case "messageStop":
                    stop = _message_stop(payload)
                    self._stopped = True
                    met = stop_sequence(stop.additional_model_response_fields) if stop.stop_reason == "stop_sequence" else None
                    return self._chunk(finish=finish_reason(stop.stop_reason), stop_sequence=met)
                case "metadata":
                    self.finished = self._stopped
                    usage = read_usage(_metadata(payload).usage)
                    return None if usage is None else Chunk(usage=usage, dialect=NAME)
                case _:
                    return None
        except (ValueError, RecursionError) as fault:
            raise not_understood(f"{name} of {len(payload)} bytes: {type(fault).__name__}") from None

    def _begin(self, start: BlockStart) -> Event | None:
        use = start.start.tool_use
        if use is None:
            return None
        place = len(self._tools)
        self._tools[start.content_block_index] = (place, False)
        return self._chunk(tool=ToolDelta(place, use.tool_use_id, use.name))

    def _piece(self, piece: BlockDelta) -> Event | None:
        delta = piece.delta
        if delta.text:
            return self._chunk(delta.text)
        if delta.tool_use is not None:
            known = self._tools.get(piece.content_block_index)
            if known is None:
                raise not_understood("arguments of a tool that was not named")
            if not delta.tool_use.input:
                return None
            self._tools[piece.content_block_index] = (known[0], True)
            return self._chunk(tool=ToolDelta(known[0], arguments=delta.tool_use.input))
        thought = delta.reasoning_content
        if thought is None or not (thought.text or thought.signature or thought.redacted_content):
            return None
        return self._chunk(reasoning=thought.text, signature=thought.signature, redacted=thought.redacted_content)

    def _end(self, stop: BlockStop) -> Event | None:
        """A tool that takes nothing is called with an empty object, as a whole answer says."""
        known = self._tools.get(stop.content_block_index)
        if known is None or known[1]:
            return None
        self._tools[stop.content_block_index] = (known[0], True)
        return self._chunk(tool=ToolDelta(known[0], arguments="{}"))

    def _chunk(
        self,
        text: str = "",
        *,
        reasoning: str = "",
        tool: ToolDelta | None = None,
        finish: FinishReason | None = None,
        signature: str = "",
        redacted: str = "",
        stop_sequence: str | None = None,
    ) -> Chunk:
        begins = not self._begun
        self._begun = True
        tools = () if tool is None else (tool,)
        delta = ChoiceDelta(0, text, reasoning, "", tools, finish, None, begins, signature, redacted, stop_sequence)
        return Chunk((delta,), dialect=NAME)
