"""The steward: everything a server needs once. It owns storage, grants leases, drains journals, signs the audit log, keeps the
configuration, watches over workers and engine hosts, and answers the admin port. It never carries a call.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec

from gatehouse.core.errors import GatehouseError
from gatehouse.core.identity import KeyRecord
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Broadcast, Clock, Rng, Spawn
from gatehouse.core.replays import Claim, Replayed
from gatehouse.core.responses import Ended, Owner, ResponseStore
from gatehouse.core.targets import TargetState
from gatehouse.processes.neighbours import BEAT_SECONDS, Neighbours, Place
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
    Revoke,
    Serving,
    TargetsTold,
)
from gatehouse.processes.response_desk import CANCEL_SECONDS, ResponseDesk
from gatehouse.processes.supervisor import Child, Launch
from gatehouse.processes.target_board import Send, TargetBoard

logger = logging.getLogger("gatehouse.steward")

DRAIN_SECONDS: Final = 0.25
CHECKPOINT_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 60.0
"""How often what has expired is deleted; it is not found any more from the moment on that it expires."""
COLLECT_SECONDS: Final = 2.0
RECALL_SECONDS: Final = 0.1
"""How long workers have to give back what lies idle with them before a refusal stands."""
HOPELESS: Final = 3
"""Starts of each worker that ended before one served: it will not come up by itself."""
MOST_RECALLED: Final = 10_000
RECALL_PAUSE: Final = 0.05
"""Seconds in which one meter is recalled at most once: a limit that is truly used up must not cost every refusal a round."""


class Office(Protocol):
    """The authority on leases; every method is quick and on the loop."""

    def acquire(self, incarnation: str, draws: tuple[Draw, ...]) -> Awaitable[Granted]:
        """All or nothing."""

    def give_back(self, incarnation: str, unused: Iterable[Unused]) -> None:
        """Unused amounts come back."""

    def report_over(self, incarnation: str, meter_id: str, amount: int) -> None:
        """A charge passed its hold."""

    def incarnation_died(self, incarnation: str) -> None:
        """Its slots are free; its money is in doubt until its journal is drained."""


class Books(Protocol):
    """Journals to ledger and audit log."""

    async def drain_now(self) -> int:
        """Drain what the journals hold now; the number of records booked."""


class Replays(Protocol):
    """Requests with an idempotency key, by worker; every method is quick and on the loop."""

    def claim(self, owner: str, key: bytes, digest: bytes) -> Claim:
        """What becomes of a request."""

    def finish(self, owner: str, key: bytes, answer: Replayed | None) -> None:
        """What was claimed has ended."""

    def ended(self, owner: str) -> None:
        """A worker is gone."""


class Parts(msgspec.Struct, frozen=True):
    """What compose hands the steward."""

    office: Office
    books: Books
    find_key: Callable[[str], Awaitable[KeyRecord | None]]
    find_plan: Callable[[str], Awaitable[Plan | None]]
    """The plan of a model that is not listed, where it may be asked for."""
    checkpoint: Callable[[], Awaitable[object]]
    take_metrics: Callable[[str, bytes], None]
    metrics_ended: Callable[[str], None]
    register: Callable[[str], Awaitable[None]]
    """Know of an incarnation's journal before it can hold anything, so that its loss is noticed."""
    responses: ResponseStore
    sweep: Callable[[], Awaitable[object]]
    """Delete what has expired."""
    target_alarm: Callable[[TargetState], Awaitable[None]]
    """A target refuses our credentials: somebody has to know."""
    replays: Replays
    broadcast: Broadcast
    """The way to other servers."""


WorkerCommand = Callable[[str, int, int], Launch]
"""(incarnation, steward descriptor, listener descriptor) -> how to start a worker."""


class _Seat:
    """One worker's place: its process may change, the seat stays."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.incarnation = ""
        self.link: Link | None = None
        self.child: Child | None = None
        self.serving = False
        self.version = ""


class Steward:
    """Runs a server's singular parts and its workers. One that starts none serves the calls of its own process: the library's."""

    def __init__(self, clock: Clock, rng: Rng, spawn: Spawn) -> None:
        self._equipment: Parts | None = None
        self._clock = clock
        self._rng = rng
        self._spawn = spawn
        self._seats: list[_Seat] = []
        self._configuration: Configure | None = None
        self._polls: dict[int, tuple[set[int], asyncio.Future[None]]] = {}
        self._recalls: dict[str, asyncio.Event] = {}
        self._recalled: dict[str, float] = {}
        self._number = 0
        self._desk: ResponseDesk | None = None
        self._ended_responses: dict[int, Ended] = {}
        """What a worker said that it ended, by the poll's number."""
        self._changed = asyncio.Event()
        self._draining = False
        self._over = False
        self._listener: socket.socket | None = None
        self._board = TargetBoard(clock, self._alarmed)
        self.neighbours: Neighbours | None = None
        self._here: list[Send] = []
        """Who carries calls in this very process: the library's."""
        self.problems: dict[str, str] = {}
        """What is degraded, by part; shown by /readyz."""

    def equip(self, parts: Parts) -> None:
        """Hand over what workers may ask for. They are started before it is built, so that both happen at the same time,
        and ask for nothing before they are configured."""
        self._equipment = parts
        self._desk = ResponseDesk(parts.responses, self.cancel_response)
        name = self._rng.token(8).hex()
        self.neighbours = Neighbours(name, parts.broadcast, self._clock, self._board.together, self._tell_everybody)
        self._spawn(self._repeat("neighbours", BEAT_SECONDS, self._tell_servers), name="neighbours")
        self._spawn(self._repeat("drain", DRAIN_SECONDS, parts.books.drain_now), name="drain")
        self._spawn(self._repeat("checkpoint", CHECKPOINT_SECONDS, parts.checkpoint), name="checkpoint")
        self._spawn(self._repeat("sweep", SWEEP_SECONDS, parts.sweep), name="sweep")

    @property
    def _parts(self) -> Parts:
        if self._equipment is None:
            raise RuntimeError("the steward is not equipped yet")
        return self._equipment

    # -- the configuration ---------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """The configuration in force."""
        return self._configuration.version if self._configuration else ""

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans in force."""
        return self._configuration.plans if self._configuration else ()

    async def configure(self, configuration: Configure) -> dict[str, str]:
        """Put a validated configuration in force in every worker; returns what each worker that could not says."""
        self._configuration = configuration
        for seat in self._seats:
            await self._send_configuration(seat)
        await self._until(lambda: all(seat.version == configuration.version or seat.link is None for seat in self._seats), 10.0)
        return {
            f"worker {seat.index}": self.problems.get(f"worker-{seat.index}", "did not answer")
            for seat in self._seats
            if seat.link and seat.version != configuration.version
        }

    async def _send_configuration(self, seat: _Seat) -> None:
        link = seat.link
        if self._configuration is None or link is None or not link.open:
            return
        if seat.version == "":
            await self._parts.register(seat.incarnation)
        link.send(self._configuration)

    # -- workers ---------------------------------------------------------------------------------------------------

    async def start(self, workers: int, command: WorkerCommand, listener: socket.socket) -> None:
        """Start the workers, which share `listener`; returns when their processes exist. `ready` tells when they serve.

        The steward never accepts on `listener`; it keeps it for workers to come, and closes it when it stops.
        """
        self._listener = listener
        for index in range(workers):
            seat = _Seat(index)
            self._seats.append(seat)
            seat.child = Child(f"worker {index}", partial(self._launch, seat, command, listener), partial(self._ended, seat), self._clock)
            self._spawn(seat.child.run(), name=f"supervise-worker-{index}")
        for seat in self._seats:
            assert seat.child is not None
            await seat.child.started.wait()

    async def ready(self, seconds: float) -> bool:
        """Wait until every worker accepts connections; False at once when they keep dying instead."""
        everybody = len(self._seats)

        def settled() -> bool:
            return self._all_serving or self.restarts >= HOPELESS * everybody

        return await self._until(settled, seconds) and self._all_serving

    @property
    def _all_serving(self) -> bool:
        return bool(self._seats) and all(seat.serving for seat in self._seats)

    @property
    def serving(self) -> bool:
        """Whether at least one worker accepts connections."""
        return not self._draining and any(seat.serving for seat in self._seats)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the running workers."""
        return tuple(seat.child.pid for seat in self._seats if seat.child is not None and seat.child.pid is not None)

    @property
    def restarts(self) -> int:
        """How often a worker had to be started again."""
        return sum(seat.child.restarts for seat in self._seats if seat.child is not None)

    def _launch(self, seat: _Seat, command: WorkerCommand, listener: socket.socket) -> Launch:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        seat.incarnation = f"w{seat.index}-{os.getpid()}-{self._rng.token(6).hex()}"
        seat.version = ""
        seat.link = link = Link(lambda message: self._receive(seat, link, message), lambda: self._hung_up(seat, link))
        self._spawn(self._attach(ours, link, seat), name=f"attach-worker-{seat.index}")
        return command(seat.incarnation, theirs.detach(), listener.fileno())

    async def _attach(self, ours: socket.socket, link: Link, seat: _Seat) -> None:
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        try:
            await self._send_configuration(seat)
        except Exception:
            # Without a registered journal the worker must not run: it ends with its link, and is started again later.
            logger.exception("worker %d cannot be configured", seat.index)
            link.close()

    def _hung_up(self, seat: _Seat, link: Link) -> None:
        if seat.link is link:
            seat.link = None
            seat.serving = False
            self._notify()

    async def _ended(self, seat: _Seat, status: int) -> None:
        incarnation = seat.incarnation
        if seat.link is not None:
            seat.link.close()
            seat.link = None
        seat.serving = False
        self._board.ended(incarnation, self._others(seat))
        if self._equipment is not None:
            self._equipment.metrics_ended(incarnation)
            self._equipment.office.incarnation_died(incarnation)
            self._equipment.replays.ended(incarnation)
        if status and not self._draining:
            logger.error("worker %d (%s) ended with status %d", seat.index, incarnation, status)
        self._notify()

    def _receive(self, seat: _Seat, link: Link, message: Message) -> None:
        office = self._parts.office
        match message:
            case Acquire():
                self._spawn(self._acquire(seat.incarnation, link, message), name="acquire")
            case GiveBack(amounts=amounts):
                office.give_back(seat.incarnation, amounts)
            case ReportOver(meter=meter, amount=amount):
                office.report_over(seat.incarnation, meter, amount)
            case FindKey():
                self._spawn(self._find_key(link, message), name="find-key")
            case FindPlan():
                self._spawn(self._find_plan(link, message), name="find-plan")
            case Metrics(snapshot=snapshot):
                if snapshot:
                    self._parts.take_metrics(seat.incarnation, snapshot)
            case Collected(number=number) | Recalled(number=number):
                self._answered(seat, number)
            case TargetsTold():
                self.targets_told(seat.incarnation, message, self._others(seat))
            case Serving() | Configured():
                self._came_on(seat, link, message)
            case ClaimReplay() | FinishReplay():
                self._about_replays(seat, link, message)
            case _:
                self._receive_about_responses(seat, link, message)

    def _about_replays(self, seat: _Seat, link: Link, message: ClaimReplay | FinishReplay) -> None:
        replays = self._parts.replays
        if isinstance(message, ClaimReplay):
            link.send(ReplaySaid(message.number, replays.claim(seat.incarnation, message.key, message.digest)))
        else:
            replays.finish(seat.incarnation, message.key, message.answer)

    def _receive_about_responses(self, seat: _Seat, link: Link, message: Message) -> None:
        match message:
            case KeepResponse() | FindResponse() | RemoveResponse() | CancelResponse():
                assert self._desk is not None
                self._spawn(self._desk.answer(link, message), name="response")
            case ResponseEnded(number=number, ended=ended):
                if ended is not None and number in self._polls:
                    self._ended_responses[number] = ended
                self._answered(seat, number)
            case _:
                logger.error("a worker sent what only the steward sends: %s", type(message).__name__)

    def _came_on(self, seat: _Seat, link: Link, message: Serving | Configured) -> None:
        match message:
            case Serving():
                seat.serving = True
                self._board.welcome(link.send)
                if self.neighbours is not None:
                    self.neighbours.welcome(link.send)
            case Configured(problem="", version=version):
                self.problems.pop(f"worker-{seat.index}", None)
                seat.version = version
            case Configured(problem=problem):
                self.problems[f"worker-{seat.index}"] = problem
        self._notify()

    async def _acquire(self, incarnation: str, link: Link, message: Acquire) -> None:
        try:
            granted = await self._parts.office.acquire(incarnation, message.draws)
            for _ in message.draws:
                if granted.amounts or not await self._recall(link, message.draws[granted.refused or 0].meter.id):
                    break
                granted = await self._parts.office.acquire(incarnation, message.draws)
        except Exception as error:
            detail = error.detail if isinstance(error, GatehouseError) else ""
            logger.error("a lease could not be decided: %s", detail or type(error).__name__)
            link.send(Acquired(message.number, Granted(), type(error).__name__))
            return
        if not link.send(Acquired(message.number, granted)) and granted.amounts:
            # Slots and windows of a dead incarnation are freed as a whole, money is in doubt until its journal is read.
            logger.info("a lease for %s came after its end", incarnation)

    async def _recall(self, asking: Link, meter: str) -> bool:
        """Have the other workers give back what lies idle of a meter that is short; whether asking again makes sense."""
        running = self._recalls.get(meter)
        if running is not None:
            await running.wait()
            return True
        now = self._clock.monotonic()
        others = [seat for seat in self._seats if seat.link is not None and seat.link is not asking]
        if not others or now - self._recalled.get(meter, -RECALL_PAUSE) < RECALL_PAUSE:
            return False
        done = self._recalls[meter] = asyncio.Event()
        try:
            await self._poll(others, lambda number: Recall(number, (meter,)), RECALL_SECONDS)
        finally:
            del self._recalls[meter]
            done.set()
        if len(self._recalled) > MOST_RECALLED:
            self._recalled.clear()
        self._recalled[meter] = self._clock.monotonic()
        return True

    async def _find_plan(self, link: Link, message: FindPlan) -> None:
        try:
            plan = await self._parts.find_plan(message.name)
        except Exception as error:
            logger.error("the plan of an unlisted model could not be made: %s", type(error).__name__)
            link.send(PlanFound(message.number, None, type(error).__name__))
            return
        link.send(PlanFound(message.number, plan))

    async def _find_key(self, link: Link, message: FindKey) -> None:
        try:
            record = await self._parts.find_key(message.key_id)
        except Exception as error:
            logger.exception("keys cannot be read")
            link.send(KeyFound(message.number, None, f"{type(error).__name__}"))
            return
        link.send(KeyFound(message.number, record))

    # -- words to every worker ---------------------------------------------------------------------------------

    def key_changed(self, key_id: str, *, revoked: bool) -> None:
        """Tell every worker that a key changed; a revoked key's running calls are ended."""
        for seat in self._seats:
            if seat.link is not None:
                seat.link.send(Revoke(key_id) if revoked else ForgetKey(key_id))

    async def cancel_response(self, owner: Owner, response_id: str) -> Ended | None:
        """End the call that makes a response in whichever worker of this server it runs; None when there was none."""
        number = await self._poll(self._seats, lambda number: EndResponse(number, owner, response_id), CANCEL_SECONDS)
        return self._ended_responses.pop(number, None)

    def targets(self) -> dict[str, tuple[TargetState, ...]]:
        """What each worker last said of its targets."""
        return self._board.now()

    def targets_told(self, origin: str, message: TargetsTold, others: Iterable[Send] = ()) -> None:
        """A worker, or who carries calls in this process, told of its targets."""
        self._board.take(origin, message, others)
        if not message.everything and self.neighbours is not None:
            self.neighbours.changed(message.states)

    def join(self, hear: Send) -> None:
        """Whoever carries calls in this very process hears what other servers say."""
        self._here.append(hear)

    def share(self, places: Mapping[str, Place]) -> None:
        """The targets of which servers talk to each other, under the configuration in force."""
        if self.neighbours is not None:
            self.neighbours.share(places)

    async def _tell_servers(self) -> None:
        assert self.neighbours is not None
        self.neighbours.beat()
        if problem := self.neighbours.problem:
            self.problems["state"] = problem
        else:
            self.problems.pop("state", None)

    def _tell_everybody(self, told: TargetsTold) -> None:
        for send in (*self._others(None), *self._here):
            send(told)

    def _others(self, seat: _Seat | None) -> list[Send]:
        return [other.link.send for other in self._seats if other is not seat and other.link is not None]

    def _alarmed(self, state: TargetState) -> None:
        self._spawn(self._try("audit", lambda: self._parts.target_alarm(state)), name="target-alarm")

    async def collect(self) -> None:
        """Return when every living worker has sent its counters, or after two seconds."""
        await self._poll(self._seats, Collect, COLLECT_SECONDS)

    async def _poll(self, seats: Iterable[_Seat], question: Callable[[int], Message], seconds: float) -> int:
        """Ask workers and return when all of them have answered, or `seconds` are over; the poll's number."""
        self._number += 1
        number = self._number
        waiting = {seat.index for seat in seats if seat.link is not None and seat.link.send(question(number))}
        if not waiting:
            return number
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._polls[number] = (waiting, future)
        timer = self._clock.call_later(seconds, _release, future)
        try:
            await future
        finally:
            timer.cancel()
            self._polls.pop(number, None)
        return number

    def _answered(self, seat: _Seat, number: int) -> None:
        entry = self._polls.get(number)
        if entry is not None:
            waiting, future = entry
            waiting.discard(seat.index)
            if not waiting:
                _release(future)

    # -- what repeats ------------------------------------------------------------------------------------------

    async def _repeat(self, part: str, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while not self._over:
            await self._clock.sleep(seconds)
            # What would begin now would find the database closed.
            if not self._over:
                await self._try(part, work)

    async def _try(self, part: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception as error:
            if part not in self.problems:
                logger.exception("%s failed; it is tried again", part)
            self.problems[part] = f"{type(error).__name__}"
        else:
            if self.problems.pop(part, None) is not None:
                logger.info("%s works again", part)

    # -- the end -----------------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Drain every worker, then bring the books up to date and sign them."""
        if self._draining:
            return
        self._draining = True
        children = [seat.child for seat in self._seats if seat.child is not None]
        for child in children:
            child.stopping()
        for seat in self._seats:
            seat.serving = False
            if seat.link is not None:
                seat.link.send(Drain(grace))
        if self._listener is not None:
            # Open here, it would let the system take connections that no worker accepts any more.
            self._listener.close()
        await self._until(lambda: not self.pids, grace + 5.0)
        await asyncio.gather(*(child.stop(1.0) for child in children))
        self._over = True
        if self._equipment is not None:
            await self._try("drain", self._equipment.books.drain_now)
            await self._try("checkpoint", self._equipment.checkpoint)

    # -- waiting -----------------------------------------------------------------------------------------------

    def _notify(self) -> None:
        self._changed.set()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition` holds, looking again whenever a worker said something or ended."""
        deadline = self._clock.monotonic() + seconds
        while not condition():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            self._changed.clear()
            timer = self._clock.call_later(min(left, 0.2), self._notify)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
        return True


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
