"""Limits under everything that can happen, by random search: calls, cancels, late messages, drains, crashes, lost journals, time.

The model keeps its own account of what calls really used and when they were admitted, and compares after every step:

- in no window of 60 s more requests or tokens than the cap;
- never more slots held than there are;
- spent + what may still be charged <= cap, in the model's words and in the office's statement;
- when all is settled, drained and over, the whole of every cap can be drawn again.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

from gatehouse.control.lease_office import LocalOffice, Office
from gatehouse.core.errors import Unavailable
from gatehouse.core.limits import NO_HOLDS, Dimension, Draw, Holds, Meter
from gatehouse.pipeline.lease_book import Account, LeaseBook, Refusal
from gatehouse.testing.fakes import FakeClock, FakeLeaseStore, FakeSpawn, LaggedOffice, settle_loop

T = TypeVar("T")

REQUESTS, TOKENS, SLOTS, MONEY = 20, 1500, 5, 500
KEYS = ("a", "b")
TEAM = Meter("team:t:money:total:all", Dimension.MONEY, 700)


def meters_of_key(key: str) -> tuple[Meter, ...]:
    """A key's own four, and the team's money that both keys share."""
    return (
        Meter(f"key:{key}:requests", Dimension.REQUESTS, REQUESTS),
        Meter(f"key:{key}:tokens", Dimension.TOKENS, TOKENS),
        Meter(f"key:{key}:slots", Dimension.SLOTS, SLOTS),
        Meter(f"key:{key}:money:total:all", Dimension.MONEY, MONEY),
        TEAM,
    )


class Running:
    """One call as the model sees it."""

    def __init__(self, worker: "Worker", key: str, tokens: int, money: int) -> None:
        self.worker = worker
        self.key = key
        self.tokens = tokens
        self.money = money
        self.admitted: float | None = None
        self.holds: Holds = NO_HOLDS
        self.task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Wait for the hold; a refusal or a lack of office ends it."""
        try:
            answer = await self.worker.book.hold(self.worker.accounts[self.key], (1, self.tokens, 1, self.money, self.money))
        except Unavailable:
            return
        if not isinstance(answer, Refusal):
            self.holds = answer
            self.admitted = self.worker.world.clock.monotonic()
            self.worker.world.admitted.append(self)


class Worker:
    """One incarnation: a book, a line that may lag, and a journal that the drain has read up to some point."""

    def __init__(self, world: "Limits", name: str) -> None:
        self.world = world
        self.name = name
        self.line = LaggedOffice(LocalOffice(world.office, name))
        self.spawn = FakeSpawn()
        self.book = LeaseBook(self.line, world.clock, self.spawn)
        self.accounts: dict[str, Account] = {key: self.book.open(meters_of_key(key)) for key in KEYS}
        self.journal: list[tuple[str, int]] = []
        self.calls: list[Running] = []


class Limits(RuleBasedStateMachine):
    """Rules are what can happen; invariants are the promises."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.store = FakeLeaseStore()
        self.office = Office(self.store, self.clock)
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.admitted: list[Running] = []
        self.over: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        """What was really used of each money meter, whoever knows of it."""
        self.lost = False
        self.born = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the machine's own loop until everything that can run has run."""

        async def both() -> T:
            result = await work
            await settle_loop(25)
            return result

        return self.loop.run_until_complete(both())

    def teardown(self) -> None:
        """Everything ends well, whatever happened before: then nothing is stranded."""
        try:
            self._wind_up()
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        """Some workers are there."""
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        self.born += 1
        self.workers.append(Worker(self, f"w{self.born}"))

    # -- what can happen ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.workers)
    @rule(
        target=running,
        which=st.integers(0, 9),
        key=st.sampled_from(KEYS),
        tokens=st.integers(1, 400),
        money=st.integers(0, 200),
        count=st.integers(1, 6),
    )
    def call(self, which: int, key: str, tokens: int, money: int, count: int) -> Any:
        """Some calls come at once."""
        worker = self.workers[which % len(self.workers)]
        calls = [Running(worker, key, tokens, money) for _ in range(count)]

        async def start() -> None:
            for call in calls:
                call.task = asyncio.ensure_future(call.run())
                worker.calls.append(call)

        self.run(start())
        return multiple(*calls)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def lag(self, which: int) -> None:
        """From now on one worker's messages arrive late, or promptly again."""
        worker = self.workers[which % len(self.workers)]
        worker.line.prompt = not worker.line.prompt
        if worker.line.prompt:
            self.run(worker.line.deliver_all())

    @precondition(lambda self: any(worker.line.waiting for worker in self.workers))
    @rule(which=st.integers(0, 9), count=st.integers(1, 8))
    def deliver(self, which: int, count: int) -> None:
        """Messages of one worker arrive."""
        worker = self.workers[which % len(self.workers)]

        async def work() -> None:
            for _ in range(count):
                await worker.line.deliver()
                await settle_loop(5)

        self.run(work())

    @rule(call=consumes(running), part=st.floats(0, 1), excess=st.sampled_from([0, 0, 0, 0, 0, 30, 300]))
    def finish(self, call: Running, part: float, excess: int) -> None:
        """A call ends, or leaves the line. Seldom a provider used more than the bound."""
        assert call.task is not None
        worker = call.worker
        if worker in self.dead or call not in worker.calls:
            return
        if not call.task.done():
            call.task.cancel()
            self.run(asyncio.sleep(0))
        worker.calls.remove(call)
        if not call.holds:
            return
        tokens, money = int(call.tokens * part), int(call.money * part)
        if excess:
            tokens, money = call.tokens + excess, call.money + excess
        self._settle(call, tokens, money)

    def _settle(self, call: Running, tokens: int, money: int) -> None:
        worker = call.worker
        for meter, used, bound in (
            (f"key:{call.key}:tokens", tokens, call.tokens),
            (f"key:{call.key}:money:total:all", money, call.money),
            (TEAM.id, money, call.money),
        ):
            self.over[meter] += max(used - bound, 0)
        call.tokens, call.money = tokens, money
        worker.book.settle(call.holds, tokens, money)
        call.holds = NO_HOLDS
        self._record(worker, call)

    def _record(self, worker: Worker, call: Running) -> None:
        for meter in (f"key:{call.key}:money:total:all", TEAM.id):
            worker.journal.append((meter, call.money))
            self.used[meter] += call.money

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def tick(self, which: int) -> None:
        """A worker's second is over."""
        self.workers[which % len(self.workers)].book.tick()

    @rule(seconds=st.sampled_from([0.1, 0.4, 0.999, 1.0, 1.5, 7.0, 30.0, 58.5, 59.2, 60.0, 60.7, 61.5]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def set_the_time(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.clock.jump(seconds)

    @precondition(lambda self: self.workers or self.dead)
    @rule(which=st.integers(0, 9), count=st.integers(1, 6))
    def drain(self, which: int, count: int) -> None:
        """The drain posts some of a journal."""
        everybody = self.workers + self.dead
        self._drain(everybody[which % len(everybody)], 2 * count)

    def _drain(self, worker: Worker, count: int | None = None) -> None:
        charges, worker.journal = worker.journal[:count], worker.journal[len(worker.journal[:count]) :]
        if charges:
            self.store.charge(worker.name, charges)
            self.run(self.office.booked(worker.name, charges))

    @rule()
    def tidy(self) -> None:
        """The office keeps house."""
        self.run(self.office.tidy())

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def crash(self, which: int) -> None:
        """A worker dies: its messages and its callers with it. Another takes its seat."""
        worker = self.workers.pop(which % len(self.workers))
        self.dead.append(worker)
        self._bury(worker)
        self.office.incarnation_died(worker.name)
        self._hire()

    def _bury(self, worker: Worker) -> None:
        worker.line.drop()
        worker.line.gone = True

        async def end() -> None:
            for call in worker.calls:
                assert call.task is not None
                call.task.cancel()
            await worker.spawn.close()

        self.run(end())
        worker.line.drop()

    @precondition(lambda self: self.dead)
    @rule(lost=st.booleans())
    def recover(self, lost: bool) -> None:
        """A dead worker's journal is read to its end, calls that were open being charged their hold; or it is gone."""
        worker = self.dead.pop(0)
        for call in worker.calls:
            if call.holds:
                self._record(worker, call)
        if lost:
            self.lost = True
            self.run(self.office.journal_lost(worker.name))
        else:
            self._drain(worker)
            self.run(self.office.incarnation_settled(worker.name))
        worker.calls.clear()
        worker.journal.clear()

    @rule()
    def restart_the_office(self) -> None:
        """The steward dies and its workers with it; a new one opens on the same store. Windows and slots begin anew."""
        for worker in self.workers:
            self.dead.append(worker)
            self._bury(worker)
        count, self.workers = len(self.workers), []
        self.admitted.clear()
        self.office = Office(self.store, self.clock)
        self.run(self.office.open())
        for _ in range(count):
            self._hire()

    @precondition(lambda self: not self.store.gone)
    @rule()
    def lose_the_database(self) -> None:
        """For a while nothing can be written down."""
        self.store.gone = True
        for worker in self.workers:
            while worker.line.waiting:
                self.run(worker.line.deliver())
        self.store.gone = False

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def windows_hold(self) -> None:
        """In any 60 s at most the cap, apart from what providers used beyond every bound."""
        now = self.clock.monotonic()
        self.admitted = [call for call in self.admitted if call.admitted is not None and call.admitted > now - 130]
        for key in KEYS:
            calls = [(call.admitted or 0.0, call.tokens) for call in self.admitted if call.key == key]
            for last, _ in calls:
                inside = [tokens for moment, tokens in calls if last - 60 < moment <= last]
                assert len(inside) <= REQUESTS
                assert sum(inside) <= TOKENS + self.over[f"key:{key}:tokens"]

    @invariant()
    def slots_hold(self) -> None:
        """Calls that run at once, on living workers."""
        for key in KEYS:
            assert sum(call.key == key and bool(call.holds) for worker in self.workers for call in worker.calls) <= SLOTS

    @invariant()
    def money_holds(self) -> None:
        """What is charged, what the journals will charge and what running calls may still charge, together, is within the cap."""
        pending: Counter[str] = Counter()
        for worker in self.workers + self.dead:
            for meter, amount in worker.journal:
                pending[meter] += amount
            for call in worker.calls:
                if call.holds:
                    pending[f"key:{call.key}:money:total:all"] += call.money
                    pending[TEAM.id] += call.money
        caps = {f"key:{key}:money:total:all": MONEY for key in KEYS} | {TEAM.id: TEAM.cap}
        for meter, cap in caps.items():
            assert self.store.charged[meter] + pending[meter] <= cap + self.over[meter]
            # Only what was used beyond every lease can vanish, with the one journal that knew of it.
            vanished = self.over[meter] if self.lost else 0
            assert self.used[meter] <= self.store.charged[meter] + pending[meter] + vanished
        for state in self.office.statement():
            if state.dimension is Dimension.MONEY:
                assert state.over <= self.over[state.meter]
                assert state.cap is None or state.spent + state.live + state.in_doubt <= state.cap + self.over[state.meter]
                if state.over == self.over[state.meter]:
                    assert state.balanced
                unknown = self.over[state.meter] - state.over
                assert state.spent + state.live + state.in_doubt + unknown >= self.store.charged[state.meter] + pending[state.meter]

    # -- the end -----------------------------------------------------------------------------------------------

    def _wind_up(self) -> None:
        for worker in self.workers:
            for call in worker.calls:
                assert call.task is not None
                if not call.task.done():
                    call.task.cancel()
            self.run(asyncio.sleep(0))
            for call in worker.calls:
                if call.holds:
                    self._settle(call, call.tokens // 2, call.money // 2)
            worker.calls.clear()
        for _ in range(4):
            for worker in self.workers:
                self.run(worker.line.deliver_all())
                worker.book.tick()
                self.run(worker.line.deliver_all())
            self.clock.advance(1)
        for worker in self.workers:
            self._drain(worker)
            assert worker.spawn.errors == []
        while self.dead:
            self.recover(False)
        self.money_holds()
        self.clock.advance(130)
        self.run(self._draw_everything())

    async def _draw_everything(self) -> None:
        for meter in {meter for key in KEYS for meter in meters_of_key(key)}:
            left = max(meter.cap - self.store.charged[meter.id], 0)
            granted = await self.office.acquire("last", (Draw(meter, left, left),))
            assert left == 0 or granted.amounts == (left,), meter.id


TestLimits = Limits.TestCase
TestLimits.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


# -- a busy hour ---------------------------------------------------------------------------------------------------


class Rush:
    """Workers under more demand than the limits allow, on lines that are slow at times: windows are full all the time.

    Calls last from nothing to minutes, use less than they hold, and some callers leave the line.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        self.office = Office(FakeLeaseStore(), self.clock)
        self.spawn = FakeSpawn()
        self.log: list[list[float]] = []
        """[moment, tokens] of each admission."""
        self.running = 0
        self.problems: list[str] = []
        self.meters = meters_of_key("a")[:3]

    async def run(self, seconds: float) -> None:
        """All of it."""
        workers = []
        for number in range(2):
            line = LaggedOffice(LocalOffice(self.office, f"w{number}"), prompt=False)
            book = LeaseBook(line, self.clock, self.spawn)
            workers.append((line, book))
            self.spawn(self._post(line), name="line")
            self.spawn(self._beat(book), name="beat")
            for _ in range(6):
                self.spawn(self._caller(book, book.open(self.meters)), name="caller")
        await self.clock.run_for(seconds, turns=5)
        await self.spawn.close()
        assert self.spawn.errors == []
        for line, book in workers:
            book.shut()
            await line.deliver_all()

    async def _post(self, line: LaggedOffice) -> None:
        while True:
            await self.clock.sleep(self.rng.choice([0.01, 0.05, 0.1, 0.3, 1.2]) if line.waiting else 0.1)
            for _ in range(self.rng.randint(1, 5)):
                await line.deliver()

    async def _beat(self, book: LeaseBook) -> None:
        while True:
            await self.clock.sleep(1)
            book.tick()

    async def _caller(self, book: LeaseBook, account: Account) -> None:
        rng = self.rng
        while True:
            await self.clock.sleep(rng.random())
            tokens = rng.randint(1, 150)
            ask = asyncio.ensure_future(book.hold(account, (1, tokens, 1)))
            if rng.random() < 0.1:
                self.clock.call_later(rng.random() / 5, ask.cancel)
            await asyncio.wait([ask])
            if ask.cancelled() or ask.exception() is not None or isinstance(answer := ask.result(), Refusal):
                continue
            entry = [self.clock.monotonic(), float(tokens)]
            self.log.append(entry)
            self.running += 1
            self._check()
            try:
                await self.clock.sleep(rng.choice([0.0, 0.1, 0.5, 2.0, 20.0]) * rng.random())
            finally:
                entry[1] = float(rng.randint(0, tokens))
                self.running -= 1
                book.settle(answer, int(entry[1]), 0)

    def _check(self) -> None:
        now = self.clock.monotonic()
        inside = [tokens for moment, tokens in self.log if now - 60 < moment <= now]
        if len(inside) > REQUESTS or sum(inside) > TOKENS or self.running > SLOTS:
            self.problems.append(f"at {now}: {len(inside)} requests, {sum(inside)} tokens, {self.running} running")


@pytest.mark.parametrize("seed", range(4))
async def test_no_window_is_ever_passed_under_pressure(seed: int) -> None:
    """In ten minutes of more demand than there is, no 60 s hold more than the cap, and little of it goes unused."""
    rush = Rush(seed)
    await rush.run(600)
    assert rush.problems == []
    assert len(rush.log) > 0.8 * REQUESTS * 600 / 62
    rush.clock.advance(63)
    assert {state.meter: state.live for state in rush.office.statement()} == {meter.id: 0 for meter in rush.meters}
