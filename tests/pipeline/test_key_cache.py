"""The copy of keys near at hand: fresh when told, fresh when not told, and never a way in when nobody can tell."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gatehouse.core.errors import Internal, Unavailable
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.pipeline.key_cache import Bounds, KeyCache
from gatehouse.testing.fakes import FakeClock, FakeSpawn, settle_loop


def record(key_id: str, version: int = 1) -> KeyRecord:
    return KeyRecord(b"d" * 32, Principal(key_id, key_id, frozenset({Role.DEVELOPER})), version=version)


class Store:
    """A store that can be slow, away or wrong; `asked` is every look-up."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def fetch(self, key_id: str) -> KeyRecord | None:
        self.asked.append(key_id)
        found = self.records.get(key_id)
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return found


class Rig:
    """A cache over a store, in virtual time."""

    def __init__(self) -> None:
        self.store = Store()
        self.clock = FakeClock()
        self.spawn = FakeSpawn()
        self.bounds = Bounds(known=3, unknown=3, pending=4, fresh=4.0, grace=60.0, unknown_ttl=2.0)
        self.cache = KeyCache(self.store.fetch, self.clock, self.spawn, self.bounds)

    def add(self, key_id: str, version: int = 1) -> KeyRecord:
        self.store.records[key_id] = made = record(key_id, version)
        return made


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """An empty cache."""
    made = Rig()
    yield made
    await made.spawn.close()


async def test_a_key_is_looked_up_once(rig: Rig) -> None:
    """The second use does not ask."""
    expected = rig.add("a")
    assert await rig.cache.find("a") == expected
    assert await rig.cache.find("a") == expected
    assert rig.store.asked == ["a"]


async def test_everybody_who_wants_a_key_waits_for_one_look_up(rig: Rig) -> None:
    """A hundred callers, one question; one of them leaving takes the answer from nobody."""
    expected = rig.add("a")
    rig.store.gate = asyncio.Event()
    tasks = [rig.spawn(rig.cache.find("a"), name="find") for _ in range(100)]
    await settle_loop()
    tasks[0].cancel()
    await settle_loop()
    rig.store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [expected] * 99
    assert rig.store.asked == ["a"]


async def test_a_changed_key_is_asked_for_again(rig: Rig) -> None:
    """forget by id; forget_all for every one."""
    rig.add("a")
    await rig.cache.find("a")
    expected = rig.add("a", 2)
    rig.cache.forget("a")
    assert await rig.cache.find("a") == expected
    expected = rig.add("a", 3)
    rig.cache.forget_all()
    assert await rig.cache.find("a") == expected


async def test_a_message_about_a_version_that_is_here_already_changes_nothing(rig: Rig) -> None:
    """Old news does not cost a look-up; new news does."""
    rig.add("a", 5)
    await rig.cache.find("a")
    rig.cache.forget("a", 5)
    await rig.cache.find("a")
    assert len(rig.store.asked) == 1
    rig.cache.forget("a", 6)
    await rig.cache.find("a")
    assert len(rig.store.asked) == 2


@pytest.mark.parametrize("forget_all", [True, False])
async def test_an_answer_overtaken_by_a_change_is_not_used(rig: Rig, forget_all: bool) -> None:
    """The key changed after the store was read and before the answer came: it is asked again."""
    rig.add("a", 1)
    rig.store.gate = asyncio.Event()
    finding = rig.spawn(rig.cache.find("a"), name="find")
    await settle_loop()
    expected = rig.add("a", 2)
    if forget_all:
        rig.cache.forget_all()
    else:
        rig.cache.forget("a")
    rig.store.gate.set()
    assert await finding == expected
    assert await rig.cache.find("a") == expected
    assert rig.store.asked == ["a", "a"]


async def test_a_key_that_never_stops_changing_is_unavailable(rig: Rig) -> None:
    """Three tries, then 503: no endless loop."""

    async def restless(key_id: str) -> KeyRecord | None:
        cache.forget(key_id)
        return record(key_id)

    cache = KeyCache(restless, rig.clock, rig.spawn, rig.bounds)
    with pytest.raises(Unavailable):
        await cache.find("a")


async def test_a_busy_key_renews_itself_without_waiting(rig: Rig) -> None:
    """In the second half of its time the next use asks in the background and is answered at once."""
    old = rig.add("a")
    await rig.cache.find("a")
    new = rig.add("a", 2)
    rig.clock.advance(1.9)
    assert await rig.cache.find("a") == old
    assert len(rig.store.asked) == 1
    rig.clock.advance(0.2)
    assert await rig.cache.find("a") == old
    await settle_loop()
    assert await rig.cache.find("a") == new
    assert len(rig.store.asked) == 2


async def test_a_slow_answer_is_as_old_as_its_question(rig: Rig) -> None:
    """A key that is revoked while the store answers is dead `fresh` seconds after that, not after the answer came."""
    rig.add("a")
    rig.store.gate = asyncio.Event()
    finding = asyncio.create_task(rig.cache.find("a"))
    await settle_loop()
    rig.store.records.clear()
    rig.clock.advance(3.0)
    rig.store.gate.set()
    await settle_loop()
    assert await finding is not None
    rig.clock.advance(rig.bounds.fresh - 3.0)
    assert rig.cache.at_hand("a") is None
    assert await rig.cache.find("a") is None


async def test_an_idle_key_is_confirmed_before_it_is_used_again(rig: Rig) -> None:
    """Past its time an entry is worth nothing while the store answers, whatever message was lost."""
    rig.add("a")
    await rig.cache.find("a")
    new = rig.add("a", 2)
    rig.clock.advance(4.0)
    assert await rig.cache.find("a") == new


async def test_scenario_43_known_keys_go_on_while_the_store_is_away_and_unknown_ones_do_not(rig: Rig) -> None:
    """For the grace, asking once a second; then 503. Never None, which would mean 401."""
    known = rig.add("a")
    await rig.cache.find("a")
    rig.store.fault = Unavailable("away")
    rig.clock.advance(10.0)
    asked = len(rig.store.asked)
    for _ in range(5):
        assert await rig.cache.find("a") == known
    assert len(rig.store.asked) == asked + 1
    with pytest.raises(Unavailable):
        await rig.cache.find("b")
    rig.clock.advance(53.9)
    assert await rig.cache.find("a") == known
    rig.clock.advance(0.1)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await rig.cache.find("a")
    rig.store.fault = None
    assert await rig.cache.find("a") == known


async def test_a_key_that_was_forgotten_gets_no_grace(rig: Rig) -> None:
    """Told of a change and unable to ask, the old record is not used: no fail-open for a revoked key."""
    rig.add("a")
    await rig.cache.find("a")
    rig.cache.forget("a")
    rig.store.fault = Unavailable("away")
    with pytest.raises(Unavailable):
        await rig.cache.find("a")


async def test_a_key_that_changes_while_it_is_confirmed_in_vain_gets_no_grace(rig: Rig) -> None:
    """The message comes while we wait for a store that then does not answer."""
    rig.add("a")
    await rig.cache.find("a")
    rig.clock.advance(5.0)
    rig.store.gate = asyncio.Event()
    rig.store.fault = Unavailable("away")
    finding = rig.spawn(rig.cache.find("a"), name="find")
    await settle_loop()
    rig.cache.forget("a")
    rig.store.gate.set()
    with pytest.raises(Unavailable):
        await finding
    await settle_loop()
    rig.spawn.errors.clear()


async def test_a_store_that_hangs_does_not_hold_up_known_keys(rig: Rig) -> None:
    """After half a second the first caller goes on under the grace, and the others do not wait at all until the store answers."""
    known = rig.add("a")
    await rig.cache.find("a")
    rig.clock.advance(5.0)
    rig.store.gate = asyncio.Event()
    finding = rig.spawn(rig.cache.find("a"), name="find")
    await rig.clock.run_for(0.4)
    assert not finding.done()
    await rig.clock.run_for(0.1)
    assert await finding == known
    await rig.clock.run_for(5.0)
    assert await rig.cache.find("a") == known
    assert rig.store.asked == ["a", "a"]
    new = rig.add("a", 2)
    rig.cache.forget("a")
    rig.store.gate.set()
    assert await rig.cache.find("a") == new


async def test_an_unknown_key_is_remembered_for_a_moment_only(rig: Rig) -> None:
    """Two seconds without asking again; a key made meanwhile is good as soon as we are told."""
    assert await rig.cache.find("a") is None
    assert await rig.cache.find("a") is None
    assert len(rig.store.asked) == 1
    rig.clock.advance(2.0)
    assert await rig.cache.find("a") is None
    assert len(rig.store.asked) == 2
    expected = rig.add("a")
    rig.cache.forget("a")
    assert await rig.cache.find("a") == expected


async def test_what_is_kept_is_bounded(rig: Rig) -> None:
    """Known and unknown keys have each their own bound: inventing keys pushes out no real one."""
    for name in "abc":
        rig.add(name)
        await rig.cache.find(name)
    for number in range(50):
        assert await rig.cache.find(f"invented{number}") is None
    assert len(rig.cache) == 6
    asked = len(rig.store.asked)
    for name in "abc":
        assert await rig.cache.find(name) is not None
    assert len(rig.store.asked) == asked
    rig.add("d")
    await rig.cache.find("d")
    assert len(rig.cache) == 6


async def test_look_ups_at_a_time_are_bounded(rig: Rig) -> None:
    """A flood of invented keys gets 503 beyond the bound; keys that are known are served beside it."""
    known = rig.add("a")
    await rig.cache.find("a")
    rig.store.gate = asyncio.Event()
    waiting = [rig.spawn(rig.cache.find(f"invented{number}"), name="find") for number in range(4)]
    await settle_loop()
    with pytest.raises(Unavailable):
        await rig.cache.find("one more")
    assert await rig.cache.find("a") == known
    rig.store.gate.set()
    assert await asyncio.gather(*waiting) == [None] * 4
    assert await rig.cache.find("one more") is None


async def test_a_faulty_store_lets_nobody_in(rig: Rig) -> None:
    """An exception nobody foresaw, or a record of another key, is an error for the caller and told to the log."""
    rig.store.fault = RuntimeError("bug")
    with pytest.raises(Unavailable):
        await rig.cache.find("a")
    rig.store.fault = None
    rig.store.records["a"] = record("b")
    with pytest.raises(Internal):
        await rig.cache.find("a")
    await settle_loop()
    assert [type(error) for error in rig.spawn.errors] == [RuntimeError, Internal]
    rig.spawn.errors.clear()


async def test_stopping_while_a_look_up_runs_leaves_nobody_waiting(rig: Rig) -> None:
    """The task of the look-up is cancelled at shutdown: who waits is told 503."""
    rig.store.gate = asyncio.Event()
    finding = asyncio.ensure_future(rig.cache.find("a"))
    await settle_loop()
    await rig.spawn.close()
    with pytest.raises(Unavailable):
        await finding


async def test_what_is_at_hand_is_what_would_be_found_at_once(rig: Rig) -> None:
    """While it is asked for again, or may not be yet, nobody need wait for it; who has to begin that, or finds it too old, has to ask."""
    assert rig.cache.at_hand("a") is None
    expected = rig.add("a")
    await rig.cache.find("a")
    assert rig.cache.at_hand("a") == expected
    rig.clock.advance(2.0)
    assert rig.cache.at_hand("a") is None
    rig.store.gate = asyncio.Event()
    assert await rig.cache.find("a") == expected
    assert rig.cache.at_hand("a") == expected
    rig.clock.advance(2.0)
    assert rig.cache.at_hand("a") is None
    rig.store.gate.set()
    await settle_loop()
    assert rig.cache.at_hand("a") == expected
    rig.store.fault = Unavailable("away")
    rig.clock.advance(2.0)
    assert await rig.cache.find("a") == expected
    await settle_loop()
    assert rig.cache.at_hand("a") == expected
    rig.cache.forget("a")
    assert rig.cache.at_hand("a") is None
