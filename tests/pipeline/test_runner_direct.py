"""The truth table of calls that no task carries: whatever ends one, each entered stage settles once, last first, who asked hears of it
once, and the other calls of the same turn never notice."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from gatehouse.core.errors import Blocked, GatehouseError, Internal, InvalidRequest, LimitExceeded, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice, Event, Events
from gatehouse.core.outcome import Outcome
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Exchange
from tests.pipeline.laning import WHOLE, Asking, Lane, Looking, Prompt, Target, exchange, nothing, only, pieces, refuse, whole

SETTLED = ["settle completed target", "settle completed b", "settle completed a"]
DOWN = ["admit a", "admit b", "start target", "started target"]


@pytest.fixture(params=[True, False], ids=["turns", "no turns"])
def turn(request: pytest.FixtureRequest) -> bool:
    """Whether the loop's turns are known: without them each step is taken at once."""
    return bool(request.param)


@pytest.fixture
def log() -> list[str]:
    """What happened, in order."""
    return []


def lane(log: list[str], target: Target, *, turn: bool = True) -> Lane:
    return Lane(log, Prompt("a", log), Prompt("b", log), target, turn=turn)


# --- a good end --------------------------------------------------------------------------------------------------------


async def test_a_completed_call_has_no_task(log: list[str], turn: bool) -> None:
    """Down in one go, back in another; everything is settled before who asked is told that it may answer."""
    target = Target(log)
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    assert (it.of(x), it.runner.running, asker.told) == (DOWN, {x}, [])
    target.come(x, whole())
    it.end_turn()
    assert it.of(x) == [*DOWN, "taken", *SETTLED, "ended"]
    assert (x.outcome, x.error, x.entered, len(x.marks)) == (Outcome.COMPLETED, None, 3, 3)
    assert (asker.answers, asker.told, asker.tasks) == ([WHOLE], [None], [])
    assert it.nothing_left()


async def test_nothing_happens_before_the_turn_ends(log: list[str]) -> None:
    """Calls that begin in one turn go down at its end, stage by stage, and all that is asked stands before anything is written of it."""
    target = Target(log)
    it, x, y = lane(log, target), exchange("x"), exchange("y")
    it.begin(x, y)
    assert log == []
    it.end_turn()
    assert log == [f"{name} {what}" for what in DOWN for name in "xy"]
    target.come(x, whole())
    target.come(y, whole())
    assert log[8:] == []
    it.end_turn()
    assert log[8:] == [f"{name} {what}" for what in ("taken", *SETTLED, "ended") for name in "xy"]
    assert it.nothing_left()


async def test_watchers_see_the_answer_innermost_first(log: list[str], turn: bool) -> None:
    """A watcher may look at the one event, or put another in its place; that is what is taken."""
    other = Answer(choices=(Choice(text="other"),))
    target = Target(log)
    a = Looking("a", log, lambda x, events: None)
    b = Looking("b", log, lambda x, events: Single(other))
    it, x = Lane(log, a, b, target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x, whole())
    it.end_turn()
    assert it.of(x)[4:] == ["watch b", "watch a", "taken", *SETTLED, "ended"]
    assert asker.answers == [other]
    assert it.nothing_left()


# --- over to a task ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
async def test_a_stage_that_must_wait(log: list[str], turn: bool, depth: int) -> None:
    """A task goes on from the very stage that waits: none is entered twice, none is left out, each settles once."""
    names = "ab"
    stages = [Prompt(name, log, wait=(lambda x: True) if at == depth else nothing) for at, name in enumerate(names)]
    it, x = Lane(log, *stages, Target(log, lambda x: whole()), turn=turn), exchange()
    (asker,) = it.down(x)
    assert it.of(x) == [*(f"admit {name}" for name in names[:depth]), f"waits at {names[depth]}"]
    assert it.runner.running == {x}
    assert await asker.carried() is None
    later = [f"admit later {names[depth]}", *(f"admit {name}" for name in names[depth + 1 :]), "admit later target"]
    assert it.of(x)[depth + 1 :] == [*later, *SETTLED]
    assert (x.outcome, asker.told, len(x.marks), x.entered) == (Outcome.COMPLETED, [], 3, 3)
    assert it.nothing_left()


async def test_a_target_that_must_be_waited_for(log: list[str], turn: bool) -> None:
    """A last stage that cannot begin without waiting is awaited by a task, and has done nothing before."""
    it = lane(log, Target(log, lambda x: whole(), wait=lambda x: True), turn=turn)
    x = exchange()
    (asker,) = it.down(x)
    assert await asker.carried() is None
    assert it.of(x) == ["admit a", "admit b", "waits at target", "admit later target", *SETTLED]
    assert asker.events == [WHOLE]
    assert it.nothing_left()


async def test_a_watcher_that_makes_a_generator(log: list[str], turn: bool) -> None:
    """What has to be iterated is carried on by a task, from where it stands: nothing is admitted or watched again."""

    async def around(x: Exchange, events: Events) -> AsyncGenerator[Event, None]:
        try:
            async for event in events:
                yield event
        finally:
            log.append("x closed")

    target = Target(log)
    it, x = Lane(log, Looking("a", log, around), Prompt("b", log), target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x, whole())
    it.end_turn()
    assert x.asker is None
    assert await asker.carried() is None
    assert it.of(x) == [*DOWN, "watch a", "closed", *SETTLED]
    assert asker.events == [WHOLE]
    assert it.nothing_left()


async def test_a_stream(log: list[str], turn: bool) -> None:
    """A last stage that comes to a stream hands it to a task; it is closed before anything settles."""
    target = Target(log)
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x, pieces(log, "x"))
    it.end_turn()
    assert await asker.carried() is None
    assert it.of(x) == [*DOWN, "source closed", *SETTLED]
    assert len(asker.events) == 2
    assert it.nothing_left()


async def test_an_answer_that_cannot_be_taken(log: list[str], turn: bool) -> None:
    """Who asked for a stream does not take a whole answer: a task delivers it."""
    target = Target(log)
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.begin(x)
    asker.taking = lambda answer: False
    it.end_turn()
    target.come(x, whole())
    it.end_turn()
    assert await asker.carried() is None
    assert (asker.answers, asker.events, it.of(x)[4:]) == ([], [WHOLE], SETTLED)
    assert it.nothing_left()


async def test_a_target_that_failed(log: list[str], turn: bool) -> None:
    """The last stage's own `admit` goes on: it knows what failed and who else may be asked. Here nobody."""
    error = UpstreamFailed("no", code="upstream_unreachable")
    target = Target(log, refuse(error))
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x)
    it.end_turn()
    assert await asker.carried() is error
    assert it.of(x) == [*DOWN, "admit later target", "settle failed target", "settle failed b", "settle failed a"]
    assert (x.outcome, x.error, asker.told) == (Outcome.FAILED, error, [])
    assert it.nothing_left()


async def test_a_target_that_never_read_is_asked_again(log: list[str], turn: bool) -> None:
    """As after a failure: once more, by the task, and then the call is like any other."""
    target = Target(log, lambda x: whole())
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x)
    it.end_turn()
    assert await asker.carried() is None
    assert it.of(x) == [*DOWN, "admit later target", *SETTLED]
    assert it.nothing_left()


# --- refused and broken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
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
async def test_refused_at_each_stage(log: list[str], turn: bool, depth: int, error: GatehouseError, outcome: Outcome) -> None:
    """The stages entered so far, the refusing one included, settle once; then who asked is told, in the same turn."""
    names = "ab"
    stages = [Prompt(name, log, refuse(error) if at == depth else nothing) for at, name in enumerate(names)]
    it, x = Lane(log, *stages, Target(log), turn=turn), exchange()
    (asker,) = it.down(x)
    entered = names[: depth + 1]
    assert it.of(x) == [*(f"admit {name}" for name in entered), *(f"settle {outcome} {name}" for name in reversed(entered)), "ended"]
    assert (x.error, x.outcome, asker.told) == (error, outcome, [error])
    assert it.nothing_left()


@pytest.mark.parametrize("where", ["start", "started"])
async def test_refused_by_the_last_stage(log: list[str], turn: bool, where: str) -> None:
    """While it prepares, or when it is to go out: all three settle once, and the call is answered at once."""
    error = Unavailable("the journal cannot be written")
    target = Target(log, start=refuse(error)) if where == "start" else Target(log, started=refuse(error))
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    assert it.of(x)[-4:] == ["settle refused target", "settle refused b", "settle refused a", "ended"]
    assert asker.told == [error]
    assert it.nothing_left()


@pytest.mark.parametrize("where", ["at_once", "start", "started", "watch", "take"])
async def test_a_fault_of_ours(log: list[str], turn: bool, where: str) -> None:
    """An exception nobody planned for becomes Internal without its text, and everything settles."""
    broken = refuse(ZeroDivisionError("secret detail"))
    a = Looking("a", log, lambda x, events: broken(x) if where == "watch" else None)  # type: ignore[arg-type, return-value]
    b = Prompt("b", log, broken if where == "at_once" else nothing)
    target = Target(log, start=broken if where == "start" else nothing, started=broken if where == "started" else nothing)
    it, x = Lane(log, a, b, target, turn=turn), exchange()
    (asker,) = it.begin(x)
    if where == "take":
        asker.taking = lambda answer: bool(1 // 0)
    it.end_turn()
    if where in {"watch", "take"}:
        target.come(x, whole())
        it.end_turn()
    (told,) = asker.told
    assert isinstance(told, Internal)
    assert "secret" not in told.message
    assert (x.outcome, x.error, it.of(x)[-2:]) == (Outcome.FAILED, told, ["settle failed a", "ended"])
    assert it.nothing_left()


@pytest.mark.parametrize(("error", "outcome"), [(Blocked("leak"), Outcome.GUARD), (Unavailable("later"), Outcome.FAILED)])
async def test_refused_by_a_watcher(log: list[str], turn: bool, error: GatehouseError, outcome: Outcome) -> None:
    """What is refused of an answer is the guard's word, or a failure, as in a stream."""
    target = Target(log)
    a = Looking("a", log, lambda x, events: refuse(error)(x))  # type: ignore[arg-type, return-value]
    it, x = Lane(log, a, Prompt("b", log), target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x, whole())
    it.end_turn()
    assert it.of(x)[-4:] == [f"settle {outcome} target", f"settle {outcome} b", f"settle {outcome} a", "ended"]
    assert (asker.told, asker.answers) == ([error], [])
    assert it.nothing_left()


async def test_a_settle_that_raises_stops_nobody(log: list[str], turn: bool) -> None:
    """Settling goes on past a stage that breaks its promise, for this call and for the others of the turn."""
    target = Target(log)
    x, y = exchange("x"), exchange("y")
    b = Prompt("b", log, settle=only(x, refuse(RuntimeError("promise broken"))))
    it = Lane(log, Prompt("a", log), b, target, turn=turn)
    asking = it.down(x, y)
    for each in (x, y):
        target.come(each, whole())
    it.end_turn()
    for each in (x, y):
        assert it.of(each) == [*DOWN, "taken", *SETTLED, "ended"]
    assert [asker.told for asker in asking] == [[None], [None]]
    assert it.nothing_left()


@pytest.mark.parametrize("when", ["refused", "completed", "stopped before"])
async def test_who_asked_breaks_its_promise(log: list[str], turn: bool, when: str) -> None:
    """A fault in `ended` is one call's: the others of the turn hear of their own end, and nothing is left of any."""
    x, y = exchange("x"), exchange("y")
    target = Target(log)
    a = Prompt("a", log, only(x, refuse(InvalidRequest("no"))) if when == "refused" else nothing)
    it = Lane(log, a, Prompt("b", log), target, turn=turn)
    if when == "stopped before":
        x.end(Outcome.CLIENT)
    asking = [Asking(it.runner, each, log) for each in (x, y)]
    asking[0].ending = lambda: 1 // 0
    it.asking += asking
    for asker in asking:
        it.runner.begin(asker.x, asker)
    it.end_turn()
    if when == "completed":
        target.come(x, whole())
    target.come(y, whole())
    it.end_turn()
    assert it.of(y) == [*DOWN, "taken", *SETTLED, "ended"]
    assert len(asking[0].told) == len(asking[1].told) == 1
    assert it.nothing_left()


# --- ended from outside ------------------------------------------------------------------------------------------------


async def test_ended_before_it_began(log: list[str], turn: bool) -> None:
    """No stage is entered, and who asked hears that it is over."""
    it, x = lane(log, Target(log), turn=turn), exchange()
    x.end(Outcome.CLIENT)
    (asker,) = it.down(x)
    assert (it.of(x), asker.told, x.entered, x.outcome) == (["ended"], [None], 0, Outcome.CLIENT)
    assert it.nothing_left()


async def test_ended_before_its_turn_ended(log: list[str]) -> None:
    """A client that has gone by the end of the turn in which its request came: as if it had never begun."""
    it, x, y = lane(log, Target(log)), exchange("x"), exchange("y")
    asker, other = it.begin(x, y)
    x.end(Outcome.CLIENT)
    it.end_turn()
    await it.turns()
    assert (it.of(x), asker.told, asker.stops) == (["ended"], [None], 0)
    assert (it.of(y), other.told) == (DOWN, [])
    assert it.runner.running == {y}


@pytest.mark.parametrize("outcome", [Outcome.CLIENT, Outcome.REVOKED, Outcome.SHUTDOWN])
async def test_ended_while_the_target_thinks(log: list[str], turn: bool, outcome: Outcome) -> None:
    """Settled in the next step of the loop, with who ended it; what the target says later is nobody's."""
    target = Target(log)
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    x.end(outcome)
    assert it.of(x) == DOWN
    await it.turns()
    settled = [f"settle {outcome} target", f"settle {outcome} b", f"settle {outcome} a", "ended"]
    assert it.of(x) == [*DOWN, *settled]
    assert (asker.told, x.error) == ([None], None)
    target.come(x, whole())
    target.resumes.clear()
    await it.turns()
    assert it.of(x) == [*DOWN, *settled]
    assert it.nothing_left()


async def test_a_deadline_is_told_as_a_timeout(log: list[str], turn: bool) -> None:
    """The caller is still there, and hears that the target was too slow."""
    it, x = lane(log, Target(log), turn=turn), exchange()
    (asker,) = it.down(x)
    x.end(Outcome.DEADLINE)
    await it.turns()
    (told,) = asker.told
    assert isinstance(told, UpstreamFailed)
    assert (told.code, x.error, x.outcome) == ("upstream_timeout", told, Outcome.DEADLINE)
    assert it.nothing_left()


@pytest.mark.parametrize("order", ["answered first", "ended first"])
async def test_ended_in_the_turn_in_which_the_answer_came(log: list[str], order: str) -> None:
    """The end from outside counts, whichever came first: nothing is taken, and everything settles once."""
    target = Target(log)
    it, x = lane(log, target), exchange()
    (asker,) = it.down(x)
    if order == "answered first":
        target.come(x, whole())
        x.end(Outcome.CLIENT)
    else:
        x.end(Outcome.CLIENT)
        target.come(x, whole())
    it.end_turn()
    assert (it.of(x), asker.told) == (DOWN, [])
    await it.turns()
    assert it.of(x) == [*DOWN, "settle client target", "settle client b", "settle client a", "ended"]
    assert (asker.answers, asker.told) == ([], [None])
    assert it.nothing_left()


async def test_ended_in_the_step_after_it_was_answered(log: list[str], turn: bool) -> None:
    """A call that has come to its end is not ended again."""
    target = Target(log)
    it, x = lane(log, target, turn=turn), exchange()
    (asker,) = it.down(x)
    target.come(x, whole())
    it.end_turn()
    x.end(Outcome.CLIENT)
    it.runner.stopped(x)
    await it.turns()
    assert (x.outcome, it.of(x), asker.told) == (Outcome.COMPLETED, [*DOWN, "taken", *SETTLED, "ended"], [None])
    assert it.nothing_left()


async def test_ended_twice(log: list[str], turn: bool) -> None:
    """The first word counts; the second makes nothing settle again."""
    it, x = lane(log, Target(log), turn=turn), exchange()
    (asker,) = it.down(x)
    x.end(Outcome.REVOKED)
    x.end(Outcome.SHUTDOWN)
    await it.turns()
    x.end(Outcome.CLIENT)
    it.runner.stopped(x)
    await it.turns()
    assert it.of(x) == [*DOWN, "settle revoked target", "settle revoked b", "settle revoked a", "ended"]
    assert (asker.stops, asker.told) == (1, [None])
    assert it.nothing_left()


@pytest.mark.parametrize("where", ["a stage", "the last stage"])
async def test_ended_on_its_way_down(log: list[str], turn: bool, where: str) -> None:
    """Nothing goes out for it any more, and it settles as whoever ended it says."""

    def leave(x: Exchange) -> None:
        x.end(Outcome.CLIENT)

    target = Target(log, start=leave if where == "the last stage" else nothing)
    b = Prompt("b", log, leave if where == "a stage" else nothing)
    it, x = Lane(log, Prompt("a", log), b, target, turn=turn), exchange()
    (asker,) = it.down(x)
    await it.turns()
    assert it.of(x) == [*DOWN[:3], "settle client target", "settle client b", "settle client a", "ended"]
    assert asker.told == [None]
    assert it.nothing_left()


@pytest.mark.parametrize("outcome", [Outcome.CLIENT, Outcome.DEADLINE])
@pytest.mark.parametrize("where", ["a stage", "the target", "the watchers"])
async def test_ended_on_the_way_to_its_task(log: list[str], turn: bool, outcome: Outcome, where: str) -> None:
    """A call that goes over to a task may be ended before that has run: it goes no step further, and is told like any other."""
    target = Target(log, lambda x: whole())
    b = Prompt("b", log, wait=lambda x: where == "a stage")
    it, x = Lane(log, Prompt("a", log), b, target, turn=turn), exchange()
    (asker,) = it.down(x)
    if where != "a stage":
        target.come(x, pieces(log, "x") if where == "the watchers" else None)
        it.end_turn()
    x.end(outcome)
    ended = await asker.carried()
    assert asker.events == []
    assert "admit later b" not in it.of(x)
    assert "admit later target" not in it.of(x)
    assert [line for line in it.of(x) if line.startswith("settle")] == [
        f"settle {outcome} {name}" for name in (("b", "a") if where == "a stage" else ("target", "b", "a"))
    ]
    assert isinstance(ended, asyncio.CancelledError if outcome is Outcome.CLIENT else UpstreamFailed)
    assert it.nothing_left()


# --- several in one turn -----------------------------------------------------------------------------------------------


async def test_several_calls_of_one_turn_know_nothing_of_each_other(log: list[str], turn: bool) -> None:
    """One is refused, one faults, one must wait, one has gone, one cannot start, one is not written: the others are as if alone."""
    calls = {name: exchange(name) for name in ("good", "refused", "faulty", "waits", "gone", "stuck", "unwritten", "fine")}

    def a(x: Exchange) -> None:
        if x.request_id == "refused":
            raise InvalidRequest("no")
        if x.request_id == "faulty":
            raise ZeroDivisionError

    target = Target(
        log,
        lambda x: whole(),
        start=only(calls["stuck"], refuse(UpstreamFailed("no words", code="upstream_rejected"))),
        started=only(calls["unwritten"], refuse(Unavailable("the journal cannot be written"))),
    )
    it = Lane(log, Prompt("a", log, a), Prompt("b", log, wait=lambda x: x.request_id == "waits"), target, turn=turn)
    calls["gone"].end(Outcome.CLIENT)
    asking = dict(zip(calls, it.down(*calls.values()), strict=True))
    for name in ("fine", "good"):
        target.come(calls[name], whole())
    it.end_turn()
    assert await asking["waits"].carried() is None
    for name in ("good", "fine"):
        assert it.of(calls[name]) == [*DOWN, "taken", *SETTLED, "ended"]
        assert asking[name].told == [None]
    assert [type(asking[name].told[0]) for name in ("refused", "faulty", "stuck", "unwritten")] == [
        InvalidRequest,
        Internal,
        UpstreamFailed,
        Unavailable,
    ]
    for x in calls.values():
        settled = [line.split()[-1] for line in it.of(x) if line.startswith("settle")]
        assert settled == ["target", "b", "a"][3 - x.entered :]
    assert it.nothing_left()


@pytest.mark.parametrize("why", ["unwritten", "unprepared", "gone"])
async def test_all_that_is_not_to_leave_is_taken_back_before_anybody_is_told(log: list[str], why: str) -> None:
    """Who is told may end the turn: what was prepared for others that were refused, or ended, beside it does not go out then."""
    it: Lane
    sent: list[str] = []
    calls = [exchange(name) for name in "xyz"]

    def send(x: Exchange) -> None:
        if not any(line.startswith("settle") for line in it.of(x)):
            sent.append(x.request_id)

    def prepare(x: Exchange) -> None:
        assert it.turn is not None
        it.turn.send(lambda data: send(x), b"")
        if x is not calls[2]:
            if why == "gone":
                x.end(Outcome.CLIENT)
            elif why == "unprepared":
                raise UpstreamFailed("no words for this", code="upstream_rejected")

    def write(x: Exchange) -> None:
        if why == "unwritten" and x is not calls[2]:
            raise Unavailable("the journal cannot be written")

    it = Lane(log, Prompt("a", log), Target(log, start=prepare, started=write))
    askers = it.begin(*calls)
    assert it.turn is not None
    for asker in askers:
        asker.ending = it.turn.end
    it.end_turn()
    assert sent == ["z"]
    assert [len(asker.told) for asker in askers] == [1, 1, 0]
    for x in calls[:2]:
        assert [line.split()[-1] for line in it.of(x) if line.startswith("settle")] == ["target", "a"]


async def test_who_is_told_of_a_refusal_may_end_the_turn(log: list[str]) -> None:
    """Whoever answers and closes ends the turn there and then: what others have prepared does not leave before it is written."""
    it: Lane
    sent: list[bytes] = []
    x, y = exchange("x"), exchange("y")

    def prepare(call: Exchange) -> None:
        if call is y:
            raise UpstreamFailed("no words for this", code="upstream_rejected")
        assert it.turn is not None
        it.turn.send(lambda data: log.append(f"{call.request_id} sent"), b"")

    it = lane(log, Target(log, start=prepare))
    _, other = it.begin(x, y)
    other.ending = it.end_turn
    it.end_turn()
    assert it.of(x) == [*DOWN, "sent"]
    assert sent == []
    assert it.runner.running == {x}


async def test_answers_that_come_together_are_told_apart(log: list[str], turn: bool) -> None:
    """One is taken, one faults over its answer, one was ended, one has to be waited for, one's watcher refuses."""
    calls = {name: exchange(name) for name in ("good", "untaken", "gone", "again", "blocked", "fine")}
    target = Target(log, lambda x: whole())
    a = Looking("a", log, lambda x, events: only(calls["blocked"], refuse(Blocked("leak")))(x))  # type: ignore[arg-type, return-value]
    it = Lane(log, a, Prompt("b", log), target, turn=turn)
    asking = dict(zip(calls, it.begin(*calls.values()), strict=True))
    asking["untaken"].taking = lambda answer: bool(1 // 0)
    it.end_turn()
    calls["gone"].end(Outcome.CLIENT)
    for name, x in calls.items():
        target.come(x, None if name == "again" else whole())
    it.end_turn()
    await it.turns()
    assert await asking["again"].carried() is None
    for name in ("good", "fine"):
        assert it.of(calls[name]) == [*DOWN, "watch a", "taken", *SETTLED, "ended"]
    assert [type(asking[name].told[0]) for name in ("untaken", "gone", "blocked")] == [Internal, type(None), Blocked]
    for x in calls.values():
        assert [line.split()[-1] for line in it.of(x) if line.startswith("settle")] == ["target", "b", "a"]
    assert it.nothing_left()


# --- what is left ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing is freed but by the last reference to it, and nobody keeps what would be logged."""
    logging.disable()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["completed", "refused", "malformed", "fault", "unwritten", "client", "deadline", "untaken"])
async def test_no_circle_is_left_for_the_collector(log: list[str], turn: bool, end: str) -> None:
    """However a call ends, it is gone with the last who asks for it; another call of its turn is not kept by its error."""
    makes: dict[str, Callable[[], Exception]] = {
        "refused": lambda: InvalidRequest("no"),
        "fault": ZeroDivisionError,
        "unwritten": lambda: Unavailable("no"),
    }

    def parse() -> None:
        raise ValueError

    def broken(x: Exchange) -> None:
        if end == "malformed":
            try:
                parse()
            except ValueError as fault:
                raise InvalidRequest("not JSON") from fault
        raise makes[end]()

    target = Target(log, started=broken if end == "unwritten" else nothing)
    b = Prompt("b", log, broken if end in {"refused", "malformed", "fault"} else nothing)
    it = Lane(log, Prompt("a", log), b, target, turn=turn)
    gc.collect()
    x = exchange()
    (asker,) = it.begin(x)
    if end == "untaken":
        asker.taking = lambda answer: bool(1 // 0)
    it.end_turn()
    if end in {"client", "deadline"}:
        x.end(Outcome(end))
    elif end in {"completed", "untaken"}:
        target.come(x, whole())
        it.end_turn()
    await it.turns()
    assert it.nothing_left()
    target.resumes.clear()
    held = weakref.ref(asker)
    it.asking.clear()
    del x, asker
    assert held() is None
    assert gc.collect() == 0
