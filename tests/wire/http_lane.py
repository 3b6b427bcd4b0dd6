"""A data server whose calls need no task: real sockets, real turns of the loop, a target that answers when the test says."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from gatehouse.adapters.system import LoopTurn
from gatehouse.core.events import Events
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Left, Resume, Runner
from gatehouse.pipeline.stages.read import Read
from gatehouse.testing.fakes import settle_loop
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.server import DataServer
from gatehouse.wire.http.tls import Tls
from tests.wire.http_gate import Gate, Refusing, Scripted, answer, echo


class Knowing(Refusing):
    """As `Refusing`, without waiting."""

    def at_once(self, x: Exchange) -> bool:
        """All of `admit`."""
        self.seen.append(x)
        error = self.error(x)
        if error is not None:
            raise error
        return True


class Thinking(Scripted):
    """The last stage: what is not streamed begins without waiting, and is answered with what it says, one turn later or when released."""

    def __init__(self) -> None:
        super().__init__(echo)
        self.holding = False
        self.held: list[Callable[[], None]] = []

    def start(self, calls: Sequence[Exchange], resume: Resume) -> Left:
        """See `gatehouse.pipeline.runner.Starter`."""
        return [(x, None) for x in calls if not self.start_one(x, resume)]

    def start_one(self, x: Exchange, resume: Resume) -> bool:
        """Whether it has begun."""
        assert x.call is not None
        if x.call.stream:
            return False
        self.begun.append(x)
        self.any_begun.set()
        said = str(x.call.extra["say"])

        def come() -> None:
            resume(x, Single(answer(said)))

        if self.holding:
            self.held.append(come)
        else:
            asyncio.get_running_loop().call_soon(come)
        return True

    async def admit(self, x: Exchange) -> Events:
        """What is streamed."""
        return await super().admit(x)

    def release(self) -> None:
        """Everything that is held is answered, in one turn of the loop."""
        held, self.held = self.held, []
        for come in held:
            come()

    async def hold(self, count: int) -> None:
        """Return when so many calls are held. Raises TimeoutError when they do not come."""
        async with asyncio.timeout(5):
            while len(self.held) < count:
                await settle_loop(1)


class LaneGate(Gate):
    """The server, with turns."""

    def __init__(self, limits: HttpLimits, tls: Tls | None) -> None:
        super().__init__(echo, limits, 100_000, tls, None, None, None)
        self.turn = LoopTurn()
        self.identify = self.knowing = Knowing()
        self.stage = self.target = Thinking()
        self.runner = self.plane.runner = Runner((self.identify, Read(100_000), self.stage), self.clock, self.turn)
        self.server = DataServer(self.plane, limits, self.clock, self.spawn, self.turn)

    @property
    def tasks(self) -> list[str]:
        """Calls that a task carries now."""
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "call"]


@asynccontextmanager
async def lane(limits: HttpLimits | None = None, tls: Tls | None = None) -> AsyncIterator[LaneGate]:
    """A started server that is stopped and inspected at the end."""
    it = LaneGate(limits or HttpLimits(), tls)
    log = logging.getLogger("gatehouse")
    log.addHandler(it.errors)
    try:
        await it.start()
        try:
            yield it
        finally:
            await it.stop()
        assert it.errors.records == []
        assert it.tasks == []
    finally:
        log.removeHandler(it.errors)
