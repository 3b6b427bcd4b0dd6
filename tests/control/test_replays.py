"""Requests with an idempotency key: who carries one, what is kept, for how long and how much of it."""

import pytest

from gatehouse.control.replays import SHARE, Replays
from gatehouse.core.replays import Claim, Replayed
from gatehouse.testing.fakes import FakeClock

ANSWER = Replayed(b"x: y\r\n", b"body")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def desk(clock: FakeClock) -> Replays:
    return Replays(clock, 600, 16_000)


def test_one_carries_and_the_others_get_its_answer(desk: Replays) -> None:
    """The first claim is the call; equal ones wait while it runs and then have its answer, whoever asks."""
    assert desk.claim("w1", b"k", b"d") == Claim("yours")
    assert desk.claim("w2", b"k", b"d") == Claim("running")
    desk.finish("w1", b"k", ANSWER)
    assert desk.claim("w2", b"k", b"d") == Claim("done", ANSWER)


def test_another_request_under_the_same_key(desk: Replays) -> None:
    """Is told so, while the first one runs and afterwards."""
    desk.claim("w1", b"k", b"d")
    assert desk.claim("w1", b"k", b"other") == Claim("reused")
    desk.finish("w1", b"k", ANSWER)
    assert desk.claim("w1", b"k", b"other") == Claim("reused")


def test_what_failed_is_carried_again(desk: Replays) -> None:
    """Without an answer the key is free."""
    desk.claim("w1", b"k", b"d")
    desk.finish("w1", b"k", None)
    assert desk.claim("w2", b"k", b"d") == Claim("yours")


def test_what_ran_in_a_dead_worker_is_carried_again(desk: Replays) -> None:
    """Its answers stay; what it did not finish is free; what others run is not touched."""
    for owner, key in (("w1", b"a"), ("w1", b"b"), ("w2", b"c")):
        desk.claim(owner, key, b"d")
    desk.finish("w1", b"a", ANSWER)
    desk.ended("w1")
    assert [desk.claim("w3", key, b"d").state for key in (b"a", b"b", b"c")] == ["done", "yours", "running"]


def test_who_did_not_claim_finishes_nothing(desk: Replays) -> None:
    """A late word of a worker that lost its claim changes nothing."""
    desk.claim("w1", b"k", b"d")
    desk.finish("w2", b"k", ANSWER)
    assert desk.claim("w3", b"k", b"d") == Claim("running")
    desk.finish("w3", b"unknown", ANSWER)


def test_an_answer_is_kept_for_its_time(desk: Replays, clock: FakeClock) -> None:
    """Then the key is free, and its memory too."""
    desk.claim("w1", b"k", b"d")
    desk.finish("w1", b"k", ANSWER)
    clock.advance(599)
    assert desk.claim("w1", b"k", b"d").state == "done"
    clock.advance(1)
    assert desk.claim("w1", b"k", b"d").state == "yours"
    assert desk.size == 0


def test_memory_is_bounded(desk: Replays) -> None:
    """The oldest answers go first; one that is too large is not kept; what runs is never forgotten for room."""
    desk.claim("w1", b"running", b"d")
    for number in range(100):
        key = b"%d" % number
        desk.claim("w1", key, b"d")
        desk.finish("w1", key, Replayed(b"", b"x" * 500))
        assert desk.size <= 16_000
    assert desk.claim("w1", b"99", b"d").state == "done"
    assert desk.claim("w1", b"0", b"d").state == "yours"
    assert desk.claim("w1", b"running", b"d").state == "running"
    desk.claim("w1", b"large", b"d")
    desk.finish("w1", b"large", Replayed(b"", b"x" * (16_000 // SHARE)))
    assert desk.claim("w1", b"large", b"d").state == "yours"
