"""Request ids."""

from gatehouse.core.request_ids import RequestIds
from gatehouse.testing.fakes import FakeClock, FakeRng


def test_ids_differ_and_are_of_one_shape() -> None:
    """More of them than come from one draw: no two are the same, all are 36 characters of which the last 32 are hexadecimal."""
    ids = RequestIds(FakeRng(1), FakeClock())
    made = [ids.new() for _ in range(1_000)]
    assert len(set(made)) == len(made)
    assert {(name[:4], len(name)) for name in made} == {("req_", 36)}
    assert all(int(name[4:], 16) >= 0 for name in made)


def test_later_ids_sort_behind_earlier_ones() -> None:
    """An id begins with the second of its draw, so that new rows come to stand at the end of the ledger's key."""
    clock = FakeClock()
    earlier = RequestIds(FakeRng(2), clock).new()
    clock.advance(10.0)
    later = RequestIds(FakeRng(1), clock).new()
    assert earlier < later
    assert int(later[4:12], 16) - int(earlier[4:12], 16) == 10


def test_a_clock_that_is_far_off_makes_ids_of_the_same_shape() -> None:
    """Before 1970 and after 2106 the time says nothing, and the ids are good ones nevertheless."""

    class Wrong(FakeClock):
        def __init__(self, now: float) -> None:
            super().__init__()
            self.told = now

        def now(self) -> float:
            return self.told

    for now, start in ((-5.0, "req_00000000"), (1e12, "req_ffffffff")):
        name = RequestIds(FakeRng(1), Wrong(now)).new()
        assert name.startswith(start)
        assert len(name) == 36
