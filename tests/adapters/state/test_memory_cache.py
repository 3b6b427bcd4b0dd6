"""The cache in memory: the port's contract, and that what it says it uses is what it uses."""

import pytest

from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.core.calls import ToolCall
from gatehouse.core.events import Answer, Choice
from gatehouse.core.ports import AnswerCache
from gatehouse.core.usage import Usage
from gatehouse.testing.cache_contract import AnswerCacheContract, answer_of
from gatehouse.testing.fakes import FakeClock


class TestMemoryCache(AnswerCacheContract):
    """The contract."""

    def build(self, clock: FakeClock, capacity: int) -> AnswerCache:
        return MemoryCache(clock, capacity)


def test_nothing_of_what_was_put_is_held() -> None:
    """What comes back is equal and made anew: an entry is bytes, and keeps no answer alive."""
    cache = MemoryCache(FakeClock())
    answer = answer_of("yes")
    cache.put(b"key", answer, 60)
    assert cache.get(b"key") == answer
    assert cache.get(b"key") is not answer


def test_everything_an_answer_may_have_comes_back() -> None:
    """Wide strings, tool calls, reasoning, logprobs, usage, vectors and the bytes as they came."""
    cache = MemoryCache(FakeClock())
    rich = Answer(
        (Choice(text="x🔑", reasoning="r", tools=(ToolCall("1", "f", "{}"),), logprobs=[{"t": 0.5, "n": None}] * 3, finish="tool_calls"),),
        raw=b"\x00\xff",
        usage=Usage(3, 1, output=2),
        vectors=(b"\x00" * 8,),
    )
    cache.put(b"rich", rich, 60)
    assert cache.get(b"rich") == rich


@pytest.mark.parametrize("odd", [2**64, -(2**64), {"bytes": [2**70]}, "\ud800"])
def test_an_answer_that_cannot_be_encoded_is_not_kept(odd: object) -> None:
    """Log-probabilities are whatever a target wrote; what has no binary form is left out, and so is what it would replace."""
    cache = MemoryCache(FakeClock())
    cache.put(b"key", answer_of("before"), 60)
    cache.put(b"key", Answer((Choice(text="after", logprobs=odd),)), 60)
    assert cache.get(b"key") is None
    assert (cache.size, len(cache)) == (0, 0)


def test_size_counts_every_byte_and_falls_again() -> None:
    """All of an answer counts; what expires or is replaced is given back to the last byte."""
    clock = FakeClock()
    cache = MemoryCache(clock)
    cache.put(b"rich", answer_of("x" * 5000 + "🔑" * 1000, raw=b"r" * 3000), 60)
    assert cache.size > 5000 + 4000 + 3000
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
