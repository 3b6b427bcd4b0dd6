"""The runner carries one exchange through the stages: admit downwards, watch the stream, settle back up.

A call that waits for nothing but the whole answer of its target has no task: `begin` goes down in one function call, the answer
comes back in another. Whatever has to wait for more is carried by `carry`, in a task, from where it stands.

Promises, each a row of the truth table in `tests/pipeline/test_runner.py`:

- a stage is entered when its admit begins; each entered stage settles exactly once, last first, whatever happened;
- `settle` is a plain function: it cannot be cancelled, overtaken by a second cancel or lost when the loop closes;
- the stream is closed on every exit before anything settles;
- `outcome` and `error` are set before the first settle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from gatehouse.core.errors import Blocked, GatehouseError, Internal, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock, Turn
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Asker, Exchange

__all__ = ["Asker", "Deliver", "Prompt", "Runner", "Stage", "Starter", "Watcher", "nothing_held"]

logger = logging.getLogger("gatehouse.pipeline")

Watch = Callable[[Exchange, Events], Events]
"""What a `Watcher` has beside a stage's functions."""
Answered = tuple[Exchange, Answer]
"""A call and its whole answer."""
_Asks = TypeVar("_Asks")
Deliver = Callable[[Exchange, Events], Awaitable[None] | None]
"""Takes the events to whoever asked. When it has returned, and what it returned is over, all but the closing bytes are out."""


def nothing_held(stage: object, x: Exchange) -> None:
    """The `settle` of a stage that has nothing to put right. Nobody calls it for each call: the runner knows it."""


class Stage(Protocol):
    """One step of a call. A stage that also wants to see the stream is a `Watcher`."""

    name: str

    async def admit(self, x: Exchange) -> Events | None:
        """Let the call pass (None), answer it early (events), or refuse it (raise)."""

    def settle(self, x: Exchange) -> None:
        """Put things right when the call has ended. Never awaits, never raises."""


class OnFailure(Stage, Protocol):
    """A stage that has nothing to put right of a call without an error: then its `settle` is spared."""

    settles_failures_only: bool
    """True."""


class Prompt(Stage, Protocol):
    """A stage that most often need not wait: then the runner has no coroutine to begin and to end for it."""

    def at_once(self, x: Exchange) -> bool:
        """Do all that `admit` does, raising what it raises, and return True; or return False, and `admit` goes on from there."""


Resume = Callable[[Exchange, Answer | Events | None], None]
"""The last stage has the whole answer, or events, or None: then its `admit` is to be awaited, and goes on from there."""


Left = Sequence[tuple[Exchange, Exception | None]]
"""Calls that are not prepared: each with what refuses it, or None when `admit` has to be awaited."""


class Starter(Stage, Protocol):
    """A last stage that can begin without waiting, and calls back."""

    def start(self, calls: Sequence[Exchange], resume: Resume) -> Left:
        """Prepare them, for `resume` to be called once for each, later. Never raises; with those that it returns it has done nothing."""

    def started(self, calls: Sequence[Exchange]) -> Left:
        """What was prepared goes out at the end of this turn. Called once for calls that `start` has prepared. Never raises; those
        that it returns do not go out, each with what refuses it."""


class Together(Stage, Protocol):
    """A stage that settles many calls for less than one after the other."""

    def settle_all(self, calls: Sequence[Exchange]) -> None:
        """Do for each what `settle` does. All are completed, without an error. Never raises: what befalls one does not touch the others."""


Clear = Callable[[Sequence[Exchange]], Sequence[Exchange]]
ClearAnswers = Callable[[Sequence[Answered]], Sequence[Answered]]


class Many(Prompt, Protocol):
    """A stage that lets many calls pass at once for less than one after the other. It does not raise: what it cannot let pass, or is
    not sure of, it leaves as it was and gives back, and that is asked for by itself."""

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """Do for each of `calls` what `at_once` does where that returns True; the others."""

    def clear_answers(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """Do for each of `answers` what `watch` does where that lets it pass unchanged; the others."""


class Watcher(Stage, Protocol):
    """A stage that wraps the stream; one that does not costs nothing an event."""

    def watch(self, x: Exchange, events: Events) -> Events:
        """Return `events`, or a generator around them that closes them on every exit.

        A `Single` may be looked into here and returned, or replaced by another: nothing has to be generated for one event.
        """


class Runner:
    """Carries exchanges through a fixed order of stages. One instance serves every call of a process."""

    def __init__(self, stages: tuple[Stage, ...], clock: Clock, turn: Turn | None = None) -> None:
        self.stages = stages
        self._turn = turn
        self._begun: list[Exchange] = []
        self._back: list[tuple[Exchange, Answer | Events | None]] = []
        self._monotonic = clock.monotonic
        self._now = clock.now
        self._steps: tuple[tuple[Callable[[Exchange], bool] | None, Stage], ...]
        self._steps = tuple((getattr(stage, "at_once", None), stage) for stage in stages)
        self._depth = len(stages)
        self._at_once: list[tuple[Callable[[Exchange], bool], Clear | None]]
        self._at_once = [(getattr(stage, "at_once", _never), getattr(stage, "clear", None)) for stage in stages[:-1]]
        self._start: Callable[[Sequence[Exchange], Resume], Left]
        self._start = getattr(stages[-1], "start", _never_starts) if stages else _never_starts
        self._started: Callable[[Sequence[Exchange]], Left]
        self._started = getattr(stages[-1], "started", _nothing_started) if stages else _nothing_started
        watches = [getattr(stage, "watch", None) for stage in stages]
        self._watchers = tuple(tuple(watch for watch in watches[:depth][::-1] if watch) for depth in range(len(stages) + 1))
        """Who watches the stream of a call that entered so many stages, in order."""
        self._watching: list[tuple[Watch, ClearAnswers | None]]
        self._watching = [(stage.watch, getattr(stage, "clear_answers", None)) for stage in stages[::-1] if hasattr(stage, "watch")]
        self._settlers = _in_turn(stages, failed=False)
        self._settling: list[tuple[Stage, Callable[[Sequence[Exchange]], None] | None]]
        self._settling = [(stage, getattr(stage, "settle_all", None)) for stage in self._settlers[-1]]
        self._settlers_of_failed = _in_turn(stages, failed=True)
        """Who settles a call that entered so many stages, in order."""
        self.running: set[Exchange] = set()

    def begin(self, x: Exchange, asker: Asker) -> None:
        """Take the call as far as it goes without waiting for more than its target's whole answer; the asker is told what comes of it.

        That happens at the end of this turn of the loop, with all calls that began in it.
        """
        x.asker = asker
        turn = self._turn
        if turn is None:
            self._go_down([x])
            return
        begun = self._begun
        if not begun:
            turn.before(self._go_down_together)
        begun.append(x)

    def _go_down_together(self) -> None:
        begun, self._begun = self._begun, []
        self._go_down(begun)

    def _go_down(self, calls: list[Exchange]) -> None:
        """Stage by stage, each for all of them: what a stage needs is then at hand in the processor, which is worth half the time."""
        monotonic = self._monotonic
        at, now = monotonic(), self._now()
        going: list[Exchange] = []
        for x in calls:
            if x.outcome is None:
                x.clock_start = at
                x.started_at = now
                going.append(x)
            else:
                _tell(x, None)  # ended before it began
        self.running.update(going)
        marks: list[float] = []
        for depth, (at_once, clear) in enumerate(self._at_once, 1):
            staying: set[Exchange] = set()
            for x in going if clear is None else _left_of(clear, going):
                try:
                    if at_once(x):
                        continue
                    _stands(x, depth, marks)
                    self._hand_over(x)
                except Exception as fault:
                    _stands(x, depth, marks)
                    self._failed(x, fault, streaming=False)
                staying.add(x)
            if staying:
                going = [x for x in going if x not in staying]
            marks.append(monotonic())
        self._go_over(going, marks)

    def _go_over(self, calls: list[Exchange], marks: list[float]) -> None:
        """The last stage begins, where that needs no waiting."""
        depth = self._depth
        for x in calls:
            _stands(x, depth, marks)
        left = [*self._start(calls, self._came)]
        others = {x for x, _ in left}
        ended: list[Exchange] = []
        going: list[Exchange] = []
        for x in calls:
            if x in others:
                continue
            if x.outcome is not None:
                ended.append(x)  # on its way down, when nobody was there to be told
                continue
            assert x.asker is not None
            x.stop = x.asker.stop
            going.append(x)
        if going:
            try:
                left += self._started(going)
            except Exception as fault:
                logger.exception("the last stage failed over several calls")
                left += [(x, fault) for x in going]
        # Who is told may end the turn, and then all that is prepared goes out: by then what is not to go has to be taken back.
        over = [(x, self._stop(x)) for x in ended]
        over += [(x, self._broken(x, fault, streaming=False)) for x, fault in left if fault is not None]
        for x, error in over:
            _tell(x, error)
        for x in [x for x, why in left if why is None]:
            self._leave(x)
        left.clear()  # a fault may hold this function, which must not hold it: nothing is to wait for the cycle collector

    def _leave(self, x: Exchange) -> None:
        """The call goes no further with the others."""
        try:
            self._hand_over(x)
        except Exception as broken:
            self._failed(x, broken, streaming=False)

    @staticmethod
    def _hand_over(x: Exchange) -> None:
        """From here on a task carries the call."""
        asker = x.asker
        assert asker is not None
        asker.wait()
        x.asker = x.stop = None

    def _failed(self, x: Exchange, fault: Exception, *, streaming: bool) -> None:
        """A call that no task carries has failed."""
        _tell(x, self._broken(x, fault, streaming=streaming))

    def _broken(self, x: Exchange, fault: Exception, *, streaming: bool) -> GatehouseError:
        """The same before it is told: settle it. What is to be told."""
        if isinstance(fault, GatehouseError):
            self._fail(x, fault, streaming=streaming)
            # What it came through holds the calls of this turn, and the call holds it.
            fault.__traceback__ = fault.__cause__ = fault.__context__ = None
        else:
            fault = self._fault(x, fault, streaming=streaming)
        self._settle(x)
        return fault

    def _came(self, x: Exchange, source: Answer | Events | None) -> None:
        """The last stage, begun without waiting, has come to something."""
        turn = self._turn
        if turn is None:
            self._come_back([(x, source)])
            return
        back = self._back
        if not back:
            turn.before(self._come_back_together)
        back.append((x, source))

    def _come_back_together(self) -> None:
        back, self._back = self._back, []
        self._come_back(back)

    def _come_back(self, calls: list[tuple[Exchange, Answer | Events | None]]) -> None:
        """Watch, take and settle, each for all of them, as in `_go_down`."""
        at = self._monotonic()
        whole: list[Answered] = []
        watched: list[Answered] = []
        for x, source in calls:
            if x.asker is None or x.outcome is not None:
                continue  # ended from outside in this very turn, and about to be settled
            if source is None:
                self._leave(x)
                continue
            x.marks.append(at)
            if isinstance(source, Answer):
                whole.append((x, source))
            else:
                self._watch(x, source, 0, watched)
        for place, (_, clear) in enumerate(self._watching):
            left = whole if clear is None else _left_of(clear, whole)
            if left:
                others = {x for x, _ in left}
                whole = [each for each in whole if each[0] not in others]
                for x, answer in left:
                    self._watch(x, Single(answer), place, watched)
        whole += watched
        self._end(self._taken(whole))

    def _watch(self, x: Exchange, source: Events, place: int, whole: list[Answered]) -> None:
        """Show one call's events to the watchers from the one at `place` on. An answer in one piece is one of the `whole` after that."""
        events = source
        try:
            for watch, _ in self._watching[place:]:
                events = watch(x, events)
            if type(events) is Single and type(answer := events.event) is Answer:
                whole.append((x, answer))
            else:
                x.ready = (source, events)
                self._hand_over(x)
        except Exception as fault:
            self._failed(x, fault, streaming=True)

    def _taken(self, whole: list[Answered]) -> list[Exchange]:
        """The calls whose answer was taken and that have only to be settled; a task carries on whatever has to wait."""
        taken: list[Exchange] = []
        for x, answer in whole:
            assert x.asker is not None
            try:
                if x.asker.take(answer):
                    x.outcome = Outcome.COMPLETED
                    taken.append(x)
                else:
                    source = Single(answer)
                    x.ready = (source, source)
                    self._hand_over(x)
            except Exception as fault:
                self._failed(x, fault, streaming=True)
        return taken

    def _end(self, calls: list[Exchange]) -> None:
        """Settle calls that are completed, each stage for all of them, and tell who asked."""
        for stage, settle_all in self._settling:
            if settle_all is None:
                _settle_each(stage, calls)
                continue
            try:
                settle_all(calls)
            except Exception:
                logger.exception("settling %s failed over %d calls", stage.name, len(calls))
        self.running.difference_update(calls)
        for x in calls:
            _tell(x, None)

    def stopped(self, x: Exchange) -> None:
        """The call was ended from outside, a step of the loop ago, while no task carried it."""
        if x.asker is None or x not in self.running:
            return  # it came to its end in the same turn
        _tell(x, self._stop(x))

    def _stop(self, x: Exchange) -> GatehouseError | None:
        """Settle a call that was ended from outside; what is to be told."""
        error: UpstreamFailed | None = None
        if x.outcome is Outcome.DEADLINE:
            x.error = error = _too_late()
        self._settle(x)
        return error

    async def carry(self, x: Exchange, deliver: Deliver) -> None:
        """Run the call, or the rest of it, to its end; when this returns or raises everything is settled.

        Raises:
            GatehouseError: what the caller is to be told; also in `x.error`.
            asyncio.CancelledError: the call was stopped from outside; `x.outcome` says by whom.
        """
        if not x.entered:
            self._enter(x)
        x.stop = (x.task or _this_task()).cancel
        source, events = x.ready or (None, None)
        try:
            if source is None or events is None or x.outcome is not None:
                events = source = await self._admitted(x)  # raises when it was ended before it was carried on
                for watch in self._watchers[x.entered]:
                    events = watch(x, events)
            delivering = deliver(x, events)
            if delivering is not None:
                await delivering
            if x.outcome is None:
                x.outcome = Outcome.COMPLETED
        except GatehouseError as error:
            self._fail(x, error, streaming=source is not None)
            raise
        except asyncio.CancelledError:
            late = self._late(x)
            if late is not None:
                raise late from None
            raise
        except BaseException as fault:
            raise self._fault(x, fault, streaming=source is not None) from fault
        finally:
            try:
                if type(events) is not Single or type(source) is not Single:
                    await self._close(x, events, source)
            finally:
                self._settle(x)

    def _enter(self, x: Exchange) -> None:
        _still_wanted(x)
        x.clock_start = self._monotonic()
        x.started_at = self._now()
        self.running.add(x)

    async def _admitted(self, x: Exchange) -> Events:
        """What the first stage that answers gives; from the stage on that is entered already, if any."""
        _still_wanted(x)
        stage = self.stages[x.entered - 1] if x.entered else self._first_to_wait(x)
        while (source := await stage.admit(x)) is None:
            x.marks.append(self._monotonic())
            stage = self._first_to_wait(x)
        x.marks.append(self._monotonic())
        return source

    @staticmethod
    async def _close(x: Exchange, *streams: Events | None) -> None:
        """Close the outermost stream and then the innermost: a watcher's generator that nobody ever iterated closes nothing itself."""
        cut: asyncio.CancelledError | None = None
        for stream in streams:
            try:
                if stream is not None:
                    await stream.aclose()
            except asyncio.CancelledError as second:
                # The stream is closed as far as it can be; a second cancel lands here and is raised after settling.
                cut = second
            except BaseException:
                logger.exception("call %s: closing the stream failed", x.request_id)
        if cut is not None:
            raise cut

    def _first_to_wait(self, x: Exchange) -> Stage:
        """Go on through the stages that let the call pass at once; the one that is entered and must be waited for."""
        mark = x.marks.append
        monotonic = self._monotonic
        depth = x.entered
        for at_once, stage in self._steps[depth:] if depth else self._steps:
            depth += 1
            x.entered = depth
            if at_once is None or not at_once(x):
                return stage
            mark(monotonic())
        raise Internal("No stage answered the call.")

    def _fault(self, x: Exchange, fault: BaseException, *, streaming: bool) -> Internal:
        logger.error("call %s: a fault of ours", x.request_id, exc_info=fault)
        internal = Internal("Something went wrong on our side. Quote the request id when you report it.", detail=type(fault).__name__)
        self._fail(x, internal, streaming=streaming)
        return internal

    @staticmethod
    def _late(x: Exchange) -> UpstreamFailed | None:
        """A call was cancelled: what its caller is told when that was for its deadline."""
        if x.outcome is None or x.outcome is Outcome.COMPLETED:
            x.outcome = Outcome.SHUTDOWN
        if x.outcome is not Outcome.DEADLINE:
            return None
        _this_task().uncancel()
        x.error = late = _too_late()
        return late

    @staticmethod
    def _fail(x: Exchange, error: GatehouseError, *, streaming: bool) -> None:
        x.error = error
        if x.outcome is None or x.outcome is Outcome.COMPLETED:
            if isinstance(error, Blocked) and streaming:
                x.outcome = Outcome.GUARD
            elif isinstance(error, UpstreamFailed | Internal) or (streaming and isinstance(error, Unavailable)):
                x.outcome = Outcome.FAILED
            else:
                x.outcome = Outcome.REFUSED

    def _settle(self, x: Exchange) -> None:
        self.running.discard(x)
        x.stop = None
        for stage in (self._settlers if x.error is None else self._settlers_of_failed)[x.entered]:
            try:
                stage.settle(x)
            except Exception:
                logger.exception("call %s: settling %s failed", x.request_id, stage.name)


def _in_turn(stages: tuple[Stage, ...], *, failed: bool) -> tuple[tuple[Stage, ...], ...]:
    """For each number of stages that were entered, those that have something to settle, last first."""
    settling = [
        stage
        for stage in stages
        if getattr(type(stage), "settle", None) is not nothing_held and (failed or not getattr(stage, "settles_failures_only", False))
    ]
    return tuple(tuple(stage for stage in reversed(stages[:depth]) if stage in settling) for depth in range(len(stages) + 1))


def _settle_each(stage: Stage, calls: Sequence[Exchange]) -> None:
    settle = stage.settle
    for x in calls:
        try:
            settle(x)
        except Exception:
            logger.exception("call %s: settling %s failed", x.request_id, stage.name)


def _still_wanted(x: Exchange) -> None:
    if x.outcome is not None:
        raise asyncio.CancelledError(f"ended before it was carried on: {x.outcome}")


def _stands(x: Exchange, depth: int, marks: list[float]) -> None:
    """The call has entered so many stages, and those before let it pass at these times."""
    x.entered = depth
    x.marks = marks.copy()


def _left_of(clear: Callable[[Sequence[_Asks]], Sequence[_Asks]], calls: Sequence[_Asks]) -> Sequence[_Asks]:
    """What a stage does not let pass of several calls: all of them, should it fail, so that each is asked for by itself."""
    try:
        return clear(calls)
    except Exception:
        logger.exception("a stage failed over several calls")
        return calls


def _tell(x: Exchange, error: GatehouseError | None) -> None:
    """How it ended. Who asked may break its promise: the other calls of the turn are not to notice."""
    asker, x.asker, x.stop = x.asker, None, None  # who asked holds the exchange: no circle is left for the collector
    if asker is not None:
        try:
            asker.ended(error)
        except Exception:
            logger.exception("call %s: who asked could not be told", x.request_id)


def _never(x: Exchange) -> bool:
    """The `at_once` of a stage that has none."""
    return False


def _nothing_started(calls: Sequence[Exchange]) -> Left:
    """The `started` of a stage that has none."""
    return ()


def _never_starts(calls: Sequence[Exchange], resume: Resume) -> Left:
    """The `start` of a stage that has none."""
    return [(x, None) for x in calls]


def _too_late() -> UpstreamFailed:
    return UpstreamFailed("The call took longer than its deadline.", code="upstream_timeout")


def _this_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    assert task is not None
    return task
