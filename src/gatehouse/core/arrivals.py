"""Connections that have received something in a turn of the loop, to be looked at one after the other when it ends.

All that is ready is read first; then one connection's bytes after the other's go through the same code, which is worth half its time.
For the same reason callers and targets take turns when much of both waits: what comes of a call is other code than what begins one,
and twice as many of one kind, every other turn, cost less than both in each.
"""

import logging
from collections import deque
from typing import Final

from gatehouse.core.ports import Receiver, Turn

logger = logging.getLogger("gatehouse.arrivals")

MANY: Final = 4
"""Connections of each kind from which they take turns. Fewer are looked at in one turn: nobody is in a hurry to save time then."""


class Arrivals:
    """All of a process. `turn` says when a turn ends."""

    __slots__ = ("_answered", "_asked", "_callers_next", "_due", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._asked: deque[Receiver] = deque()
        self._answered: deque[Receiver] = deque()
        self._due = False
        """Somebody will look at what comes now."""
        self._callers_next = False
        """Whose turn it is when much of both waits."""

    def asked(self, receiver: Receiver) -> None:
        """See `Turn`."""
        if not self._due:
            self._due = True
            self._turn.before(self._take_in)
        self._asked.append(receiver)

    def answered(self, receiver: Receiver) -> None:
        """See `Turn`."""
        if not self._due:
            self._due = True
            self._turn.before(self._take_in)
        self._answered.append(receiver)

    def _take_in(self) -> None:
        self._due = False
        asked, answered = self._asked, self._answered
        try:
            if len(asked) < MANY or len(answered) < MANY:
                if not (asked and answered):
                    self._callers_next = not asked
                _look_at(answered)
                _look_at(asked)
            else:
                callers, self._callers_next = self._callers_next, not self._callers_next
                _look_at(asked if callers else answered)
        finally:
            if asked or answered:  # the others' turn, or this step of the loop is over for a reason that is none of ours
                self._due = True
                self._turn.later(self._take_in)


def _look_at(came: deque[Receiver]) -> None:
    while came:
        receiver = came.popleft()
        try:
            receiver.take_in()
        except Exception:
            logger.exception("what was received could not be looked at")
