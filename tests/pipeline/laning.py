"""The runner's lane without tasks, with fakes around it: stages that do what a test says, a turn that ends when a test says."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from gatehouse.core.arrivals import Arrivals
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Left, Resume, Runner, Stage
from gatehouse.testing.fakes import FakeClock, settle_loop

Act = Callable[[Exchange], object]
PIECE = Chunk(choices=(ChoiceDelta(text="a"),))
WHOLE = Answer(choices=(Choice(text="hello"),))


def nothing(x: Exchange) -> None:
    """What most stages do in a test."""


def refuse(error: BaseException) -> Act:
    """Raises `error`."""

    def act(x: Exchange) -> None:
        raise error

    return act


def only(x: Exchange, act: Act) -> Act:
    """`act` for `x`; nothing for others."""
    return lambda other: act(other) if other is x else None


class HandTurn:
    """A turn of the loop that ends when the test says."""

    def __init__(self) -> None:
        self.first: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []
        self.next: list[Callable[[], object]] = []
        self.sends: list[tuple[Callable[[bytes], object], bytes]] = []
        arrivals = Arrivals(self)
        self.asked = arrivals.asked
        self.answered = arrivals.answered

    def before(self, work: Callable[[], object]) -> None:
        """See `core.ports.Turn`."""
        self.first.append(work)

    def last(self, work: Callable[[], object]) -> None:
        """See `core.ports.Turn`."""
        self.after.append(work)

    def later(self, work: Callable[[], object]) -> None:
        """See `core.ports.Turn`."""
        self.next.append(work)

    def send(self, write: Callable[[bytes], object], data: bytes) -> None:
        """See `core.ports.Turn`."""
        self.sends.append((write, data))

    def end(self) -> None:
        """See `core.ports.Turn`. A fault is the test's to see."""
        while self.first or self.after:
            (self.first or self.after).pop(0)()
        self.first, self.next = self.next, []
        while self.sends:
            write, data = self.sends.pop(0)
            write(data)


class Step:
    """A stage that notes what happens to it. `wait` says whether it has to, where it need not."""

    def __init__(self, name: str, log: list[str], act: Act = nothing, *, wait: Act = nothing, settle: Act = nothing) -> None:
        self.name = name
        self.log = log
        self.act = act
        self.wait = wait
        self.settling = settle

    def note(self, x: Exchange, what: str) -> None:
        self.log.append(f"{x.request_id} {what} {self.name}")

    async def admit(self, x: Exchange) -> Events | None:
        self.note(x, "admit later")
        result = self.act(x)
        if asyncio.iscoroutine(result):
            result = await result
        return result  # type: ignore[return-value]

    def settle(self, x: Exchange) -> None:
        self.note(x, f"settle {x.outcome}")
        self.settling(x)


class Prompt(Step):
    """A stage that need not wait."""

    def at_once(self, x: Exchange) -> bool:
        if self.wait(x):
            self.note(x, "waits at")
            return False
        self.note(x, "admit")
        self.act(x)
        return True


class Clearing(Prompt):
    """A stage that lets many calls pass at once: those of which `passes` says so."""

    def __init__(
        self, name: str, log: list[str], act: Act = nothing, *, passes: Act = bool, wait: Act = nothing, settle: Act = nothing
    ) -> None:
        super().__init__(name, log, act, wait=wait, settle=settle)
        self.passes = passes

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        left = [x for x in calls if not self.passes(x)]
        for x in calls:
            if x not in left:
                self.note(x, "admit")
        return left

    def settle_all(self, calls: Sequence[Exchange]) -> None:
        for x in calls:
            with contextlib.suppress(Exception):
                self.settle(x)


class Looking(Prompt):
    """A stage that also looks at the stream."""

    def __init__(self, name: str, log: list[str], look: Callable[[Exchange, Events], Events | None]) -> None:
        super().__init__(name, log)
        self.look = look

    def watch(self, x: Exchange, events: Events) -> Events:
        self.note(x, "watch")
        return self.look(x, events) or events


class Target(Step):
    """The last stage: begins without waiting, and comes to what the test says with `come`."""

    def __init__(self, log: list[str], act: Act = nothing, *, start: Act = nothing, started: Act = nothing, wait: Act = nothing) -> None:
        super().__init__("target", log, act, wait=wait)
        self.starting = start
        self.has_started = started
        self.resumes: dict[str, Resume] = {}

    def start(self, calls: Sequence[Exchange], resume: Resume) -> Left:
        left: list[tuple[Exchange, Exception | None]] = []
        for x in calls:
            try:
                if self.wait(x):
                    self.note(x, "waits at")
                    left.append((x, None))
                    continue
                self.starting(x)
                self.note(x, "start")
                self.resumes[x.request_id] = resume
            except Exception as fault:
                left.append((x, fault))
        return left

    def started(self, calls: Sequence[Exchange]) -> Left:
        left: list[tuple[Exchange, Exception | None]] = []
        for x in calls:
            try:
                self.has_started(x)
                self.note(x, "started")
            except Exception as fault:
                left.append((x, fault))
        return left

    def come(self, x: Exchange, events: Events | None = None) -> None:
        """It has answered with `events`; with None something has to be waited for."""
        self.resumes.pop(x.request_id)(x, events)


class Asking:
    """Who asked. `told` is what it heard, `answers` what it took, `tasks` what carried the call on."""

    def __init__(self, runner: Runner, x: Exchange, log: list[str]) -> None:
        self.runner = runner
        self.x = x
        self.log = log
        self.told: list[GatehouseError | None] = []
        self.answers: list[Answer] = []
        self.events: list[Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.stops = 0
        self.taking: Callable[[Answer], bool] = lambda answer: True
        self.ending: Callable[[], object] = lambda: None

    def take(self, answer: Answer) -> bool:
        taken = self.taking(answer)
        if taken:
            self.answers.append(answer)
            self.log.append(f"{self.x.request_id} taken")
        return taken

    def ended(self, error: GatehouseError | None) -> None:
        self.told.append(error)
        self.log.append(f"{self.x.request_id} ended")
        self.ending()

    def stop(self) -> None:
        self.stops += 1
        asyncio.get_running_loop().call_soon(self.runner.stopped, self.x)

    def wait(self) -> None:
        self.x.task = task = asyncio.get_running_loop().create_task(self.runner.carry(self.x, self.deliver))
        self.tasks.append(task)

    async def deliver(self, x: Exchange, events: Events) -> None:
        async for event in events:
            self.events.append(event)

    async def carried(self) -> BaseException | None:
        """What the task that carried the call on ended with."""
        (task,) = self.tasks
        return (await asyncio.gather(task, return_exceptions=True))[0]


class Lane:
    """A runner, calls that are begun in one turn of the loop, and what came of them."""

    def __init__(self, log: list[str], *stages: Stage, turn: bool = True) -> None:
        self.log = log
        self.turn = HandTurn() if turn else None
        self.clock = FakeClock()
        self.runner = Runner(stages, self.clock, self.turn)
        self.asking: list[Asking] = []

    def begin(self, *calls: Exchange) -> list[Asking]:
        """Begin them all in one turn, which is not over yet."""
        asking = [Asking(self.runner, x, self.log) for x in calls]
        self.asking += asking
        for x, asker in zip(calls, asking, strict=True):
            self.runner.begin(x, asker)
        return asking

    def end_turn(self) -> None:
        """The turn is over, where there are turns."""
        if self.turn is not None:
            self.turn.end()

    async def turns(self, count: int = 10) -> None:
        """Let the loop turn, each turn ending as it does."""
        for _ in range(count):
            await settle_loop(1)
            self.end_turn()

    def down(self, *calls: Exchange) -> list[Asking]:
        """Begin them all and end the turn."""
        asking = self.begin(*calls)
        self.end_turn()
        return asking

    def of(self, x: Exchange) -> list[str]:
        """What happened to one call."""
        return [line.removeprefix(f"{x.request_id} ") for line in self.log if line.startswith(f"{x.request_id} ")]

    def nothing_left(self) -> bool:
        """Whether nobody waits for any call any more, and each was ended exactly once."""
        exchanges = [asker.x for asker in self.asking]
        return (
            self.runner.running == set()
            and all(x.asker is None and x.stop is None for x in exchanges)
            and all(len(asker.told) + len(asker.tasks) == 1 for asker in self.asking)
        )


def exchange(name: str = "x") -> Exchange:
    return Exchange(name, Head("POST", "/v1/chat/completions", {}), None, None)  # type: ignore[arg-type]


def whole() -> Single:
    """An answer in one piece."""
    return Single(WHOLE)


async def pieces(log: list[str], name: str, count: int = 2) -> AsyncGenerator[Event, None]:
    """A stream that notes when it is closed."""
    try:
        for _ in range(count):
            yield PIECE
    finally:
        log.append(f"{name} source closed")
