"""Calls that begin, wait, answer, fail and are ended at random, many in a turn: what the runner promises holds for each of them."""

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

from gatehouse.core.errors import Blocked, GatehouseError, InvalidRequest, Unavailable, UpstreamFailed
from gatehouse.core.events import Event, Events
from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange
from tests.pipeline.laning import Clearing, Lane, Looking, Prompt, Target, exchange, pieces, whole

ENDS = (Outcome.CLIENT, Outcome.REVOKED, Outcome.DEADLINE, Outcome.SHUTDOWN)


class Walk:
    """One random course of many calls."""

    def __init__(self, seed: int, *, turn: bool) -> None:
        self.chance = random.Random(seed)
        self.log: list[str] = []
        stages = [Prompt(name, self.log, self.act, wait=self.wait, settle=self.settle) for name in "abc"]
        stages[1] = Clearing("b", self.log, self.act, passes=lambda x: self.now(0.7), wait=self.wait, settle=self.settle)
        watching = Looking("d", self.log, self.look)
        self.target = Target(self.log, self.answer_later, start=self.act, started=self.act, wait=self.wait)
        self.lane = Lane(self.log, *stages, watching, self.target, turn=turn)
        self.calls: list[Exchange] = []

    def now(self, often: float) -> bool:
        return self.chance.random() < often

    def act(self, x: Exchange) -> None:
        """Most often nothing; else a refusal or a fault."""
        if self.now(0.04):
            raise self.chance.choice([InvalidRequest("no"), Unavailable("no"), Blocked("no"), ZeroDivisionError()])
        if self.now(0.02):
            x.end(self.chance.choice(ENDS))

    def wait(self, x: Exchange) -> bool:
        return self.now(0.06)

    def settle(self, x: Exchange) -> None:
        if self.now(0.03):
            raise RuntimeError("promise broken")

    def look(self, x: Exchange, events: Events) -> Events | None:
        if self.now(0.05):
            raise Blocked("leak")
        return self.around(x, events) if self.now(0.1) else None

    async def around(self, x: Exchange, events: Events) -> AsyncGenerator[Event, None]:
        try:
            async for event in events:
                await asyncio.sleep(0)
                yield event
        finally:
            await events.aclose()

    async def answer_later(self, x: Exchange) -> Events:
        await asyncio.sleep(0)
        self.act(x)
        if self.now(0.2):
            raise UpstreamFailed("no", code="upstream_broken")
        return whole()

    async def step(self) -> None:
        """Something happens."""
        if self.now(0.5):
            new = [exchange(f"x{len(self.calls) + number}") for number in range(self.chance.randrange(1, 6))]
            self.calls += new
            for asker in self.lane.begin(*new):
                if self.now(0.1):
                    asker.taking = lambda answer: bool(1 // 0) if self.now(0.3) else False
                if self.now(0.05):
                    asker.ending = self.lane.end_turn if self.now(0.5) else lambda: 1 // 0
        for name in list(self.target.resumes):
            if self.now(0.4):
                x = self.calls[int(name[1:])]
                kind = self.chance.random()
                self.target.come(x, whole() if kind < 0.8 else None if kind < 0.9 else pieces(self.log, name))
        if self.calls and self.now(0.4):
            self.chance.choice(self.calls[-12:]).end(self.chance.choice(ENDS))
        if self.now(0.7):
            self.lane.end_turn()
        if self.now(0.7):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Everything comes to an end."""
        for _ in range(50):
            await self.lane.turns(2)
            for name in list(self.target.resumes):
                self.target.come(self.calls[int(name[1:])], whole())
        await asyncio.gather(*(task for asker in self.lane.asking for task in asker.tasks), return_exceptions=True)

    def check(self, x: Exchange) -> None:
        """What was promised of one call."""
        happened = self.lane.of(x)
        settled = [line.split()[-1] for line in happened if line.startswith("settle")]
        assert settled == ["target", "d", "c", "b", "a"][5 - x.entered :], happened
        assert len({line.split()[1] for line in happened if line.startswith("settle")}) <= 1, happened
        assert happened.count("taken") <= 1
        for name in "abcd":
            assert sum(line in {f"admit {name}", f"admit later {name}"} for line in happened) <= 1, happened
        assert x.outcome is not None
        assert (x.outcome is Outcome.COMPLETED) <= (x.error is None)
        assert x.error is None or isinstance(x.error, GatehouseError)


@pytest.mark.parametrize("turn", [True, False], ids=["turns", "no turns"])
@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens(seed: int, turn: bool) -> None:
    """Each entered stage settles once, last first, under one outcome; who asked hears of it once, or a task does; nothing is left."""
    walk = Walk(seed, turn=turn)
    for _ in range(60):
        await walk.step()
    await walk.end()
    assert len(walk.calls) > 30
    for x in walk.calls:
        walk.check(x)
    assert walk.lane.nothing_left()
    assert len({x.outcome for x in walk.calls}) >= 5
