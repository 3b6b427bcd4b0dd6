"""Fakes of the small ports: time that a test moves, chance that repeats, memory that can be looked at.

They are real implementations without the outside world, not mocks: they keep the port's promises and record what happened.
"""

import asyncio
import heapq
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, TooLarge, Unavailable
from gatehouse.core.events import Event, Events
from gatehouse.core.identity import KeyRecord
from gatehouse.core.leases import LeaseRow
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.plans import Target
from gatehouse.core.ports import Attempt, LeaseOffice, Refused
from gatehouse.core.records import Record

NOON = 1_767_268_800.0
"""2026-01-01 12:00:00 UTC, where a FakeClock starts unless told."""


class FakeTimer:
    """A callback on a FakeClock."""

    __slots__ = ("args", "callback", "cancelled", "due")

    def __init__(self, due: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.due = due
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        """It will not fire."""
        self.cancelled = True


class FakeClock:
    """Virtual time: it stands still until `advance`, `run_for` or `jump`."""

    def __init__(self, start: float = NOON) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._counter = 0

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._monotonic

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        """Call back when the clock has moved that far."""
        timer = FakeTimer(self._monotonic + max(seconds, 0.0), callback, args)
        self._counter += 1
        heapq.heappush(self._timers, (timer.due, self._counter, timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved that far; zero only lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Move time and fire what falls due, in order, each at its own moment. Tasks that wake run when the loop next turns."""
        end = self._monotonic + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self._move(max(due, self._monotonic))
                timer.callback(*timer.args)
        self._move(end)

    async def run_for(self, seconds: float, turns: int = 10) -> None:
        """Move time and let the loop turn after each moment at which something falls due, so that tasks run at their own time."""
        end = self._monotonic + seconds
        await settle_loop(turns)
        while (due := self.next_due()) is not None and due <= end:
            self.advance(max(due - self._monotonic, 0.0))
            await settle_loop(turns)
        self.advance(end - self._monotonic)
        await settle_loop(turns)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forwards or back (as NTP or an operator does); durations do not notice."""
        self._now += seconds

    def next_due(self) -> float | None:
        """The monotonic moment of the next timer, or None."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def pending(self) -> int:
        """Timers that have not fired and were not cancelled."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def _move(self, moment: float) -> None:
        self._now += moment - self._monotonic
        self._monotonic = moment


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def settle_loop(turns: int = 10) -> None:
    """Let the event loop turn, so that tasks which can run have run."""
    for _ in range(turns):
        await asyncio.sleep(0)


class FakeRng:
    """Chance from a seed: two with the same seed say the same."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose; the real Rng uses the system's source

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    def token(self, size: int) -> bytes:
        """`size` bytes, the same for the same seed."""
        return self._random.randbytes(size)


class FakeSpawn:
    """Starts tasks and keeps them; `errors` holds what they raised."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.errors: list[BaseException] = []

    def __call__(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """The started task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class FakeTally:
    """Counts in memory: `counts[name, labels]`, `gauges[name, labels]`, `values[name, labels]`."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.gauges: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.values: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def count(self, name: str, labels: tuple[str, ...] = (), amount: int = 1) -> None:
        """Add to a counter."""
        self.counts[name, labels] += amount

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Remember a value."""
        self.values.setdefault((name, labels), []).append(value)

    def gauge(self, name: str, labels: tuple[str, ...], change: int) -> None:
        """Move a gauge."""
        self.gauges[name, labels] += change

    def counter(self, name: str, labels: tuple[str, ...] = ()) -> "_FakeNumber":
        """One counter, or gauge that was moved before."""
        return _FakeNumber(self.gauges if (name, labels) in self.gauges else self.counts, (name, labels))

    def histogram(self, name: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        """What remembers values."""
        return lambda value: self.observe(name, labels, value)


class _FakeNumber:
    """A number of a `FakeTally`, which stays where the tally keeps it."""

    def __init__(self, numbers: dict[tuple[str, tuple[str, ...]], int], key: tuple[str, tuple[str, ...]]) -> None:
        self._numbers = numbers
        self._key = key

    @property
    def value(self) -> int:
        """As it stands."""
        return self._numbers.get(self._key, 0)

    @value.setter
    def value(self, value: int) -> None:
        self._numbers[self._key] = value


class FakeJournal:
    """A list of records. `broken` makes it refuse as a full disk does; `synced` is how many were on disk at the last sync."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.synced = 0
        self.broken = False

    def append(self, record: Record) -> None:
        """Keep the record."""
        if self.broken:
            raise Unavailable("The journal cannot be written.")
        self.records.append(record)

    def post_all(self, records: Sequence[Record], refused: Refused) -> None:
        """Keep them at once: there are no turns here. `refused` is called for each that is not kept."""
        for record in records:
            try:
                self.append(record)
            except Unavailable as error:
                refused(record, error)

    async def sync(self) -> None:
        """Everything so far counts as on disk."""
        if self.broken:
            raise Unavailable("The journal cannot be written.")
        self.synced = len(self.records)


class FakeBody:
    """A request's body that arrives when it is read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0

    def at_hand(self, limit: int) -> bytes | None:
        """Nothing: it has to be read."""
        return None

    async def read(self, limit: int) -> bytes:
        """All of it, when it is within `limit`."""
        self.reads += 1
        if len(self.content) > limit:
            raise TooLarge(f"The body has {len(self.content)} bytes; {limit} are allowed.", param="body")
        return self.content


class FakeKeys:
    """A directory of keys in memory; `gone` makes it unavailable."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self.records = {record.principal.key_id: record for record in records}
        self.gone = False

    async def find(self, key_id: str) -> KeyRecord | None:
        """The record, or None."""
        if self.gone:
            raise Unavailable("Keys cannot be looked up now.")
        return self.records.get(key_id)


class FakeLeaseStore:
    """Leases and meter totals in memory. `gone` makes it refuse; `saves` counts transactions of `save`.

    `charge` is the drain's transaction: it books on the meters and, where there is one, on the incarnation's row.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], LeaseRow] = {}
        self.charged: Counter[str] = Counter()
        self.gone = False
        self.saves = 0

    def charge(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """Book as the drain does."""
        for meter, amount in charges:
            self.charged[meter] += amount
            if (row := self.rows.get((incarnation, meter))) is not None:
                self.rows[incarnation, meter] = msgspec.structs.replace(row, booked=row.booked + amount)

    async def load(self) -> list[LeaseRow]:
        """Every row."""
        self._reach()
        return list(self.rows.values())

    async def save(self, rows: Sequence[LeaseRow]) -> None:
        """Keep granted and returned; booked is the drain's."""
        self._reach()
        await asyncio.sleep(0)
        self.saves += 1
        for row in rows:
            booked = known.booked if (known := self.rows.get((row.incarnation, row.meter))) is not None else 0
            self.rows[row.incarnation, row.meter] = msgspec.structs.replace(row, booked=booked)

    async def forget(self, incarnation: str, meters: Sequence[str] | None = None) -> None:
        """Remove rows."""
        self._reach()
        await asyncio.sleep(0)
        for key in [key for key in self.rows if key[0] == incarnation and (meters is None or key[1] in meters)]:
            del self.rows[key]

    async def totals(self, incarnation: str, meters: Sequence[str]) -> list[tuple[int, int]]:
        """Spent, and booked for the incarnation."""
        self._reach()
        found = [(self.charged[meter], row.booked if (row := self.rows.get((incarnation, meter))) else 0) for meter in meters]
        await asyncio.sleep(0)
        return found

    async def write_off(self, incarnation: str, charges: Sequence[tuple[str, int]]) -> None:
        """Charge and forget, once."""
        self._reach()
        if any(key[0] == incarnation for key in self.rows):
            for meter, amount in charges:
                self.charged[meter] += amount
            await self.forget(incarnation)

    def _reach(self) -> None:
        if self.gone:
            raise Unavailable("The database does not answer.", code="storage_unavailable")


class LaggedOffice:
    """A worker's line to a lease office: messages arrive in order, but only when the test delivers them, unless it is `prompt`.

    `gone` cuts the line: questions are Unavailable at once, other messages are kept for later. `asked` counts questions.
    """

    def __init__(self, office: LeaseOffice, *, prompt: bool = True) -> None:
        self.office = office
        self.prompt = prompt
        self.gone = False
        self.asked = 0
        self.draws: list[tuple[Draw, ...]] = []
        self._line: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()

    async def acquire(self, draws: tuple[Draw, ...]) -> Granted:
        """Wait for the delivery. An answer that nobody waits for any more is given straight back."""
        if self.gone:
            raise Unavailable("Limits cannot be checked at the moment.", code="steward_unavailable", retry_after=1.0)
        self.asked += 1
        self.draws.append(draws)
        answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            try:
                granted = await self.office.acquire(draws)
            except Unavailable as error:
                if not answer.done():
                    answer.set_exception(error)
                return
            if not answer.done():
                answer.set_result(granted)
            elif granted.amounts:
                self.office.give_back(
                    [Unused(draw.meter.id, amount, granted.stamp) for draw, amount in zip(draws, granted.amounts, strict=True)]
                )

        self._line.append(ask)
        if self.prompt:
            await self.deliver_all()
        return await answer

    def give_back(self, unused: Iterable[Unused]) -> None:
        """Send it on its way."""
        items = tuple(unused)
        self._send(lambda: self.office.give_back(items))

    def report_over(self, meter_id: str, amount: int) -> None:
        """Send it on its way."""
        self._send(lambda: self.office.report_over(meter_id, amount))

    def _send(self, arrive: Callable[[], None]) -> None:
        async def deliver() -> None:
            arrive()

        if self.prompt and not self.gone and not self._line:
            arrive()
        else:
            self._line.append(deliver)

    @property
    def waiting(self) -> int:
        """Messages on their way."""
        return len(self._line)

    async def deliver(self) -> bool:
        """Let the next message arrive; False when there is none or the line is cut."""
        if self.gone or not self._line:
            return False
        await self._line.popleft()()
        return True

    async def deliver_all(self) -> None:
        """Let everything arrive."""
        while await self.deliver():
            pass

    def drop(self) -> None:
        """The worker died: what was on its way never arrives."""
        self._line.clear()


class FakeModel:
    """Answers every call with the same script: events are yielded, an error is raised where it stands.

    An error that comes first is raised before any event, as by a target that never answered. `calls` is what was asked;
    `open` is the number of streams that nobody has closed yet.
    """

    def __init__(self, *script: Event | GatehouseError) -> None:
        self.script = script
        self.calls: list[tuple[Call, Target]] = []
        self.open = 0
        self.closed = False

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """The script as a stream."""
        self.calls.append((call, target))
        if self.script and isinstance(self.script[0], GatehouseError):
            raise self.script[0]
        return self.play()

    def play(self) -> Events:
        """One run of the script."""
        self.open += 1
        return _Play(self)

    async def ping(self) -> str:
        """Well until closed."""
        return "closed" if self.closed else ""

    async def close(self) -> None:
        """Remembered in `closed`."""
        self.closed = True


class _Play(AsyncGenerator[Event, None]):
    """One run of a script. Unlike a generator function it counts as closed even when nobody ever iterated it."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._script = iter(model.script)
        self._open = True

    async def asend(self, value: None) -> Event:
        await asyncio.sleep(0)
        step = next(self._script, None) if self._open else None
        if step is None:
            self._end()
            raise StopAsyncIteration
        if isinstance(step, GatehouseError):
            self._end()
            raise step
        return step

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> Event:
        self._end()
        raise typ if val is None else val

    async def aclose(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._model.open -= 1
