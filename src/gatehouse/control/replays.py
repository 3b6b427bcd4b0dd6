"""Requests with an idempotency key, and their answers: in memory, for minutes, bounded in bytes and in number.

The desk stands in the steward, so that a retry finds its answer whichever worker it reaches. It does not survive the server, and
servers do not share it: a retry that lands elsewhere is a call of its own, as it would be without the key.
"""

from collections import OrderedDict
from typing import Final

import msgspec

from gatehouse.core.ports import Clock
from gatehouse.core.replays import Claim, Replayed

MOST_ENTRIES: Final = 50_000
SHARE: Final = 16
"""An answer may take this part of the memory and no more."""
_OVERHEAD: Final = 400
"""Bytes an entry takes beside its answer."""


class _Entry(msgspec.Struct):
    digest: bytes
    owner: str
    until: float
    answer: Replayed | None = None

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return _OVERHEAD + (0 if self.answer is None else len(self.answer.fields) + len(self.answer.body))


class Replays:
    """Keeps answers for `seconds` in at most `capacity` bytes; the oldest go first. Who runs a request is never forgotten for room."""

    def __init__(self, clock: Clock, seconds: float, capacity: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._capacity = capacity
        self._running: dict[bytes, _Entry] = {}
        self._done: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return self._size

    def claim(self, owner: str, key: bytes, digest: bytes) -> Claim:
        """See `ReplayDesk`; `owner` is who would carry it. A desk that is full of running requests lets more pass unremembered."""
        self._expire()
        entry = self._running.get(key) or self._done.get(key)
        if entry is None:
            if len(self._running) < MOST_ENTRIES:
                self._running[key] = _Entry(digest, owner, 0.0)
            return Claim("yours")
        if entry.digest != digest:
            return Claim("reused")
        return Claim("running") if entry.answer is None else Claim("done", entry.answer)

    def finish(self, owner: str, key: bytes, answer: Replayed | None) -> None:
        """See `ReplayDesk`. Who did not claim it finishes nothing."""
        entry = self._running.get(key)
        if entry is None or entry.owner != owner:
            return
        del self._running[key]
        if answer is None:
            return
        entry.answer = answer
        entry.until = self._clock.monotonic() + self._seconds
        if entry.size > self._capacity // SHARE:
            return
        self._done[key] = entry
        self._size += entry.size
        while self._size > self._capacity or len(self._done) > MOST_ENTRIES:
            self._drop(next(iter(self._done)))

    def ended(self, owner: str) -> None:
        """A worker is gone, and what it ran with it."""
        for key in [key for key, entry in self._running.items() if entry.owner == owner]:
            del self._running[key]

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._done:
            key, entry = next(iter(self._done.items()))
            if entry.until > now:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._size -= self._done.pop(key).size
