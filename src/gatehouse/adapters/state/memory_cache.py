"""Whole answers in this process's memory: least recently used first out, bounded in bytes, each for its time only."""

import sys
from collections import OrderedDict
from typing import Any, Final

import msgspec

from gatehouse.core.events import Answer, Choice
from gatehouse.core.ports import Clock

_OVERHEAD: Final = 1_024
"""Bytes of an entry beside its strings: structs, key, table slots. Rounded up."""
_LOGPROBS_FACTOR: Final = 12
"""Small objects need about so many bytes for each byte of their JSON."""


class _Entry(msgspec.Struct, frozen=True):
    answer: Answer
    size: int
    until: float
    kept: float
    """Until when it is there for who takes it though its time is over."""


class MemoryCache:
    """Implements `gatehouse.core.ports.AnswerCache`.

    `capacity` bounds the estimated bytes of everything kept, `largest` those of one answer (an eighth of it by default).
    """

    def __init__(self, clock: Clock, capacity: int = 16 << 20, largest: int | None = None) -> None:
        self._clock = clock
        self._capacity = capacity
        self._largest = capacity // 8 if largest is None else largest
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Estimated bytes in use; never above the capacity."""
        return self._size

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Answer | None:
        """The answer, unless it has expired or was evicted."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock.monotonic()
        if entry.until <= now:
            if entry.kept <= now:
                self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.answer

    def get_stale(self, key: bytes) -> Answer | None:
        """The answer though its time may be over, unless it is not kept any more."""
        entry = self._entries.get(key)
        return entry.answer if entry is not None and entry.kept > self._clock.monotonic() else None

    def put(self, key: bytes, answer: Answer, ttl: float, stale: float = 0.0) -> None:
        """See `AnswerCache`. What a too large answer replaces goes too."""
        if key in self._entries:
            self._drop(key)
        size = _size(answer)
        if size > self._largest or ttl <= 0:
            return
        while self._size + size > self._capacity:
            self._size -= self._entries.popitem(last=False)[1].size
        until = self._clock.monotonic() + ttl
        self._entries[key] = _Entry(answer, size, until, until + stale)
        self._size += size

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size


def _size(answer: Answer) -> int:
    """Bytes in memory, near enough: strings exactly, the rest by a generous constant."""
    of = sys.getsizeof
    size = _OVERHEAD + of(answer.raw) + of(answer.id) + of(answer.model)
    if answer.vectors:
        size += sum(sys.getsizeof(vector) for vector in answer.vectors)
    for choice in answer.choices:
        size += _OVERHEAD + of(choice.text)  # of None too: a few bytes
        if choice.reasoning or choice.refusal or choice.signature or choice.redacted or choice.tools or choice.logprobs is not None:
            size += _rest(choice)
    return size


def _rest(choice: Choice) -> int:
    """What a choice may have beside its text."""
    size = _text(choice.reasoning) + _text(choice.refusal) + _text(choice.signature)
    size += sum(_text(piece) for piece in choice.redacted)
    for tool in choice.tools:
        size += _text(tool.id) + _text(tool.name) + _text(tool.arguments)
    if choice.logprobs is not None:
        size += _LOGPROBS_FACTOR * _encoded(choice.logprobs)
    return size


def _text(text: str | None) -> int:
    return 0 if text is None else sys.getsizeof(text)


def _encoded(value: Any) -> int:
    return len(msgspec.json.encode(value))
