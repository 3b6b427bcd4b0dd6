"""Comments in a silent stream, so that no machine between us and the client takes it for dead.

A comment is a line that every reader of server-sent events passes over. The first of them sends the stream's head: from then on
an error travels in the stream, as it does after the first event. Whether another target is tried is not touched by it.
"""

from collections.abc import Callable
from typing import Final

from gatehouse.core.ports import Clock, Timer

COMMENT: Final = b": keep-alive\n\n"


class Comments:
    """Makes the pulse of a call, one beat every `seconds`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def watch(self, beat: Callable[[], None]) -> "Pulse":
        """Call `beat` again and again until the pulse is stopped."""
        return Pulse(self._clock, self._seconds, beat)


class Pulse:
    """Beats until it is stopped."""

    __slots__ = ("_beat", "_clock", "_seconds", "_timer")

    def __init__(self, clock: Clock, seconds: float, beat: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._beat = beat
        self._timer: Timer = clock.call_later(seconds, self._fire)

    def stop(self) -> None:
        """No beat more."""
        self._timer.cancel()

    def _fire(self) -> None:
        self._timer = self._clock.call_later(self._seconds, self._fire)
        self._beat()
