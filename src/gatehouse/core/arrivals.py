"""Connections that have received something in a turn of the loop, to be looked at one after the other when it ends.

All that is ready is read first; then one connection's bytes after the other's go through the same code, which is worth half its time.
"""

import logging
from typing import Protocol

from gatehouse.core.ports import Turn

logger = logging.getLogger("gatehouse.arrivals")


class Receiver(Protocol):
    """Who has received something."""

    def take_in(self) -> None:
        """Look at it."""


class Arrivals:
    """Those of one kind. `turn` says when a turn ends."""

    __slots__ = ("_came", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._came: list[Receiver] = []

    def add(self, receiver: Receiver) -> None:
        """Call `receiver.take_in()` at the end of this turn."""
        came = self._came
        if not came:
            self.turn.before(self._take_in)
        came.append(receiver)

    def _take_in(self) -> None:
        came, self._came = self._came, []
        came.reverse()
        try:
            while came:
                try:
                    came.pop().take_in()
                except Exception:
                    logger.exception("what was received could not be looked at")
        finally:
            for receiver in reversed(came):  # this step of the loop is over for a reason that is none of ours
                self.add(receiver)
