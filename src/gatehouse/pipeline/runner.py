"""The runner carries one exchange through the stages: admit downwards, watch the stream, settle back up.

Promises, each a row of the truth table in `tests/pipeline/test_runner.py`:

- a stage is entered when its admit begins; each entered stage settles exactly once, last first, whatever happened;
- `settle` is a plain function: it cannot be cancelled, overtaken by a second cancel or lost when the loop closes;
- the stream is closed on every exit before anything settles;
- `outcome` and `error` are set before the first settle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from gatehouse.core.errors import Blocked, GatehouseError, Internal, Unavailable, UpstreamFailed
from gatehouse.core.events import Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock
from gatehouse.pipeline.exchange import Exchange

logger = logging.getLogger("gatehouse.pipeline")

Deliver = Callable[[Exchange, Events], Awaitable[None]]
"""Takes the events to whoever asked. It returns when all but the closing bytes are out."""


class Stage(Protocol):
    """One step of a call. A stage that also wants to see the stream is a `Watcher`."""

    name: str

    async def admit(self, x: Exchange) -> Events | None:
        """Let the call pass (None), answer it early (events), or refuse it (raise)."""

    def settle(self, x: Exchange) -> None:
        """Put things right when the call has ended. Never awaits, never raises."""


class Watcher(Stage, Protocol):
    """A stage that wraps the stream; one that does not costs nothing an event."""

    def watch(self, x: Exchange, events: Events) -> Events:
        """Return `events`, or a generator around them that closes them on every exit."""


class Runner:
    """Carries exchanges through a fixed order of stages. One instance serves every call of a process."""

    def __init__(self, stages: tuple[Stage, ...], clock: Clock) -> None:
        self.stages = stages
        self._clock = clock
        self._steps = tuple((stage, getattr(stage, "watch", None)) for stage in stages)
        self.running: set[Exchange] = set()

    async def carry(self, x: Exchange, deliver: Deliver) -> None:
        """Run the call to its end; when this returns or raises everything is settled.

        Raises:
            GatehouseError: what the caller is to be told; also in `x.error`.
            asyncio.CancelledError: the call was stopped from outside; `x.outcome` says by whom.
        """
        task = asyncio.current_task()
        assert task is not None
        if x.outcome is not None:
            raise asyncio.CancelledError(f"ended before it began: {x.outcome}")
        x.stop = task.cancel
        x.clock_start = self._clock.monotonic()
        x.started_at = self._clock.now()
        self.running.add(x)
        source: Events | None = None
        events: Events | None = None
        try:
            source = await self._admit(x)
            events = self._watch(x, source)
            await deliver(x, events)
            if x.outcome is None:
                x.outcome = Outcome.COMPLETED
        except GatehouseError as error:
            self._fail(x, error, streaming=events is not None)
            raise
        except asyncio.CancelledError:
            if x.outcome is None or x.outcome is Outcome.COMPLETED:
                x.outcome = Outcome.SHUTDOWN
            if x.outcome is Outcome.DEADLINE:
                task.uncancel()
                x.error = UpstreamFailed("The call took longer than its deadline.", code="upstream_timeout")
                raise x.error from None
            raise
        except BaseException as fault:
            logger.exception("call %s: a fault of ours", x.request_id)
            internal = Internal("Something went wrong on our side. Quote the request id when you report it.")
            internal.detail = type(fault).__name__
            self._fail(x, internal, streaming=events is not None)
            raise internal from fault
        finally:
            try:
                await self._close(x, events, source)
            finally:
                self._settle(x)

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

    async def _admit(self, x: Exchange) -> Events:
        marks = x.marks
        monotonic = self._clock.monotonic
        steps = self._steps
        events: Events | None = None
        for depth, (stage, _) in enumerate(steps, 1):
            x.entered = depth
            events = await stage.admit(x)
            marks.append(monotonic())
            if events is not None:
                break
        if events is None:
            raise Internal("No stage answered the call.")
        return events

    def _watch(self, x: Exchange, events: Events) -> Events:
        for _, watch in reversed(self._steps[: x.entered]):
            if watch is not None:
                events = watch(x, events)
        return events

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
        for stage in reversed(self.stages[: x.entered]):
            try:
                stage.settle(x)
            except Exception:
                logger.exception("call %s: settling %s failed", x.request_id, stage.name)
