"""The runner's truth table: whatever ends a call, each entered stage settles exactly once, last first, and nothing after it."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from gatehouse.core.errors import Blocked, GatehouseError, Internal, InvalidRequest, LimitExceeded, Unavailable, UpstreamFailed
from gatehouse.core.events import ChoiceDelta, Chunk, Event, Events
from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner, Stage
from gatehouse.testing.fakes import FakeClock

PIECE = Chunk(choices=(ChoiceDelta(text="a"),))


class Step:
    """A stage that notes what happens to it."""

    def __init__(self, name: str, log: list[str], act: Callable[[Exchange], object] | None = None) -> None:
        self.name = name
        self.log = log
        self.act = act

    async def admit(self, x: Exchange) -> Events | None:
        self.log.append(f"admit {self.name}")
        if self.act is None:
            return None
        result = self.act(x)
        if asyncio.iscoroutine(result):
            result = await result
        return result  # type: ignore[return-value]

    def settle(self, x: Exchange) -> None:
        self.log.append(f"settle {self.name} {x.outcome}")


class Watching(Step):
    """A stage that also wraps the stream, and notes when its wrapper is closed."""

    def watch(self, x: Exchange, events: Events) -> Events:
        self.log.append(f"watch {self.name}")
        return self._around(events)

    async def _around(self, events: Events) -> AsyncGenerator[Event, None]:
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self.log.append(f"closed {self.name}")


async def source(log: list[str], count: int = 2, error: BaseException | None = None, hang: bool = False) -> Events:
    """An upstream: `count` events, then an error, a hang, or the end."""
    try:
        for _ in range(count):
            yield PIECE
        if error is not None:
            raise error
        if hang:
            await asyncio.Event().wait()
    finally:
        log.append("source closed")


def exchange() -> Exchange:
    return Exchange("req_1", Head("POST", "/v1/chat/completions", {}), None, None)  # type: ignore[arg-type]


async def swallow(x: Exchange, events: Events) -> None:
    async for _ in events:
        pass


def runner(*stages: Stage) -> Runner:
    return Runner(stages, FakeClock())


def refuse(error: BaseException) -> Callable[[Exchange], object]:
    def act(_x: Exchange) -> object:
        raise error

    return act


async def test_a_completed_call() -> None:
    """Admit downwards, watchers innermost first, the stream closed, settle upwards."""
    log: list[str] = []
    x = exchange()
    await runner(Watching("a", log), Step("b", log), Watching("c", log, lambda _x: source(log))).carry(x, swallow)
    assert log == [
        "admit a",
        "admit b",
        "admit c",
        "watch c",
        "watch a",
        "source closed",
        "closed c",
        "closed a",
        "settle c completed",
        "settle b completed",
        "settle a completed",
    ]
    assert x.entered == 3
    assert len(x.marks) == 3


@pytest.mark.parametrize("depth", range(3))
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest("no"), Outcome.REFUSED),
        (LimitExceeded("no"), Outcome.REFUSED),
        (Blocked("no"), Outcome.REFUSED),
        (Unavailable("no"), Outcome.REFUSED),
        (UpstreamFailed("no", code="upstream_unreachable"), Outcome.FAILED),
    ],
)
async def test_refused_at_each_stage(depth: int, error: GatehouseError, outcome: Outcome) -> None:
    """The stages entered so far, the refusing one included, settle once; deeper ones never hear of the call."""
    log: list[str] = []
    names = "abc"
    x = exchange()
    with pytest.raises(type(error)):
        await runner(*(Step(name, log, refuse(error) if i == depth else None) for i, name in enumerate(names))).carry(x, swallow)
    entered = names[: depth + 1]
    assert log == [f"admit {name}" for name in entered] + [f"settle {name} {outcome}" for name in reversed(entered)]
    assert x.error is error


async def test_answered_early() -> None:
    """A stage that answers (a cache) ends the way down; watchers above it still see the stream."""
    log: list[str] = []
    await runner(Watching("a", log), Step("b", log, lambda _x: source(log)), Step("c", log)).carry(exchange(), swallow)
    assert "admit c" not in log
    assert "watch a" in log
    assert log[-2:] == ["settle b completed", "settle a completed"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UpstreamFailed("broke", code="upstream_broken"), Outcome.FAILED),
        (Blocked("leak"), Outcome.GUARD),
        (Unavailable("x"), Outcome.FAILED),
    ],
)
async def test_failed_mid_stream(error: GatehouseError, outcome: Outcome) -> None:
    """An error in the stream reaches the caller once everything is closed and settled."""
    log: list[str] = []
    x = exchange()
    with pytest.raises(type(error)):
        await runner(Watching("a", log, lambda _x: source(log, 1, error))).carry(x, swallow)
    assert log[-3:] == ["source closed", "closed a", f"settle a {outcome}"]


async def test_a_fault_of_ours() -> None:
    """An exception nobody planned for becomes Internal without its text, and everything settles."""
    log: list[str] = []
    x = exchange()
    with pytest.raises(Internal) as caught:
        await runner(Step("a", log), Step("b", log, refuse(ZeroDivisionError("secret detail")))).carry(x, swallow)
    assert "secret" not in caught.value.message
    assert log[-2:] == ["settle b failed", "settle a failed"]


async def test_a_settle_that_raises_stops_nobody() -> None:
    """Settling goes on past a stage that breaks its promise."""
    log: list[str] = []

    class Broken(Step):
        def settle(self, x: Exchange) -> None:
            super().settle(x)
            raise RuntimeError("promise broken")

    await runner(Step("a", log), Broken("b", log), Step("c", log, lambda _x: source(log))).carry(exchange(), swallow)
    assert log[-3:] == ["settle c completed", "settle b completed", "settle a completed"]


async def hang_forever(_x: Exchange) -> None:
    await asyncio.Event().wait()


async def started(log: list[str], line: str) -> None:
    """Let the loop turn until `line` was logged."""
    for _ in range(1000):
        if line in log:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{line!r} never happened: {log}")


async def test_client_gone_while_queued() -> None:
    """A client that leaves while a stage waits: cancelled at once, settled, outcome client."""
    log: list[str] = []
    x = exchange()
    task = asyncio.create_task(runner(Step("a", log), Step("b", log, hang_forever)).carry(x, swallow))
    await started(log, "admit b")
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-2:] == ["settle b client", "settle a client"]


@pytest.mark.parametrize("outcome", [Outcome.CLIENT, Outcome.REVOKED, Outcome.SHUTDOWN])
async def test_stopped_mid_stream(outcome: Outcome) -> None:
    """Whoever stops a running stream is named, the upstream is closed first."""
    log: list[str] = []
    x = exchange()
    task = asyncio.create_task(runner(Watching("a", log, lambda _x: source(log, 1, hang=True))).carry(x, swallow))
    await started(log, "watch a")
    await asyncio.sleep(0)
    x.end(outcome)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-3:] == ["source closed", "closed a", f"settle a {outcome}"]


async def test_client_gone_while_we_write() -> None:
    """Cancelled outside the stream (waiting for a slow client): the stream is closed all the same."""
    log: list[str] = []
    x = exchange()

    async def stuck(_x: Exchange, events: Events) -> None:
        await anext(events)
        log.append("stuck")
        await asyncio.Event().wait()

    task = asyncio.create_task(runner(Watching("a", log, lambda _x: source(log))).carry(x, stuck))
    await started(log, "stuck")
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-3:] == ["source closed", "closed a", "settle a client"]


async def test_client_gone_before_the_stream_was_begun() -> None:
    """Cancelled before anybody asked for the first event: the source under a watcher that never ran is closed before settling."""
    log: list[str] = []
    x = exchange()

    async def begun(_x: Exchange) -> Events:
        events = source(log)
        await anext(events)
        return events

    async def stuck(_x: Exchange, _events: Events) -> None:
        log.append("stuck")
        await asyncio.Event().wait()

    task = asyncio.create_task(runner(Watching("a", log), Step("b", log, begun)).carry(x, stuck))
    await started(log, "stuck")
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-4:] == ["stuck", "source closed", "settle b client", "settle a client"]


async def test_deadline_is_told_as_a_timeout() -> None:
    """A deadline ends the call like a disconnect does, but the caller is still there and is told."""
    log: list[str] = []
    x = exchange()
    task = asyncio.create_task(runner(Step("a", log, hang_forever)).carry(x, swallow))
    await started(log, "admit a")
    x.end(Outcome.DEADLINE)
    with pytest.raises(UpstreamFailed, match="deadline"):
        await task
    assert log[-1] == "settle a deadline"


async def test_two_cancels_at_once() -> None:
    """The first word counts; a second cancel cannot make anything settle twice or not at all."""
    log: list[str] = []
    x = exchange()

    async def slow_close() -> Events:
        try:
            yield PIECE
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("source closed")

    async def stuck(_x: Exchange, events: Events) -> None:
        await anext(events)
        log.append("stuck")
        await asyncio.Event().wait()

    task = asyncio.create_task(runner(Step("a", log), Step("b", log, lambda _x: slow_close())).carry(x, stuck))
    await started(log, "stuck")
    x.end(Outcome.CLIENT)
    await asyncio.sleep(0)
    x.end(Outcome.SHUTDOWN)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line for line in log if line.startswith("settle")] == ["settle b client", "settle a client"]


def test_loop_closing() -> None:
    """A loop that shuts down with a call in flight settles it as shutdown."""
    log: list[str] = []
    tasks: list[asyncio.Future[None]] = []

    async def main() -> None:
        tasks.append(asyncio.ensure_future(runner(Step("a", log), Step("b", log, hang_forever)).carry(exchange(), swallow)))
        await started(log, "admit b")

    asyncio.run(main())
    assert log[-2:] == ["settle b shutdown", "settle a shutdown"]


async def test_ended_before_it_began() -> None:
    """A client that left before the first stage: nothing is entered, nothing settles."""
    log: list[str] = []
    x = exchange()
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await runner(Step("a", log)).carry(x, swallow)
    assert log == []


async def test_nobody_answers() -> None:
    """Stages that all let the call pass are a fault of ours, not an empty answer."""
    with pytest.raises(Internal):
        await runner(Step("a", [])).carry(exchange(), swallow)


async def test_running_is_exact() -> None:
    """The set of running calls holds a call while it runs and never after."""
    log: list[str] = []
    carrier = runner(Step("a", log, hang_forever))
    x = exchange()
    task = asyncio.create_task(carrier.carry(x, swallow))
    await started(log, "admit a")
    assert carrier.running == {x}
    x.end(Outcome.CLIENT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert carrier.running == set()
