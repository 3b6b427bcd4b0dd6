"""Cache answers a call that was asked before, word for word, in the same scope and under the same plan and policy.

Off unless the route asks. What is kept is the answer as the target gave it, before Guard saw it: Guard stands before Cache
and watches hits too, so a stricter policy holds for old entries as well. Only whole answers of completed calls are kept,
and only those that ended by themselves (stop, tool_calls).
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec.structs import replace

from gatehouse.core.calls import Call
from gatehouse.core.collect import Collector
from gatehouse.core.events import Answer, Chunk, Event, Events
from gatehouse.core.identity import Principal
from gatehouse.core.money import ZERO
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import CachePolicy, Plan
from gatehouse.core.ports import AnswerCache
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import NO_USAGE, Exchange, canonical
from gatehouse.pipeline.runner import Answered
from gatehouse.pipeline.watching import Watching

MOST_SHARES: Final = 10_000
"""Pairs of caller and plan whose half of the keys is kept at hand."""
_ENDED_WELL: Final = frozenset({"stop", "tool_calls"})


class _Share(msgspec.Struct, frozen=True):
    """Who shares the answers of a plan with a caller, under which policy: the first half of a key."""

    principal: Principal
    plan: Plan
    digest: bytes


class _Miss(msgspec.Struct):
    """A call whose answer is wanted: under which key, for how long, and what has been collected."""

    key: bytes
    ttl: float
    stale: float
    """Seconds beyond `ttl` for which the ladder may use the answer."""
    fresh: bool
    """The caller wants none that is older."""
    answer: Answer | None = None


Prove = Callable[[bytes], bytes]
"""A proof of fixed length of which call these bytes are; see `bookkeeping.Commitments.of_encoded`."""


class Cache:
    """Looks answers up and keeps new ones. `longest_answer` bounds, in characters, what is collected of a stream.

    `prove` makes the commitments of a call's records: what tells one call from another there does so here.
    """

    name = "cache"

    def __init__(self, answers: AnswerCache, prove: Prove, *, longest_answer: int = 1_000_000) -> None:
        self._answers = answers
        self._prove = prove
        self._longest = longest_answer
        self._encode = msgspec.msgpack.Encoder().encode
        self._shares: dict[tuple[str, str], _Share] = {}
        self._misses: dict[Exchange, _Miss] = {}
        self._hits: dict[Exchange, Answer] = {}
        """Found by `at_once`, to be handed over by `admit`, which follows at once."""

    async def admit(self, x: Exchange) -> Events | None:
        """Answer from the cache, or let the call pass. Sets `x.cache`.

        The caller's `cache-control: no-cache` asks for a fresh answer, `no-store` for none to be kept either.
        """
        if x.cache != "hit" and self.at_once(x):
            return None
        return Single(self._hits.pop(x))

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """Calls of which no answer is kept, and that do not say how they want it; the others. See `runner.Many`."""
        find, misses = self._answers.get, self._misses
        others: list[Exchange] = []
        share: _Share | None = None
        for x in calls:
            call, plan, principal = x.call, x.plan, x.principal
            assert call is not None
            assert plan is not None
            assert principal is not None
            policy = plan.cache
            if policy is None:
                continue
            if b"cache-control" in x.head.headers:
                others.append(x)
                continue
            if share is None or share.principal is not principal or share.plan is not plan:
                share = self._share(plan, policy, principal)
            key = self._key(x, call, share)
            answer = find(key)
            if answer is None:
                x.cache = "miss"
                misses[x] = _Miss(key, policy.ttl, 0.0 if plan.ladder is None else plan.ladder.stale, False)
            else:
                self._hits[x] = answer  # for `at_once`, which is asked next
                others.append(x)
        return others

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, for a call that is not answered here."""
        call, plan, principal = x.call, x.plan, x.principal
        assert call is not None
        assert plan is not None
        assert principal is not None
        policy = plan.cache
        if policy is None:
            return True
        wishes = x.head.headers.get(b"cache-control")
        if wishes is not None and b"no-store" in (asked := _directives(wishes)):
            return True
        key = self._key(x, call, self._share(plan, policy, principal))
        fresh = wishes is not None and bool(asked & {b"no-cache", b"max-age=0"})
        if not fresh:
            answer = self._hits.get(x) or self._answers.get(key)
            if answer is not None:
                x.cache = "hit"
                x.usage = NO_USAGE
                x.charge = ZERO
                self._hits[x] = answer
                return False
        x.cache = "miss"
        self._misses[x] = _Miss(key, policy.ttl, 0.0 if plan.ladder is None else plan.ladder.stale, fresh)
        return True

    def watch(self, x: Exchange, events: Events) -> Events:
        """Collect the answer of a miss."""
        miss = self._misses.get(x)
        if miss is None:
            return events
        if type(events) is Single and type(answer := events.event) is Answer:
            if _length(answer) <= self._longest:
                miss.answer = answer
            return events
        return Watching(events, self._collected(miss, events))

    def clear_answers(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """As `watch`, of whole answers."""
        misses, longest = self._misses, self._longest
        for x, answer in answers:
            miss = misses.get(x)
            if miss is not None and _length(answer) <= longest:
                miss.answer = answer
        return ()

    def settle(self, x: Exchange) -> None:
        """Keep what was collected, if the call completed."""
        if self._hits:
            self._hits.pop(x, None)  # found, and ended before it was handed over
        miss = self._misses.pop(x, None)
        if miss is None or miss.answer is None or x.outcome is not Outcome.COMPLETED or x.cache != "miss":
            return
        for choice in miss.answer.choices:
            if choice.finish not in _ENDED_WELL:
                return
        if miss.answer.choices or (x.call is not None and x.call.operation == "embedding"):
            self._answers.put(miss.key, miss.answer, miss.ttl, miss.stale)

    def stale(self, x: Exchange) -> Answer | None:
        """The answer to this call whose time is over, if it is still kept and the caller would have it."""
        miss = self._misses.get(x)
        return None if miss is None or miss.fresh else self._answers.get_stale(miss.key)

    def _key(self, x: Exchange, call: Call, share: _Share) -> bytes:
        """Everything that decides what the answer may be and who may see it. Streamed or not is the same answer."""
        if call.stream or call.include_usage or call.turn is not None:
            return share.digest + self._prove(canonical(replace(call, stream=False, include_usage=False, turn=None)))
        if not x.commitment:
            x.commitment = self._prove(canonical(call))
        return share.digest + x.commitment

    def _share(self, plan: Plan, policy: CachePolicy, principal: Principal) -> _Share:
        share = self._shares.get((principal.key_id, plan.model))
        if share is not None and share.principal is principal and share.plan is plan:
            return share
        if len(self._shares) >= MOST_SHARES:
            self._shares.clear()
        shared = self._encode((_scope(policy, principal), plan.model, plan.digest, plan.guard.version))
        share = self._shares[principal.key_id, plan.model] = _Share(principal, plan, blake2b(shared, digest_size=32).digest())
        return share

    async def _collected(self, miss: _Miss, events: Events) -> AsyncGenerator[Event, None]:
        collector: Collector | None = Collector()
        length = 0
        try:
            async for event in events:
                if collector is not None:
                    length += _length(event)
                    if length > self._longest:
                        collector = None
                    else:
                        collector.add(event)
                yield event
            if collector is not None:
                miss.answer = collector.answer()
        finally:
            await events.aclose()


def _scope(policy: CachePolicy, principal: Principal) -> tuple[str, ...]:
    """Who shares an entry. A key without a team shares with nobody under the scope team."""
    if policy.scope == "tenant":
        return "tenant", principal.tenant
    if policy.scope == "team" and principal.team is not None:
        return "team", principal.tenant, principal.team
    return "key", principal.tenant, principal.key_id


def _directives(value: bytes) -> frozenset[bytes]:
    return frozenset(directive.strip().lower() for directive in value.split(b","))


def _length(event: Event) -> int:
    """Characters of what an event adds; logprobs are not counted, the store measures what it keeps."""
    if isinstance(event, Chunk):
        return sum(
            len(choice.text) + len(choice.reasoning) + len(choice.refusal) + sum(len(tool.arguments) for tool in choice.tools)
            for choice in event.choices
        )
    return len(event.raw) + (sum(len(vector) for vector in event.vectors) if event.vectors else 0)
