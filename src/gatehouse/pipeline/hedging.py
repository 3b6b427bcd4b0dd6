"""When a second target is asked before the first has failed, and the race between the two.

Hedging buys a shorter tail with extra calls, so it is bounded three times: by the route (off unless asked for), by a share of the
calls, and by money: the second attempt needs a hold of its own, which must be at hand. The first to begin wins; the other is
cancelled in the same moment.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeVar

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Events
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Clock, Spawn, Task

T = TypeVar("T")

SAMPLES: Final = 256
"""Times to the first event that a quantile is taken of."""
ENOUGH: Final = 20
"""With fewer a quantile says nothing, and nothing is hedged."""
MEMORY: Final = 1_000
"""Calls after which older ones count half in the share."""


class _Model:
    """What was seen of one model's calls."""

    __slots__ = ("calls", "hedged", "newest", "sorted")

    def __init__(self) -> None:
        self.calls = 0.0
        self.hedged = 0.0
        self.newest: deque[float] = deque()
        self.sorted: list[float] = []


class Hedging:
    """Decides for models whose route asks for hedging; keeps nothing of others."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def after(self, plan: Plan) -> float | None:
        """A call begins: the seconds after which it may be hedged; None when not at all."""
        hedge = plan.hedge
        if hedge is None:
            return None
        seen = self._models.get(plan.model)
        if seen is None:
            seen = self._models[plan.model] = _Model()
        seen.calls += 1
        if seen.calls > MEMORY:
            seen.calls /= 2
            seen.hedged /= 2
        if hedge.quantile is None:
            return hedge.after
        if len(seen.sorted) < ENOUGH:
            return None
        slow = seen.sorted[min(int(hedge.quantile * len(seen.sorted)), len(seen.sorted) - 1)]
        return slow if hedge.after is None else max(slow, hedge.after)

    def affordable(self, plan: Plan) -> bool:
        """Whether one more call may be hedged within the share."""
        seen = self._models.get(plan.model)
        return seen is not None and plan.hedge is not None and seen.hedged + 1 <= plan.hedge.share * seen.calls

    def hedged(self, plan: Plan) -> None:
        """A call was."""
        self._models[plan.model].hedged += 1

    def began(self, plan: Plan, seconds: float) -> None:
        """A target began so long after it was asked."""
        seen = self._models.get(plan.model)
        if seen is None:
            return
        seen.newest.append(seconds)
        insort(seen.sorted, seconds)
        if len(seen.newest) > SAMPLES:
            seen.sorted.remove(seen.newest.popleft())


class Waiting:
    """One waiter, woken by the legs of a race and by time."""

    def __init__(self, clock: Clock, spawn: Spawn) -> None:
        self._clock = clock
        self.spawn = spawn
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something has ended."""
        self._woken.set()

    async def news(self, seconds: float | None = None) -> None:
        """Return when something has ended, or `seconds` are over."""
        timer = self._clock.call_later(seconds, self.wake) if seconds is not None else None
        try:
            await self._woken.wait()
            self._woken.clear()
        finally:
            if timer is not None:
                timer.cancel()


class Leg:
    """One of two attempts that run at the same time."""

    __slots__ = ("_dropped", "_started", "_task", "_waiting", "ended", "error", "events")

    def __init__(self, waiting: Waiting, ask: Callable[[], Awaitable[Events]], name: str) -> None:
        self._waiting = waiting
        self.events: Events | None = None
        self.error: BaseException | None = None
        self.ended = False
        self._started = False
        self._dropped = False
        self._task: Task = waiting.spawn(self._run(ask), name=name)

    async def _run(self, ask: Callable[[], Awaitable[Events]]) -> None:
        self._started = True
        try:
            events = await ask()
            if self._dropped:
                await events.aclose()
            else:
                self.events = events
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self._waiting.wake()

    async def drop(self) -> None:
        """Stop it, and return when it has stopped: nothing it opened stays open."""
        self._dropped = True
        if not self.ended:
            self._task.cancel()
            # A task that never ran is gone with its cancellation, and none of its lines tells.
            self.ended = not self._started
        while not self.ended:
            await self._waiting.news()
        if self.events is not None:
            events, self.events = self.events, None
            await events.aclose()


class Contest(Protocol[T]):
    """What a race asks of whoever makes the attempts; `T` is an attempt."""

    def ask(self, attempt: T) -> Awaitable[Events]:
        """Make it: its events once it has begun to answer."""

    def second(self) -> T | None:
        """The other attempt, paid for; None when there is nobody to ask or nothing to pay with."""

    def stands(self, attempt: T) -> None:
        """From now on this one is the call's."""

    def failed(self, attempt: T, error: UpstreamFailed) -> None:
        """It failed while the other goes on."""

    def overtaken(self, attempt: T) -> None:
        """It was stopped because the other has begun, or nobody waits any more."""


async def race(contest: Contest[T], attempt: T, after: float, clock: Clock, spawn: Spawn) -> Events:
    """The events of `attempt`, or those of a second one that was made `after` seconds later and began first.

    Whoever is left at the end, well or not, has been told to `stands` last. Raises what the last attempt raised.
    """
    waiting = Waiting(clock, spawn)
    legs = {Leg(waiting, partial(contest.ask, attempt), "ask"): attempt}
    try:
        await waiting.news(after)
        if not any(leg.ended for leg in legs) and (other := contest.second()) is not None:
            legs[Leg(waiting, partial(contest.ask, other), "hedge")] = other
        while True:
            ended = [leg for leg in legs if leg.ended]
            winner = next((leg for leg in ended if leg.events is not None), None)
            if winner is None and ended and (len(ended) == len(legs) or _final(ended[-1])):
                winner = ended[-1]
            if winner is not None:
                break
            for leg in ended:
                assert isinstance(leg.error, UpstreamFailed)
                contest.failed(legs.pop(leg), leg.error)
            await waiting.news()
    except BaseException:
        await _drop(contest, legs, next(iter(legs)))
        raise
    for leg in [leg for leg in legs if leg is not winner and leg.ended and isinstance(leg.error, UpstreamFailed)]:
        contest.failed(legs.pop(leg), leg.error)  # type: ignore[arg-type]
    events, winner.events = winner.events, None
    try:
        await _drop(contest, legs, winner)
    except BaseException:
        if events is not None:
            await events.aclose()
        raise
    if events is None:
        assert winner.error is not None
        raise winner.error
    return events


async def _drop(contest: Contest[T], legs: dict[Leg, T], kept: Leg) -> None:
    """Stop every leg; all but `kept` are told to be overtaken, and the call is that of `kept` again."""
    try:
        for leg in legs:
            await leg.drop()
    finally:
        for leg, attempt in legs.items():
            if leg is not kept:
                contest.overtaken(attempt)
        contest.stands(legs[kept])


def _final(leg: Leg) -> bool:
    """Whether the other attempt cannot change what this one says: the request itself is at fault, or we are."""
    return not isinstance(leg.error, UpstreamFailed) or leg.error.final
