"""Arrivals: who received something is looked at when the turn ends, once, whatever becomes of the one before."""

import logging

import pytest

from gatehouse.core.arrivals import Arrivals
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


def test_all_are_looked_at_when_the_turn_ends(caplog: pytest.LogCaptureFixture) -> None:
    """In the order in which they came; one that fails is told of, and keeps nobody from being looked at."""
    log: list[str] = []
    turn = HandTurn()
    arrivals = Arrivals(turn)
    for line in (Line("a", log), Line("b", log, breaks=True), Line("c", log)):
        arrivals.add(line)
    assert log == []
    assert len(turn.first) == 1
    with caplog.at_level(logging.ERROR):
        turn.end()
    assert log == ["a", "b", "c"]
    assert len(caplog.records) == 1
    arrivals.add(Line("d", log))
    turn.end()
    turn.end()
    assert log[3:] == ["d"]


def test_what_comes_while_others_are_looked_at_has_its_turn_too() -> None:
    """It is looked at before anything is sent."""
    log: list[str] = []
    turn = HandTurn()
    arrivals = Arrivals(turn)

    class Answering(Line):
        def take_in(self) -> None:
            super().take_in()
            arrivals.add(Line("later", log))

    arrivals.add(Answering("first", log))
    turn.send(lambda data: log.append("sent"), b"")
    turn.end()
    assert log == ["first", "later", "sent"]


def test_a_step_that_ends_early_loses_nobody() -> None:
    """Something ends the step of the loop while one is looked at: the others have their turn in the next."""
    log: list[str] = []
    turn = HandTurn()
    arrivals = Arrivals(turn)

    class Ending(Line):
        def take_in(self) -> None:
            super().take_in()
            raise KeyboardInterrupt

    for line in (Line("a", log), Ending("b", log), Line("c", log), Line("d", log)):
        arrivals.add(line)
    with pytest.raises(KeyboardInterrupt):
        turn.end()
    turn.end()
    assert log == ["a", "b", "c", "d"]
