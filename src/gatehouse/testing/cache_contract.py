"""What every AnswerCache promises. A test module subclasses `AnswerCacheContract` as `Test...` and says how to build one."""

import msgspec

from gatehouse.core.events import Answer, Choice
from gatehouse.core.ports import AnswerCache
from gatehouse.testing.fakes import FakeClock


def answer_of(text: str, **fields: bytes) -> Answer:
    """A whole answer of one choice."""
    return Answer((Choice(text=text),), id="answer", model="model", created=1, raw=fields.get("raw", b""))


class AnswerCacheContract:
    """Tests of the port. `build` returns an empty cache of about `capacity` bytes that keeps time by `clock`."""

    def build(self, clock: FakeClock, capacity: int) -> AnswerCache:
        """Overridden by each implementation's test."""
        raise TypeError(f"{type(self).__name__} must say how to build its cache")

    def test_what_was_put_comes_back_equal(self) -> None:
        """An answer comes back as it was put, bytes of the target included, and an unknown key has none."""
        cache = self.build(FakeClock(), 1 << 20)
        answer = msgspec.structs.replace(answer_of("yes", raw=b'{"a":1}'), dialect="openai", fingerprint="f")
        cache.put(b"key", answer, 60)
        assert cache.get(b"key") == answer
        assert cache.get(b"other") is None

    def test_an_entry_ends_with_its_time(self) -> None:
        """An answer is there until its ttl has passed and not a moment longer."""
        clock = FakeClock()
        cache = self.build(clock, 1 << 20)
        cache.put(b"key", answer_of("yes"), 60)
        clock.advance(59.9)
        assert cache.get(b"key") is not None
        clock.advance(0.1)
        assert cache.get(b"key") is None

    def test_a_wall_clock_that_jumps_changes_nothing(self) -> None:
        """Scenario 40: setting the wall clock forwards neither expires an entry nor, backwards, prolongs it."""
        clock = FakeClock()
        cache = self.build(clock, 1 << 20)
        cache.put(b"key", answer_of("yes"), 60)
        clock.jump(3600)
        assert cache.get(b"key") is not None
        clock.jump(-7200)
        clock.advance(60)
        assert cache.get(b"key") is None

    def test_a_later_put_replaces_answer_and_time(self) -> None:
        """Putting under a key that is there replaces the answer and starts its time anew."""
        clock = FakeClock()
        cache = self.build(clock, 1 << 20)
        cache.put(b"key", answer_of("old"), 60)
        clock.advance(50)
        cache.put(b"key", answer_of("new"), 60)
        clock.advance(50)
        assert cache.get(b"key") == answer_of("new")

    def test_no_time_at_all_keeps_nothing(self) -> None:
        """A ttl of zero or less keeps nothing."""
        cache = self.build(FakeClock(), 1 << 20)
        cache.put(b"key", answer_of("yes"), 0)
        cache.put(b"other", answer_of("yes"), -1)
        assert cache.get(b"key") is None
        assert cache.get(b"other") is None

    def test_what_is_stale_is_there_for_who_asks_for_it(self) -> None:
        """Beyond its ttl an answer is gone for `get` and there for `get_stale`, as long as was said and not a moment longer."""
        clock = FakeClock()
        cache = self.build(clock, 1 << 20)
        cache.put(b"key", answer_of("yes"), 60, 100)
        cache.put(b"other", answer_of("no"), 60)
        assert cache.get_stale(b"key") == answer_of("yes")
        clock.advance(60)
        assert cache.get(b"key") is None
        assert cache.get_stale(b"key") == answer_of("yes")
        assert cache.get_stale(b"other") is None
        clock.advance(100)
        assert cache.get_stale(b"key") is None

    def test_an_answer_larger_than_the_cache_is_not_kept(self) -> None:
        """An oversized answer is refused without a word and evicts nobody; the entry it would have replaced is gone."""
        cache = self.build(FakeClock(), 100_000)
        cache.put(b"small", answer_of("yes"), 60)
        cache.put(b"replaced", answer_of("yes"), 60)
        cache.put(b"large", answer_of("x" * 200_000), 60)
        cache.put(b"replaced", answer_of("x" * 200_000), 60)
        assert cache.get(b"large") is None
        assert cache.get(b"replaced") is None
        assert cache.get(b"small") == answer_of("yes")

    def test_space_is_bounded_and_the_least_recently_used_goes_first(self) -> None:
        """Pain 34: a thousand answers fit no more than the capacity holds, and one that is asked for again and again stays."""
        cache = self.build(FakeClock(), 100_000)
        cache.put(b"asked for", answer_of("kept"), 60)
        for number in range(1000):
            cache.put(b"%d" % number, answer_of("x" * 1000), 60)
            assert cache.get(b"asked for") is not None
        kept = sum(cache.get(b"%d" % number) is not None for number in range(1000))
        assert 0 < kept <= 100
        assert cache.get(b"999") is not None
        assert cache.get(b"0") is None
