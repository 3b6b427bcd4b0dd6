"""A target with slots in virtual time, and callers in front of it: the real Runner, Dispatch and Turnstile, nothing else."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Deadlines, Plan, Target
from gatehouse.core.ports import Attempt, Clock, Model, Refused
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.turnstile import Turnstile
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeTally

PATIENT = Deadlines(first_byte=1e6, total=1e6)


def target(provider: str = "engine", deadlines: Deadlines = PATIENT) -> Target:
    return Target(f"{provider}/m", provider, "m", deadlines=deadlines)


class SlottedModel:
    """Holds each call for as many seconds as its first message says; collapses (raises) when it is given more than its slots."""

    def __init__(self, clock: Clock, slots: int | None) -> None:
        self.clock = clock
        self.slots = slots
        self.running = 0
        self.most = 0
        self.order: list[str] = []
        """The request ids in the order in which they came through."""
        self.attempts: list[Attempt] = []

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        self.order.append(attempt.request_id)
        self.attempts.append(attempt)
        attempt.sent = True
        self.running += call.n
        self.most = max(self.most, self.running)
        seconds = float(str(call.messages[0].content))
        if call.stream:
            return self._stream(call, seconds)
        try:
            await self.clock.sleep(seconds)
        finally:
            self.running -= call.n
        return one(Answer((Choice(text="done"),)))

    async def _stream(self, call: Call, seconds: float) -> AsyncGenerator[Event, None]:
        try:
            yield Chunk((ChoiceDelta(begins=True),))
            await self.clock.sleep(seconds)
            yield Chunk((ChoiceDelta(text="done", finish="stop"),))
        finally:
            self.running -= call.n

    async def ping(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is held."""


async def one(event: Event) -> AsyncGenerator[Event, None]:
    yield event


class Silent:
    """Books that nobody reads."""

    def commits_beside(self, x: Exchange) -> bool:
        """Nothing is large here."""
        return False

    async def commit(self, x: Exchange) -> None:
        """Nothing to commit to."""

    def opened(self, x: Exchange, target: Target) -> None:
        x.attempts += 1
        x.opened = True
        x.target = target

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        for x, target in calls:
            self.opened(x, target)
        return []

    def not_opened(self, x: Exchange) -> None:
        """Nothing is refused here."""

    async def durable(self) -> None:
        """Nothing is written."""

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        x.opened = False

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: int) -> None:
        """Nothing is hedged."""


@dataclass(slots=True)
class Caller:
    """One call and how it went."""

    x: Exchange
    came: float
    task: asyncio.Task[None]
    wait: float = math.nan
    """Seconds until it was let through; not a number while it was not."""
    ended: float = math.nan
    error: GatehouseError | None = None


class House:
    """Dispatch in front of one engine, with callers."""

    def __init__(self, slots: int | None = 2, **others: Model) -> None:
        self.clock = FakeClock()
        self.tally = FakeTally()
        self.model = SlottedModel(self.clock, slots)
        self.models: dict[str, Model] = {"engine": self.model, **others}
        self.slotted = {name: model for name, model in self.models.items() if isinstance(model, SlottedModel)}
        self.turnstile = Turnstile(self.slotted, self.clock, self.tally)
        self.books = Silent()
        self.dispatch = Dispatch(self.models, self.books, self.clock, FakeRng(), self.tally, self.turnstile)
        self.runner = Runner((self.dispatch,), self.clock)
        self.callers: dict[str, Caller] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def call(
        self,
        seconds: float = 1.0,
        *,
        key: str = "k",
        tenant: str = "t",
        traffic: str = "live",
        plan: Plan | None = None,
        n: int = 1,
        stream: bool = False,
    ) -> Caller:
        """Begin a call that holds its slots for `seconds`."""
        name = f"req_{len(self.callers)}"
        x = Exchange(name, Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
        x.call = Call(model="m", messages=(Message("user", str(seconds)),), n=n, stream=stream)
        x.plan = plan or Plan("m", (target(),))
        x.principal = Principal(key, key, frozenset({Role.DEVELOPER}), tenant=tenant)
        x.traffic = traffic
        caller = self.callers[name] = Caller(x, self.clock.monotonic(), self.spawn(self._carry(name, x)))
        return caller

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is kept until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carry(self, name: str, x: Exchange) -> None:
        caller = self.callers[name]

        async def deliver(x: Exchange, events: Events) -> None:
            async for _ in events:
                pass

        try:
            await self.runner.carry(x, deliver)
        except GatehouseError as error:
            caller.error = error
        caller.ended = self.clock.monotonic()
        if name in self.model.order and x.outcome is Outcome.COMPLETED:
            assert x.call is not None
            caller.wait = caller.ended - caller.came - float(str(x.call.messages[0].content))

    async def run_for(self, seconds: float) -> None:
        """Let time pass."""
        await self.clock.run_for(seconds, turns=12)

    async def run_dry(self) -> None:
        """Let time pass until every call has ended."""
        await self.run_for(0.0)
        while (due := self.clock.next_due()) is not None and self._tasks:
            await self.run_for(max(0.0, due - self.clock.monotonic()))

    @property
    def waiting(self) -> int:
        """Calls in the line, as the gauge says."""
        return self.tally.gauges["gatehouse_target_waiting", ("engine/m",)]

    def clean(self) -> bool:
        """Whether nothing is left of any call."""
        return not (self.turnstile.tickets or self.dispatch.running or self.model.running or any(self.tally.gauges.values()))


class Crowd:
    """Callers from a seed: the same calls at the same moments, whatever else goes on."""

    def __init__(self, house: House, seed: int, service: Callable[[random.Random], float]) -> None:
        self.house = house
        self.seed = seed
        self.service = service
        self.until = 0.0

    async def open(self, tenant: str, key: str, rate: float, calls: list[Caller]) -> None:
        """Calls that come at random moments, `rate` a second, and do not wait for one another."""
        chance = random.Random(f"{self.seed} {tenant} {key}")
        while True:
            await self.house.clock.sleep(chance.expovariate(rate))
            if self.house.clock.monotonic() > self.until:
                return
            calls.append(self.house.call(self.service(chance), tenant=tenant, key=key))

    async def closed(self, tenant: str, key: str, number: int, calls: list[Caller]) -> None:
        """A user who asks again as soon as the answer is there."""
        chance = random.Random(f"{self.seed} {tenant} {key} {number}")
        while self.house.clock.monotonic() <= self.until:
            caller = self.house.call(self.service(chance), tenant=tenant, key=key)
            calls.append(caller)
            await asyncio.wait({caller.task})

    async def run(self, seconds: float, *work: Coroutine[Any, Any, None]) -> None:
        """Let all of them call for `seconds`, and wait until the last answer."""
        self.until = self.house.clock.monotonic() + seconds
        for each in work:
            self.house.spawn(each)
        await self.house.run_dry()
