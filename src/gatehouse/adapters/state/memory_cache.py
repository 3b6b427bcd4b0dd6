"""Whole answers in this process's memory: least recently used first out, bounded in bytes, each for its time only.

An answer is kept as the bytes it encodes to. They are one object instead of a dozen, so what is kept can be counted exactly, and what
is driven out costs nobody a walk over memory that has long left the processor's caches.
"""

from collections import OrderedDict
from struct import Struct
from typing import Final

import msgspec

from gatehouse.core.events import Answer
from gatehouse.core.ports import Clock

_OVERHEAD: Final = 400
"""Bytes of an entry beside its answer: key, object, table slots. Rounded up."""
_TIMES: Final = Struct("<dd")
"""What an entry begins with: until when it is good, and until when it is there for who takes it though its time is over."""


class MemoryCache:
    """Implements `gatehouse.core.ports.AnswerCache`.

    `capacity` bounds the bytes of everything kept, `largest` those of one answer (an eighth of it by default).
    """

    def __init__(self, clock: Clock, capacity: int = 16 << 20, largest: int | None = None) -> None:
        self._monotonic = clock.monotonic
        self._capacity = capacity
        self._largest = capacity // 8 if largest is None else largest
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Answer).decode

    @property
    def size(self) -> int:
        """Bytes in use; never above the capacity."""
        return self._size

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Answer | None:
        """The answer, unless it has expired or was evicted."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        until, kept = _TIMES.unpack_from(entry)
        now = self._monotonic()
        if until <= now:
            if kept <= now:
                self._drop(key)
            return None
        self._entries.move_to_end(key)
        return self._answer(entry)

    def get_stale(self, key: bytes) -> Answer | None:
        """The answer though its time may be over, unless it is not kept any more."""
        entry = self._entries.get(key)
        return self._answer(entry) if entry is not None and _TIMES.unpack_from(entry)[1] > self._monotonic() else None

    def put(self, key: bytes, answer: Answer, ttl: float, stale: float = 0.0) -> None:
        """See `AnswerCache`. What a too large answer replaces goes too."""
        entries = self._entries
        if key in entries:
            self._drop(key)
        try:
            encoded = self._encode(answer)
        except (OverflowError, ValueError, RecursionError):
            return  # a target may write numbers that have no binary form, and text that has none
        until = self._monotonic() + ttl
        entry = _TIMES.pack(until, until + stale) + encoded
        size = len(entry) + _OVERHEAD
        if size > self._largest or ttl <= 0:
            return
        self._size += size
        while self._size > self._capacity:
            self._size -= len(entries.popitem(last=False)[1]) + _OVERHEAD
        entries[key] = entry

    def _drop(self, key: bytes) -> None:
        self._size -= len(self._entries.pop(key)) + _OVERHEAD

    def _answer(self, entry: bytes) -> Answer:
        return self._decode(memoryview(entry)[_TIMES.size :])
