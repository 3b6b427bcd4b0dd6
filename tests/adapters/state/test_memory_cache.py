"""The cache in memory: the port's contract, and that what it says it uses is what it uses."""

import sys

from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.core.calls import ToolCall
from gatehouse.core.events import Answer, Choice
from gatehouse.core.ports import AnswerCache
from gatehouse.testing.cache_contract import AnswerCacheContract, answer_of
from gatehouse.testing.fakes import FakeClock


class TestMemoryCache(AnswerCacheContract):
    """The contract."""

    def build(self, clock: FakeClock, capacity: int) -> AnswerCache:
        return MemoryCache(clock, capacity)


def test_the_very_object_comes_back() -> None:
    """A hit copies nothing."""
    cache = MemoryCache(FakeClock())
    answer = answer_of("yes")
    cache.put(b"key", answer, 60)
    assert cache.get(b"key") is answer


def test_size_counts_every_string_and_falls_again() -> None:
    """Wide strings, tool calls, raw bytes and logprobs all count; what expires or is replaced is given back to the last byte."""
    clock = FakeClock()
    cache = MemoryCache(clock)
    rich = Answer(
        (Choice(text="x" * 5000 + "🔑", reasoning="r" * 700, tools=(ToolCall("1", "f", "a" * 900),), logprobs=[{"t": 0.5}] * 50),),
        raw=b"r" * 3000,
    )
    cache.put(b"rich", rich, 60)
    assert cache.size > sys.getsizeof(rich.choices[0].text) + 700 + 900 + 3000
    assert sys.getsizeof(rich.choices[0].text) > 20_000
    cache.put(b"rich", answer_of("poor"), 60)
    small = cache.size
    assert 0 < small < 5000
    cache.put(b"other", answer_of("poor"), 30)
    assert len(cache) == 2
    clock.advance(30)
    assert cache.get(b"other") is None
    assert cache.size == small
    clock.advance(30)
    assert cache.get(b"rich") is None
    assert (cache.size, len(cache)) == (0, 0)


def test_size_never_passes_the_capacity() -> None:
    """After each put what is kept fits, also when one entry drives out many."""
    cache = MemoryCache(FakeClock(), capacity=50_000, largest=40_000)
    for length in (10, 9000, 20, 30_000, 5, 35_000, 100_000, 1):
        cache.put(b"%d" % length, answer_of("x" * length), 60)
        assert cache.size <= 50_000
    assert cache.get(b"100000") is None
    assert cache.get(b"1") is not None
    assert cache.get(b"35000") is not None
