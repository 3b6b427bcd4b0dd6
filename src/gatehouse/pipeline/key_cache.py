"""Keys near at hand: a bounded copy of the store's records that is told of changes and does not depend on being told.

An entry is good for `fresh` seconds; in the second half of that time its next use asks again in the background, so a busy
key never waits. Whatever message is lost, a revoked key is dead after `fresh` seconds while the store answers. When it does
not, known keys go on for `grace` seconds; after that, and unknown ones at once, they get a 503: never a 401, and never in.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from gatehouse.core.errors import GatehouseError, Internal, Unavailable
from gatehouse.core.identity import KeyRecord
from gatehouse.core.ports import Clock, Spawn

Fetch = Callable[[str], Awaitable[KeyRecord | None]]
"""The record as the store has it now; raises Unavailable when the store cannot be asked."""

_RETRY_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 0.5
"""How long a known key waits for its confirmation before it goes on under its grace."""
_MOST_TRIES: Final = 3


class Bounds:
    """How much is kept, and for how many seconds."""

    __slots__ = ("fresh", "grace", "known", "pending", "unknown", "unknown_ttl")

    def __init__(
        self,
        *,
        known: int = 10_000,
        unknown: int = 2_000,
        pending: int = 64,
        fresh: float = 4.0,
        grace: float = 60.0,
        unknown_ttl: float = 2.0,
    ) -> None:
        self.known = known
        self.unknown = unknown
        self.pending = pending
        """Look-ups at a time: well-formed but invented keys must not flood the store."""
        self.fresh = fresh
        self.grace = grace
        self.unknown_ttl = unknown_ttl


class _Entry:
    __slots__ = ("confirmed", "record", "retry_at")

    def __init__(self, record: KeyRecord, confirmed: float) -> None:
        self.record = record
        self.confirmed = confirmed
        self.retry_at = 0.0
        """Not asked again before this moment, after a failure."""


class _Flight:
    """A look-up under way; everybody who wants the key waits for the same one."""

    __slots__ = ("done", "late", "stale")

    def __init__(self, done: "asyncio.Future[KeyRecord | None]") -> None:
        self.done = done
        self.stale = False
        """The key changed while we asked: the answer may be older than the change."""
        self.late = False
        """It takes longer than known keys wait."""


class KeyCache:
    """Implements `KeyDirectory` over `fetch`."""

    def __init__(self, fetch: Fetch, clock: Clock, spawn: Spawn, bounds: Bounds | None = None) -> None:
        self._fetch = fetch
        self._clock = clock
        self._monotonic = clock.monotonic
        self._spawn = spawn
        self._bounds = bounds or Bounds()
        self._fresh = self._bounds.fresh
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()  # id -> the moment it may be asked for again
        self._flights: dict[str, _Flight] = {}

    async def find(self, key_id: str) -> KeyRecord | None:
        """See `KeyDirectory`."""
        now = self._clock.monotonic()
        entry = self._known.get(key_id)
        if entry is None:
            until = self._unknown.get(key_id)
            if until is not None and now < until:
                return None
            return await self._look_up(key_id)
        age = now - entry.confirmed
        if age < self._fresh:
            if 2 * age >= self._fresh and now >= entry.retry_at and key_id not in self._flights:
                self._take_off(key_id)
            return entry.record
        return await self._confirm(key_id, entry, now)

    def at_hand(self, key_id: str) -> KeyRecord | None:
        """The record, when `find` would tell it at once and has nothing to begin; else None."""
        entry = self._known.get(key_id)
        if entry is None:
            return None
        now = self._monotonic()
        age = now - entry.confirmed
        if 2 * age < self._fresh or (age < self._fresh and (key_id in self._flights or now < entry.retry_at)):
            return entry.record
        return None

    def forget(self, key_id: str, version: int | None = None) -> None:
        """The key changed: the next use asks the store. With `version`, an entry that is at least as new stays."""
        entry = self._known.get(key_id)
        if entry is not None and version is not None and entry.record.version >= version:
            return
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        flight = self._flights.get(key_id)
        if flight is not None:
            flight.stale = True

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._known.clear()
        self._unknown.clear()
        for flight in self._flights.values():
            flight.stale = True

    def __len__(self) -> int:
        return len(self._known) + len(self._unknown)

    async def _confirm(self, key_id: str, entry: _Entry, now: float) -> KeyRecord | None:
        """An entry past its time: ask, and fall back on it only while nobody answers and its grace lasts."""
        flight = self._flights.get(key_id)
        if now - entry.confirmed >= self._fresh + self._bounds.grace:
            return await self._look_up(key_id)
        if now >= entry.retry_at and not (flight is not None and flight.late):
            try:
                return await self._hasten(flight or self._take_off(key_id))
            except Unavailable:
                entry.retry_at = self._clock.monotonic() + _RETRY_SECONDS
                if self._known.get(key_id) is not entry:  # somebody told us meanwhile that it changed
                    raise
        return entry.record

    async def _hasten(self, flight: _Flight) -> KeyRecord | None:
        """The answer, unless it takes too long."""
        answer: asyncio.Future[KeyRecord | None] = asyncio.get_running_loop().create_future()

        def arrived(done: "asyncio.Future[KeyRecord | None]") -> None:
            if not answer.done():
                error = done.exception()
                if error is None:
                    answer.set_result(done.result())
                else:
                    answer.set_exception(error)

        def too_late() -> None:
            flight.late = True
            if not answer.done():
                answer.set_exception(_unavailable("the store of keys does not answer in time"))

        flight.done.add_done_callback(arrived)
        timer = self._clock.call_later(_PATIENCE_SECONDS, too_late)
        try:
            return await answer
        finally:
            timer.cancel()
            flight.done.remove_done_callback(arrived)

    async def _look_up(self, key_id: str) -> KeyRecord | None:
        flight = self._flights.get(key_id)
        if flight is None:
            if len(self._flights) >= self._bounds.pending:
                raise _unavailable("too many keys are being looked up")
            flight = self._take_off(key_id)
        # Shielded: one caller that leaves must not take the answer from the others.
        return await asyncio.shield(flight.done)

    def _take_off(self, key_id: str) -> _Flight:
        flight = self._flights[key_id] = _Flight(asyncio.get_running_loop().create_future())
        self._spawn(self._fly(key_id, flight), name="find-key")
        return flight

    async def _fly(self, key_id: str, flight: _Flight) -> None:
        try:
            record, asked = await self._ask(key_id, flight)
        except BaseException as fault:
            self._land(key_id, flight)
            entry = self._known.get(key_id)
            if entry is not None:
                entry.retry_at = self._clock.monotonic() + _RETRY_SECONDS
            error = fault if isinstance(fault, GatehouseError) else _unavailable(type(fault).__name__)
            flight.done.set_exception(error)
            flight.done.exception()  # looked at, also when nobody waits
            if not isinstance(fault, Unavailable):
                raise
            return
        self._land(key_id, flight)
        self._keep(key_id, record, asked)
        flight.done.set_result(record)

    async def _ask(self, key_id: str, flight: _Flight) -> tuple[KeyRecord | None, float]:
        """The record, and when it was asked for: of what happened to it since then nothing is known."""
        for _ in range(_MOST_TRIES):
            flight.stale = False
            asked = self._clock.monotonic()
            record = await self._fetch(key_id)
            if record is not None and record.principal.key_id != key_id:
                raise Internal("Keys cannot be checked at the moment.", detail="the store answered with another key")
            if not flight.stale:
                return record, asked
        raise _unavailable("the key keeps changing")

    def _land(self, key_id: str, flight: _Flight) -> None:
        if self._flights.get(key_id) is flight:
            del self._flights[key_id]

    def _keep(self, key_id: str, record: KeyRecord | None, asked: float) -> None:
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if record is None:
            self._unknown[key_id] = asked + self._bounds.unknown_ttl
            if len(self._unknown) > self._bounds.unknown:
                self._unknown.popitem(last=False)
        else:
            # Order is by last confirmation, which a key in use renews by itself: no bookkeeping on a hit.
            self._known[key_id] = _Entry(record, asked)
            if len(self._known) > self._bounds.known:
                self._known.popitem(last=False)


def _unavailable(detail: str) -> Unavailable:
    return Unavailable("Keys cannot be checked at the moment.", code="identity_unavailable", retry_after=1.0, detail=detail)
