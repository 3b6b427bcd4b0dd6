"""Dispatch with fakes around it: models that do what a test says, books that remember, time that a test moves."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.limits import NO_HOLDS, Holds
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Attempt, Model, Refused
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.reliability import Reliability
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.target_health import TargetHealth
from gatehouse.pipeline.target_loads import TargetLoads
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeSpawn, FakeTally

PRICE = Price(
    "p1", input=1_000_000, output=10_000_000, cached_input=100_000, cache_write=0, reasoning=10_000_000, audio_input=0, audio_output=0
)
"""One unit a prompt token, ten a token of the answer."""
ROLE = Chunk(choices=(ChoiceDelta(begins=True),))
USAGE = Chunk(usage=Usage(input=7, output=2))
ASKED = Call(model="assistant", messages=(Message("user", "12345678"),), max_tokens=100, stream=True)
"""A prompt of 2 tokens and 4 for the message."""


def piece(text: str) -> Chunk:
    return Chunk(choices=(ChoiceDelta(text=text),), raw=b"data: ..\n\n", dialect="openai")


def target(name: str, **fields: Any) -> Target:
    return Target(id=f"{name}/m", provider=name, model="m", **{"price": PRICE, **fields})


def failed(code: str, **fields: Any) -> UpstreamFailed:
    return UpstreamFailed(f"{code}.", code=code, **fields)


class FakeBooks:
    """Keeps the order of what was written."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.broken = False

    def commits_beside(self, x: Exchange) -> bool:
        """Nothing is large here."""
        return False

    async def commit(self, x: Exchange) -> None:
        x.commitment = b"c"

    def opened(self, x: Exchange, target: Target) -> None:
        if self.broken:
            raise Unavailable("The journal cannot be written.")
        x.attempts += 1
        x.attempt = x.attempts
        x.opened = True
        x.target = target
        self.log.append(f"opened {target.id}")

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        left: list[tuple[Exchange, Exception]] = []
        for x, target in calls:
            try:
                self.opened(x, target)
            except Unavailable as error:
                left.append((x, error))
        return left

    def not_opened(self, x: Exchange) -> None:
        """Nothing is refused here."""

    async def durable(self) -> None:
        self.log.append("durable")

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        x.opened = False
        self.log.append(f"failed {error.code}")

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: int) -> None:
        self.log.append(f"overtaken {target.id} {usage.total} {charge}")


class Answering:
    """A model whose answer is a coroutine function of the attempt."""

    def __init__(self, act: Callable[[Attempt], Awaitable[Events]]) -> None:
        self.act = act

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        return await self.act(attempt)

    async def ping(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is held."""


class Bench:
    """Dispatch with fakes around it."""

    def __init__(self, **models: Model) -> None:
        self.log: list[str] = []
        self.clock = FakeClock()
        self.rng = FakeRng()
        self.tally = FakeTally()
        self.books = FakeBooks(self.log)
        self.models = {name: Noting(model, name, self.log) for name, model in models.items()}
        self.health = TargetHealth(self.clock, self.rng, self.tally)
        self.loads = TargetLoads(self.clock)
        self.spawn = FakeSpawn()
        self.stale: Answer | None = None
        self.money = True
        reliability = Reliability(self.health, self.loads, lambda x: self.stale, self.spawn, lambda x: self.money)
        self.dispatch = Dispatch(self.models, self.books, self.clock, self.rng, self.tally, None, reliability)
        self.runner = Runner((self.dispatch,), self.clock)
        self.events: list[Event] = []

    def exchange(self, plan: Plan | tuple[Target, ...], call: Call = ASKED, holds: Holds = NO_HOLDS) -> Exchange:
        x = Exchange("req_1", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
        x.call = call
        x.plan = plan if isinstance(plan, Plan) else Plan("assistant", plan)
        x.principal = Principal("k1", "key", frozenset({Role.DEVELOPER}))
        x.holds = holds
        return x

    async def collect(self, x: Exchange, events: Events) -> None:
        async for event in events:
            self.events.append(event)

    async def carry(self, x: Exchange) -> Exchange:
        await self.runner.carry(x, self.collect)
        return x

    def clean(self) -> bool:
        """Whether nothing is left of any call."""
        return self.dispatch.running == 0 and not any(self.tally.gauges.values())


class Noting:
    """A model that notes when it is asked."""

    def __init__(self, model: Model, name: str, log: list[str]) -> None:
        self.model = model
        self.name = name
        self.log = log
        self.attempts: list[Attempt] = []

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        self.log.append(f"asked {self.name}")
        self.attempts.append(attempt)
        return await self.model.answer(call, target, attempt)

    async def ping(self) -> str:
        return await self.model.ping()

    async def close(self) -> None:
        await self.model.close()
