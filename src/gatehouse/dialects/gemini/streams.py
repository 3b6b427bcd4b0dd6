"""Streams of `streamGenerateContent?alt=sse`: each event is a whole `GenerateContentResponse` with what came since the last.

There is no last word: a stream is complete when it ended after every candidate had its finish reason. Old models say the
reason with every piece, so pieces that follow one are read on. Usage is counted up from piece to piece: until the last
finish reason it is a count so far, of which the first is told: it says how long the prompt was.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.dialects._failures import not_understood
from gatehouse.dialects._sse import MAX_FRAME, FrameTooLarge, SSEParser, read_frame
from gatehouse.dialects.gemini._contents import SIGNATURE
from gatehouse.dialects.gemini._replies import CandidateReply, GenerateReply, call_id, finish_reason, given, read_logprobs
from gatehouse.dialects.gemini.answers import NAME, is_blocked
from gatehouse.dialects.gemini.errors import error_in_answer
from gatehouse.dialects.gemini.usage import read_usage

_UNSAID: Final = "FINISH_REASON_UNSPECIFIED"
_decode: Final = msgspec.json.Decoder(GenerateReply).decode


class _Candidate:
    """What must be remembered of one candidate."""

    __slots__ = ("ended", "signed", "tools")

    def __init__(self) -> None:
        self.tools = 0
        self.signed = False
        self.ended = False


class StreamDecoder:
    """Bytes of a stream, as they come, to events. Read until `finished` or the end of the bytes, then `close`."""

    __slots__ = ("_candidates", "_choices", "_counted", "_failure", "_id", "_parser", "finished")

    def __init__(self, choices: int = 1, max_frame: int = MAX_FRAME) -> None:
        """`choices` is how many were asked for; `max_frame` bounds one event in bytes."""
        self._parser = SSEParser(max_frame)
        self._choices = choices
        self._candidates: dict[int, _Candidate] = {}
        self._id = ""
        self._counted = False
        self._failure: UpstreamFailed | None = None
        self.finished = False
        """Nothing that may still come matters: the stream failed, or the prompt was blocked."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            UpstreamFailed: the target reported an error or sent what is no piece of an answer. Events that came before it
                are returned first; then `finished` is True and the next `feed` or `close` raises.
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
            UpstreamFailed: the stream failed, or it broke off (upstream_broken).
        """
        if self._failure is not None:
            raise self._failure
        if self.finished:
            return
        left = read_frame(self._parser.rest().strip(b"\n"))
        if left is not None or not self._has_ended():
            detail = f"{len(self._candidates)} choices begun, {self._choices} asked for"
            raise UpstreamFailed("The model broke off its answer.", code="upstream_broken", detail=detail)
        self.finished = True

    def _take(self, payload: bytes, events: list[Event]) -> None:
        try:
            reply = _decode(payload)
            chunk = self._chunk(reply, payload)
        except (ValueError, RecursionError) as fault:
            raise not_understood(f"event of {len(payload)} bytes: {type(fault).__name__}") from None
        if chunk is not None:
            events.append(chunk)

    def _chunk(self, reply: GenerateReply, payload: bytes) -> Chunk | None:
        if given(reply.error):
            raise error_in_answer(reply.error)
        if reply.response_id and not self._id:
            self._id = reply.response_id
        deltas: tuple[ChoiceDelta, ...]
        if reply.candidates:
            deltas = tuple([self._delta(candidate, at, payload) for at, candidate in enumerate(reply.candidates)])
        elif is_blocked(reply) and not self._candidates:
            deltas = (ChoiceDelta(0, finish="content_filter", begins=True),)
            self.finished = True
        else:
            deltas = ()
        interim = not self.finished and not self._has_ended()
        usage = None
        if not (interim and self._counted) and given(reply.usage_metadata):
            usage = read_usage(reply.usage_metadata)
            self._counted = True
        if not deltas and usage is None:
            return None
        return Chunk(deltas, self._id, reply.model_version or "", 0, usage, dialect=NAME, interim=interim and usage is not None)

    def _has_ended(self) -> bool:
        ended = sum(candidate.ended for candidate in self._candidates.values())
        return ended >= self._choices and ended == len(self._candidates)

    def _delta(self, reply: CandidateReply, at: int, payload: bytes) -> ChoiceDelta:
        index = at if reply.index is None else reply.index
        candidate = self._candidates.get(index)
        begins = candidate is None
        if candidate is None:
            candidate = self._candidates[index] = _Candidate()
        text = thought = signature = ""
        tools: list[ToolDelta] = []
        for part in reply.parts(payload):
            if part.function_call is not None:
                called = part.function_call
                tools.append(ToolDelta(candidate.tools, call_id(called.id, self._id, candidate.tools), called.name, called.arguments()))
                candidate.tools += 1
                if part.thought_signature and not candidate.signed:
                    candidate.signed = True
                    signature = SIGNATURE + part.thought_signature
            elif part.text:
                if part.thought:
                    thought += part.text
                else:
                    text += part.text
        finish = None
        if reply.finish_reason and reply.finish_reason != _UNSAID:
            finish = finish_reason(reply.finish_reason, called=candidate.tools > 0)
            if candidate.ended:
                finish = None
            candidate.ended = True
        logprobs: Any = read_logprobs(reply.logprobs_result)
        return ChoiceDelta(index, text, thought, "", tuple(tools), finish, logprobs, begins, signature)
