"""The simulator on a small made-up trace: it repeats itself, accounts for every call, and its yardsticks are where they should be."""

import asyncio
import math
from functools import cache

from bench.simulate import ARRIVALS, RUNS, Fleet, Result, made_up, picture, run, simulate, table

FLEET = Fleet(replicas=4, reads=20_000.0, slots=16, cache=150)


@cache
def results() -> dict[str, Result]:
    return {result.policy: result for result in simulate(made_up(300, 5), FLEET, 3)}


def test_the_same_seed_says_the_same() -> None:
    """Figures can be quoted with their seed."""
    again = asyncio.run(run("prefix, 2048 tokens", "prefix", 2048, made_up(300, 5), FLEET, 3))
    assert again == results()["prefix, 2048 tokens"]


def test_every_policy_carries_every_call() -> None:
    """No call is lost, none is turned away from a fleet that is large enough, and nothing is left behind."""
    assert set(results()) == {name for name, _, _ in RUNS}
    for result in results().values():
        assert result.turned_away == 0
        assert 0 <= result.hits < 1
        assert all(math.isfinite(each) and each > 0 for each in (result.first_p50, result.first_p99, result.whole_p50, result.whole_p99))
    assert len(ARRIVALS) == 0


def test_affinity_reads_more_from_caches_than_chance() -> None:
    """What the policies are for; and money follows, since cached tokens are cheaper."""
    chance = results()["random"]
    for name in ("session", "prefix, 2048 tokens"):
        assert results()[name].hits > 1.1 * chance.hits
        assert float(results()[name].usd) < float(chance.usd)


def test_the_oracle_begins_sooner_than_chance() -> None:
    """A yardstick that chance beats would be none."""
    assert results()["oracle"].first_p99 < results()["random"].first_p99


def test_tables_and_picture_hold_every_policy() -> None:
    """What goes into the documentation."""
    drawn, written = picture([("a trace", list(results().values()))]), table(list(results().values()))
    for name in results():
        assert name in drawn
        assert f"| {name} |" in written
