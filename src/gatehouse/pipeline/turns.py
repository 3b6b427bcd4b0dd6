"""Turns: a call of the Responses API gets its id, what it continues is put before it, and what came of it is kept.

Handed to Read, because what a call continues must be there before anybody decides about it: the grant, the limits and the guard see
the whole conversation. What is kept is what the guard let through, both ways, and it is kept before the last bytes leave: who
was told that a response is complete can continue it. Only what has ended by itself is kept.

A response that cannot be kept, though it was to be, is still a good answer that was paid for: it says `store: false` then, and the
call's record is flagged.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from gatehouse.core.calls import Message, Part, TextPart, ThinkingPart, Turn
from gatehouse.core.collect import Collector
from gatehouse.core.errors import InvalidRequest, NotFound, TooLarge
from gatehouse.core.events import Choice, Chunk, Event, Events
from gatehouse.core.identity import Principal
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock
from gatehouse.core.responses import Ended, Kept, Owner, ResponseStore, Said, Scope, owner_of
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.watching import Watching

T = TypeVar("T")

logger = logging.getLogger("gatehouse.pipeline")

NOT_KEPT: Final = "response:not-kept"
"""The flag of a call whose response was to be kept and could not be."""
CANCELLED: Final = "response_cancelled"
LARGE: Final = 262_144
"""Bytes from which reading what was kept would hold up every other call of this process."""
LARGEST: Final = 48 * 1024 * 1024
"""Bytes of conversation and answer together that are handed to a store."""
_PREFIX: Final = "resp_"
_OFF: Final = "This gateway does not keep responses"
_HOW: Final = "Its operator can turn that on with responses.store."

Cancel = Callable[[Owner, str], Awaitable[Ended | None]]
"""End the running call of that response in whichever process carries it; None when there is none."""


class Offload(Protocol):
    """Runs a function away from the event loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """What it returned or raised."""
        ...


class KeepPolicy(msgspec.Struct, frozen=True):
    """Whether responses are kept, for whom, for how long, and of how many bytes a conversation may be."""

    store: bool = False
    scope: Scope = "key"
    seconds: float = 0.0
    largest: int = 0


class Turns:
    """Serves every call of a process. Without `policy.store` nothing is kept or found, and only ids are given."""

    def __init__(
        self,
        policy: KeepPolicy,
        clock: Clock,
        store: ResponseStore | None = None,
        cancel: Cancel | None = None,
        offload: Offload | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._store = store if policy.store else None
        self._cancel = cancel
        self._offload = offload
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Said).decode

    @property
    def keeping(self) -> bool:
        """Whether anything is ever kept."""
        return self._store is not None

    # -- for calls ---------------------------------------------------------------------------------------------------

    async def begin(self, x: Exchange, size: int) -> None:
        """Give `x.call` its id and put before it what it continues. `size` is its body's, in bytes.

        Raises:
            InvalidRequest: it asks for what this gateway does not keep.
            NotFound: there is no such response of this caller.
            TooLarge: the caller wants a conversation kept that is larger than any may be.
            Unavailable: what it continues cannot be read at the moment.
        """
        call, principal = x.call, x.principal
        assert call is not None
        assert call.turn is not None
        assert principal is not None
        turn = replace(call.turn, id=_PREFIX + x.request_id.removeprefix("req_"), created=int(x.started_at))
        if self._store is None:
            _refuse(turn)
            x.call = replace(call, turn=replace(turn, store=False))
            return
        messages = call.messages
        if turn.previous is not None:
            said, more = await self._find(principal, turn.previous, "previous_response_id")
            before = said.messages
            size += more - len(said.response)
            messages = messages[: turn.begins] + before + messages[turn.begins :]
            turn = replace(turn, begins=turn.begins + len(before))
        if turn.store is not False and size > self._policy.largest:
            if turn.store:
                words = f"This conversation is larger than the {self._policy.largest} bytes that are kept of one; send store: false."
                raise TooLarge(words, param="store")
            turn = replace(turn, store=False)
        x.call = replace(call, messages=messages, turn=replace(turn, store=turn.store is not False))

    def watch(self, x: Exchange, events: Events) -> Events:
        """Keep what comes of a call that is to be kept."""
        call = x.call
        if self._store is None or call is None or call.turn is None or not call.turn.store:
            return events
        return Watching(events, self._kept(x, events))

    async def _kept(self, x: Exchange, events: Events) -> AsyncGenerator[Event, None]:
        collector = Collector()
        try:
            async for event in events:
                collector.add(event)
                yield event
            if not await self._keep(x, collector):
                yield Chunk(kept=False)
        finally:
            await events.aclose()

    async def _keep(self, x: Exchange, collector: Collector) -> bool:
        call, principal, store = x.call, x.principal, self._store
        assert call is not None
        assert call.turn is not None
        assert principal is not None
        assert store is not None
        turn = call.turn
        answer = collector.answer()
        said = answered(answer.choices[0]) if answer.choices else Message("assistant", "")
        start = int(turn.instructions)

        def encoded() -> bytes:
            body = x.dialect.encode_answer(answer, call)
            return self._encode(Said((*call.messages[start:], said), turn.begins - start, body))

        try:
            content = encoded() if self._offload is None else await self._offload(encoded)
            if len(content) > LARGEST:
                raise ValueError(f"{len(content)} bytes are too many")
            now = self._clock.now()
            owner = owner_of(principal, self._policy.scope)
            await store.keep(Kept(turn.id, owner, now, now + self._policy.seconds, content))
        except Exception as fault:
            logger.error("call %s: its response could not be kept: %s", x.request_id, type(fault).__name__)
            x.flags.append(NOT_KEPT)
            x.call = replace(call, turn=replace(turn, store=False))
            return False
        return True

    # -- for who asks for a response -----------------------------------------------------------------------------------

    async def find(self, principal: Principal, response_id: str) -> Said:
        """What was kept under that id for this caller. Raises NotFound, Unavailable."""
        return (await self._find(principal, response_id, None))[0]

    async def _find(self, principal: Principal, response_id: str, param: str | None) -> tuple[Said, int]:
        """The same, and how many bytes it was kept in."""
        if self._store is None:
            raise NotFound(f"{_OFF}, so there is none to be found. {_HOW}", code="responses_not_kept", param=param)
        kept = await self._store.find(owner_of(principal, self._policy.scope), response_id)
        if kept is None:
            raise _not_there(response_id, param)
        content, decode = kept.content, self._decode
        if self._offload is None or len(content) <= LARGE:
            return decode(content), len(content)
        return await self._offload(lambda: decode(content)), len(content)

    async def remove(self, principal: Principal, response_id: str) -> None:
        """Delete what was kept under that id for this caller. Raises NotFound, Unavailable."""
        if self._store is None:
            raise NotFound(f"{_OFF}, so there is none to be deleted. {_HOW}", code="responses_not_kept")
        if not await self._store.remove(owner_of(principal, self._policy.scope), response_id):
            raise _not_there(response_id)

    async def cancel(self, principal: Principal, response_id: str) -> Ended:
        """End the call that is making this response, wherever on this server it runs.

        Raises:
            InvalidRequest: it has ended already.
            NotFound: this caller has no such response.
            Unavailable: nobody can tell.
        """
        owner = owner_of(principal, self._policy.scope)
        ended = None if self._cancel is None else await self._cancel(owner, response_id)
        if ended is not None:
            return ended
        if self._store is not None and await self._store.find(owner, response_id) is not None:
            raise InvalidRequest("This response has ended already: there is nothing to cancel.", code="response_ended")
        raise _not_there(response_id)

    def end(self, running: Iterable[Exchange], owner: Owner, response_id: str) -> Ended | None:
        """End the call of this process that is making this response, as its caller would."""
        for x in running:
            if x.call is None or x.call.turn is None or x.call.turn.id != response_id or x.principal is None:
                continue
            if owner_of(x.principal, self._policy.scope) == owner and x.outcome is None:
                x.error = InvalidRequest("This response was cancelled by its caller.", code=CANCELLED)
                x.end(Outcome.CLIENT)
                return Ended(x.call.model, x.call.turn.created)
        return None


def answered(choice: Choice) -> Message:
    """What the model answered, as the history of the next turn."""
    parts: list[Part] = []
    if choice.reasoning or choice.signature:
        parts.append(ThinkingPart(choice.reasoning or "", choice.signature))
    parts += [ThinkingPart(redacted=piece) for piece in choice.redacted]
    if choice.text and parts:
        parts.append(TextPart(choice.text))
    content: str | tuple[Part, ...] | None = tuple(parts) if parts else choice.text or None
    if content is None and not choice.tools and not choice.refusal:
        content = ""
    return Message("assistant", content, tool_calls=choice.tools, refusal=choice.refusal)


def _refuse(turn: Turn) -> None:
    if turn.previous is not None:
        words = f"{_OFF}, so none can be continued: send the whole conversation as input. {_HOW}"
        raise InvalidRequest(words, code="responses_not_kept", param="previous_response_id")
    if turn.store:
        raise InvalidRequest(f"{_OFF}: leave store out, or send false. {_HOW}", code="responses_not_kept", param="store")


def _not_there(response_id: str, param: str | None = None) -> NotFound:
    words = f"There is no response {response_id[:128]!r} of yours here: it was not kept, has expired or was deleted."
    return NotFound(words, code="response_not_found", param=param)
