"""Arrivals: who received something is looked at when the turn ends, once, whatever becomes of the one before; many take turns."""

import logging
from collections.abc import Callable

import pytest

from gatehouse.core.arrivals import MANY
from gatehouse.core.ports import Receiver
from tests.pipeline.laning import HandTurn


class Line:
    """A connection that has received something."""

    def __init__(self, name: str, log: list[str], *, breaks: bool = False) -> None:
        self.name = name
        self.log = log
        self.breaks = breaks

    def take_in(self) -> None:
        """See `Receiver`."""
        self.log.append(self.name)
        if self.breaks:
            raise ZeroDivisionError


@pytest.fixture
def turn() -> HandTurn:
    """Ends when a test says."""
    return HandTurn()


@pytest.fixture(params=["asked", "answered"])
def add(request: pytest.FixtureRequest, turn: HandTurn) -> Callable[[Receiver], None]:
    """Of callers and of targets alike."""
    found: Callable[[Receiver], None] = getattr(turn, request.param)
    return found


def some(kind: str, log: list[str], count: int = MANY) -> list[Line]:
    """So many connections."""
    return [Line(f"{kind}{number}", log) for number in range(count)]


def test_all_are_looked_at_when_the_turn_ends(turn: HandTurn, add: Callable[[Receiver], None], caplog: pytest.LogCaptureFixture) -> None:
    """In the order in which they came; one that fails is told of, and keeps nobody from being looked at."""
    log: list[str] = []
    for line in (Line("a", log), Line("b", log, breaks=True), Line("c", log)):
        add(line)
    assert log == []
    assert len(turn.first) == 1
    with caplog.at_level(logging.ERROR):
        turn.end()
    assert log == ["a", "b", "c"]
    assert len(caplog.records) == 1
    add(Line("d", log))
    turn.end()
    turn.end()
    assert log[3:] == ["d"]


def test_what_comes_while_others_are_looked_at_has_its_turn_too(turn: HandTurn, add: Callable[[Receiver], None]) -> None:
    """It is looked at before anything is sent."""
    log: list[str] = []

    class Answering(Line):
        def take_in(self) -> None:
            super().take_in()
            add(Line("later", log))

    add(Answering("first", log))
    turn.send(lambda data: log.append("sent"), b"")
    turn.end()
    assert log == ["first", "later", "sent"]


def test_a_step_that_ends_early_loses_nobody(turn: HandTurn, add: Callable[[Receiver], None]) -> None:
    """Something ends the step of the loop while one is looked at: the others have their turn in the next."""
    log: list[str] = []

    class Ending(Line):
        def take_in(self) -> None:
            super().take_in()
            raise KeyboardInterrupt

    for line in (Line("a", log), Ending("b", log), Line("c", log), Line("d", log)):
        add(line)
    for line in (Line("e", log), Line("f", log)):
        turn.asked(line)
    with pytest.raises(KeyboardInterrupt):
        turn.end()
    turn.end()  # what a test's turn does not do by itself: the step is over
    turn.end()
    assert log == ["a", "b", "c", "d", "e", "f"]


def test_a_few_of_both_are_looked_at_in_one_turn(turn: HandTurn) -> None:
    """What targets have answered first: it ends calls."""
    log: list[str] = []
    for line in some("caller", log, 2 * MANY):
        turn.asked(line)
    for line in some("target", log, MANY - 1):
        turn.answered(line)
    turn.end()
    assert log == [f"target{number}" for number in range(MANY - 1)] + [f"caller{number}" for number in range(2 * MANY)]


def test_many_of_both_take_turns(turn: HandTurn) -> None:
    """One kind in each turn, with what joined it meanwhile: nobody waits for more than one turn of the others."""
    log: list[str] = []

    def come() -> None:
        for line in some("caller", log):
            turn.asked(line)
        for line in some("target", log):
            turn.answered(line)

    seen: list[set[str]] = []
    sizes: list[int] = []
    come()
    for _ in range(6):
        turn.end()
        seen.append({name[:6] for name in log})
        sizes.append(len(log))
        log.clear()
        come()
    assert seen == [{"target"}, {"caller"}] * 3
    assert sizes == [MANY] + [2 * MANY] * 5


def test_whose_turn_it_is_depends_on_who_had_the_last(turn: HandTurn) -> None:
    """Callers alone have just been looked at, so that targets are first; and the other way round."""
    log: list[str] = []
    for alone, first in (("asked", "target"), ("answered", "caller")):
        getattr(turn, alone)(Line("alone", log))
        turn.end()
        log.clear()
        for line in some("caller", log):
            turn.asked(line)
        for line in some("target", log):
            turn.answered(line)
        turn.end()
        assert {name[:6] for name in log} == {first}
        turn.end()
        assert len(log) == 2 * MANY
