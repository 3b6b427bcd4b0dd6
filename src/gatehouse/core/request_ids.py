"""Request ids: unpredictable, unique over all servers, and in the order of time.

Ids are the key of ledger rows. If they came in no order, each new row would land on another page of the key's index, and a
batch of rows would write nearly all of that index again, the more the longer the ledger is. So an id begins with the time.

    req_<seconds since the epoch: 8 hex digits><chance: 24 hex digits>
"""

from typing import Final

from gatehouse.core.ports import Clock, Rng

PREFIX: Final = "req_"
_CHANCE: Final = 12
"""Bytes: even one id for each call of a large fleet is never drawn twice."""
_AT_ONCE: Final = 256
"""Ids made from one draw; their time is that of the draw."""
_LATEST: Final = 0xFFFF_FFFF


class RequestIds:
    """Makes ids. One for each process is enough."""

    __slots__ = ("_clock", "_made", "_rng")

    def __init__(self, rng: Rng, clock: Clock) -> None:
        self._rng = rng
        self._clock = clock
        self._made: list[str] = []

    def new(self) -> str:
        """An id that was never given before."""
        made = self._made
        if not made:
            start = f"{PREFIX}{min(max(int(self._clock.now()), 0), _LATEST):08x}"
            digits = self._rng.token(_CHANCE * _AT_ONCE).hex()
            made += [start + digits[at : at + 2 * _CHANCE] for at in range(0, len(digits), 2 * _CHANCE)]
        return made.pop()
