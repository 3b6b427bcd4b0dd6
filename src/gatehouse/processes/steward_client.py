"""A worker's view of the steward: leases and keys over the inner socket, as the ports the pipeline knows."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from gatehouse.core.errors import Unavailable
from gatehouse.core.identity import KeyRecord
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Clock
from gatehouse.core.replays import Claim, Replayed
from gatehouse.core.responses import Ended, Kept, Owner
from gatehouse.core.targets import TargetState
from gatehouse.processes.protocol import (
    Acquire,
    Acquired,
    CancelResponse,
    ClaimReplay,
    Collect,
    Collected,
    Configure,
    Configured,
    Drain,
    EndResponse,
    FindKey,
    FindPlan,
    FindResponse,
    FinishReplay,
    ForgetKey,
    GiveBack,
    KeepResponse,
    KeyFound,
    Link,
    Message,
    Metrics,
    PlanFound,
    Recall,
    Recalled,
    RemoveResponse,
    ReplaySaid,
    ReportOver,
    ResponseEnded,
    ResponseSaid,
    Revoke,
    Serving,
    TargetsTold,
)

logger = logging.getLogger("gatehouse.processes")

ANSWER_SECONDS: Final = 5.0


class StewardClient:
    """Implements `LeaseOffice`, `ResponseStore`, `ReplayDesk`, `TargetNews` and the fetch of `KeyCache`.

    What else the steward says goes to `told`.
    """

    def __init__(self, clock: Clock, told: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._clock = clock
        self._told = told
        self._on_lost = lost
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._drawn: dict[int, tuple[Draw, ...]] = {}
        """Draws not answered yet, kept beyond the asker's patience: a lease that comes too late is given straight back."""
        self._claims: dict[int, bytes] = {}
        """Claims not answered yet, likewise: what nobody waits for any more must not stand as being carried."""
        self._number = 0
        self.link = Link(self._receive, self._lost)

    async def acquire(self, draws: tuple[Draw, ...]) -> Granted:
        """See `LeaseOffice`."""
        number = self._next()
        self._drawn[number] = draws
        answer: Acquired = await self._ask(number, Acquire(number, draws))
        if answer.problem:
            raise _gone(answer.problem)
        return answer.granted

    def give_back(self, unused: Iterable[Unused]) -> None:
        """See `LeaseOffice`."""
        self.link.send(GiveBack(tuple(unused)))

    def report_over(self, meter_id: str, amount: int) -> None:
        """See `LeaseOffice`."""
        self.link.send(ReportOver(meter_id, amount))

    async def fetch_key(self, key_id: str) -> KeyRecord | None:
        """The record as the store has it now. Raises Unavailable when the store cannot be asked."""
        number = self._next()
        answer: KeyFound = await self._ask(number, FindKey(number, key_id))
        if answer.problem:
            raise Unavailable("Keys cannot be checked at the moment.", code="identity_unavailable", retry_after=1.0, detail=answer.problem)
        return answer.record

    async def claim(self, key: bytes, digest: bytes) -> Claim:
        """See `ReplayDesk`."""
        number = self._next()
        self._claims[number] = key
        answer: ReplaySaid = await self._ask(number, ClaimReplay(number, key, digest))
        return answer.claim

    def finish(self, key: bytes, answer: Replayed | None) -> None:
        """See `ReplayDesk`."""
        self.link.send(FinishReplay(key, answer))

    async def keep(self, kept: Kept) -> None:
        """See `ResponseStore`."""
        await self._about_response(KeepResponse(self._next(), kept))

    async def find(self, owner: Owner, response_id: str) -> Kept | None:
        """See `ResponseStore`."""
        return (await self._about_response(FindResponse(self._next(), owner, response_id))).kept

    async def remove(self, owner: Owner, response_id: str) -> bool:
        """See `ResponseStore`."""
        return (await self._about_response(RemoveResponse(self._next(), owner, response_id))).done

    async def cancel_response(self, owner: Owner, response_id: str) -> Ended | None:
        """Have the call of that response ended in whichever worker it runs; None when there was none."""
        return (await self._about_response(CancelResponse(self._next(), owner, response_id))).ended

    async def _about_response(self, question: KeepResponse | FindResponse | RemoveResponse | CancelResponse) -> ResponseSaid:
        try:
            answer: ResponseSaid = await self._ask(question.number, question)
        except Unavailable as gone:
            raise _unread(gone.detail) from None
        if answer.problem:
            raise _unread(answer.problem)
        return answer

    def response_ended(self, number: int, ended: Ended | None) -> None:
        """Tell whether the call to be ended ran here."""
        self.link.send(ResponseEnded(number, ended))

    def tell(self, states: tuple[TargetState, ...]) -> None:
        """See `TargetNews`."""
        self.link.send(TargetsTold(states, everything=False))

    def targets(self, states: tuple[TargetState, ...]) -> None:
        """Tell all that is known of targets."""
        self.link.send(TargetsTold(states))

    async def find_plan(self, name: str) -> Plan | None:
        """The plan of a model that is not listed, None when it may not be asked for. Raises Unavailable when nobody can tell."""
        number = self._next()
        answer: PlanFound = await self._ask(number, FindPlan(number, name))
        if answer.problem:
            raise Unavailable(
                "Models cannot be looked up at the moment.", code="models_unavailable", retry_after=1.0, detail=answer.problem
            )
        return answer.plan

    def serving(self) -> None:
        """Tell that connections are accepted."""
        self.link.send(Serving())

    def configured(self, version: str, problem: str = "") -> None:
        """Tell which configuration is in force, or why not."""
        self.link.send(Configured(version, problem))

    def report(self, snapshot: bytes, collected: int | None = None) -> None:
        """Send the counters so far."""
        self.link.send(Metrics(snapshot))
        if collected is not None:
            self.link.send(Collected(collected))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def recalled(self, number: int) -> None:
        """Tell that what lay idle has been given back."""
        self.link.send(Recalled(number))

    async def _ask(self, number: int, question: Message) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting[number] = future
        timer = self._clock.call_later(ANSWER_SECONDS, self._too_late, number)
        try:
            if not self.link.send(question):
                raise _gone()
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    def _too_late(self, number: int) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_exception(_gone())

    def _receive(self, message: Message) -> None:
        match message:
            case Acquired() | KeyFound() | PlanFound() | ResponseSaid() | ReplaySaid():
                draws = self._drawn.pop(message.number, ())
                key = self._claims.pop(message.number, b"")
                future = self._waiting.get(message.number)
                if future is not None and not future.done():
                    future.set_result(message)
                elif isinstance(message, ReplaySaid):
                    if message.claim.state == "yours":
                        self.finish(key, None)
                elif isinstance(message, Acquired) and message.granted.amounts:
                    granted = message.granted
                    self.give_back(
                        Unused(draw.meter.id, amount, granted.stamp) for draw, amount in zip(draws, granted.amounts, strict=True)
                    )
            case Recall():
                # Whoever waited for an answer that came just before it goes on first: what was lent a moment ago is recalled too.
                asyncio.get_running_loop().call_soon(self._told, message)
            case Configure() | ForgetKey() | Collect() | Drain() | Revoke() | EndResponse() | TargetsTold():
                self._told(message)
            case _:
                logger.error("the steward sent what only workers send: %s", type(message).__name__)

    def _lost(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_gone())
        self._on_lost()


def _gone(detail: str = "the steward does not answer") -> Unavailable:
    return Unavailable("Limits cannot be checked at the moment.", code="steward_unavailable", retry_after=1.0, detail=detail)


def _unread(detail: str) -> Unavailable:
    return Unavailable("Responses cannot be looked up at the moment.", code="responses_unavailable", retry_after=1.0, detail=detail)
