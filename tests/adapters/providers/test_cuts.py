"""Clients that leave, through the real runner, Dispatch and adapter, on real sockets: nothing stays behind, and what came is paid for."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from gatehouse.adapters.providers.frame import HttpModel
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Refused
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeTally
from gatehouse.testing.upstream import FakeUpstream, endless
from tests.adapters.providers.trials import eventually, openai_model

PRICE = Price("p", 1_000_000, 10_000_000, 0, 0, 0, 0, 0)
PLAN = Plan("assistant", (Target("lab/m", "lab", "m", price=PRICE),))
CALL = Call(model="assistant", messages=(Message("user", "12345678"),), stream=True)
STREAMS = 64


class Books:
    """Counts what is opened."""

    def __init__(self) -> None:
        self.opened_calls = 0

    def commits_beside(self, x: Exchange) -> bool:
        """Nothing is large here."""
        return False

    async def commit(self, x: Exchange) -> None:
        """Nothing to prove here."""

    def opened(self, x: Exchange, target: Target) -> None:
        x.attempts += 1
        x.opened = True
        x.target = target
        self.opened_calls += 1

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        for x, target in calls:
            self.opened(x, target)
        return []

    def not_opened(self, x: Exchange) -> None:
        """Nothing is refused here."""

    async def durable(self) -> None:
        """Memory is durable enough."""

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        raise AssertionError(error)

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: int) -> None:
        """Nothing is hedged."""


@pytest.fixture
async def model(upstream: FakeUpstream) -> AsyncIterator[HttpModel]:
    """Fewer connections than streams, so that some are cut while they queue."""
    upstream.will(endless("four", gap=0.002))
    made = openai_model(upstream.url, max_connections=STREAMS // 2)
    yield made
    await made.close()


class Client:
    """Reads a stream and leaves after some events, or after some turns of the loop when that comes first."""

    def __init__(self, runner: Runner, number: int, rng: random.Random) -> None:
        self.x = Exchange(f"req_{number}", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
        self.x.call = CALL
        self.x.plan = PLAN
        self.x.principal = Principal("k", "key", frozenset({Role.DEVELOPER}))
        self.texts = 0
        self._runner = runner
        self._after = rng.randrange(0, 12)
        self._patience = rng.uniform(0.0, 0.15)

    async def deliver(self, x: Exchange, events: Events) -> None:
        async for event in events:
            self.texts += any(choice.text for choice in event.choices)
            if self.texts > self._after:
                x.end(Outcome.CLIENT)

    async def stay(self) -> None:
        timer = asyncio.get_running_loop().call_later(self._patience, self.x.end, Outcome.CLIENT)
        with pytest.raises(asyncio.CancelledError):
            await self._runner.carry(self.x, self.deliver)
        timer.cancel()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_scenario_19_64_streams_cut_at_random_points(upstream: FakeUpstream, model: HttpModel) -> None:
    """Queued, connecting, waiting or mid-stream: within a second the provider has no connection of ours, slots and gauges are
    back, tokens so far are billed once, and no task and no descriptor is left."""
    books, tally, clock = Books(), FakeTally(), FakeClock()
    dispatch = Dispatch({"lab": model}, books, clock, FakeRng(), tally)
    runner = Runner((dispatch,), clock)
    rng = random.Random(64)
    seen: list[Client] = []
    files, tasks = open_files(), len(asyncio.all_tasks())
    for _ in range(3):
        clients = [Client(runner, number, rng) for number in range(STREAMS)]
        await asyncio.gather(*(client.stay() for client in clients))
        await upstream.until(lambda up: up.connections == 0, seconds=1.0)
        for client in clients:
            x = client.x
            assert (x.outcome, x.attempts, x.opened) == (Outcome.CLIENT, 1, True)
            output = x.usage.output
            assert output in {client.texts, client.texts + 1}, "what was counted and what was delivered differ by the event in flight"
            assert x.charge == x.usage.input + 10 * output
            assert x.usage.input in ({6} if client.texts else {0, 6})
            assert x.flags == (["estimated_usage"] if x.usage.total else [])
        seen += clients
    assert any(client.texts == 0 for client in seen)
    assert any(client.texts > 1 for client in seen)
    assert any(client.x.usage.total == 0 for client in seen), "none was cut while it queued"
    assert (model.pool.open, model.pool.waiting, dispatch.running, len(runner.running)) == (0, 0, 0, 0)
    assert not any(tally.gauges.values())
    await eventually(lambda: len(asyncio.all_tasks()) == tasks)
    await eventually(lambda: open_files() <= files)
