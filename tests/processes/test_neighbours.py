"""What servers tell each other of targets: two stewards' ends on one hub, and hostile words."""

import asyncio
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.state.memory_broadcast import MemoryBroadcast, MemoryHub
from gatehouse.core.plans import Breaker
from gatehouse.core.targets import TargetState
from gatehouse.processes.neighbours import (
    MESSAGE_COST,
    MOST_OF_ALL,
    MOST_OF_ONE,
    MOST_SERVERS,
    MOST_TARGETS,
    SILENCE_SECONDS,
    Neighbours,
    Place,
)
from gatehouse.processes.protocol import TargetsTold
from gatehouse.processes.target_board import TargetBoard
from gatehouse.testing.fakes import FakeClock, settle_loop

PLACE = Place(b"place-01", Breaker(longest=8.0, rest=60.0, quarantine=300.0))
PLACES = {"lab/m": PLACE, "lab/n": PLACE}


class Server:
    """A steward's board and what it tells its workers; `told` is what a worker would get."""

    def __init__(self, name: str, hub: MemoryHub, clock: FakeClock) -> None:
        self.told: list[TargetsTold] = []
        self.broadcast = MemoryBroadcast(hub)
        self.board = TargetBoard(clock, lambda state: None)
        self.neighbours = Neighbours(name * 16, self.broadcast, clock, self.board.together, self.told.append)
        self.neighbours.share(PLACES)

    async def change(self, *states: TargetState, worker: str = "w0") -> None:
        """A worker finds something out."""
        self.board.take(worker, TargetsTold(states, everything=False), ())
        self.neighbours.changed(states)
        await settle_loop()

    async def beat(self, *states: TargetState, worker: str = "w0") -> None:
        """A worker tells everything, and a second is over."""
        self.board.take(worker, TargetsTold(states), ())
        self.neighbours.beat()
        await settle_loop()

    def news(self) -> list[TargetState]:
        """What workers were told as news, and forget it."""
        found = [state for told in self.told if not told.everything for state in told.states]
        self.told.clear()
        return found

    def loads(self) -> dict[str, tuple[int, int]]:
        """Calls and work of others by target, as workers were last told, and forget it."""
        last = {told.origin: told.states for told in self.told if told.everything}
        self.told.clear()
        return {state.target: (state.running, state.work) for states in last.values() for state in states}


class Town:
    """Two servers and a way to speak to both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.hub = MemoryHub()
        self.one = Server("1", self.hub, self.clock)
        self.two = Server("2", self.hub, self.clock)
        self.stranger = MemoryBroadcast(self.hub)
        self.stranger.listen(lambda message: None)

    async def say(self, *words: Any, server: str = "a" * 16, everything: bool = False, version: int = 1) -> None:
        """What somebody says who need not be one of us."""
        self.stranger.send(msgspec.msgpack.encode([version, server, everything, words]))
        await settle_loop()


@pytest.fixture
async def town() -> Town:
    return Town()


def word(target: str = "lab/m", condition: str = "open", seconds: Any = 5.0, **more: Any) -> list[Any]:
    fields = {"place": PLACE.digest, "reason": "upstream_broken", "running": 0, "work": 0, "first_event": -1.0, "age": 0.0, **more}
    return [target, fields["place"], condition, seconds, fields["reason"], *(fields[n] for n in ("running", "work", "first_event", "age"))]


OPEN = TargetState("lab/m", "open", 5.0, "upstream_broken")
WELL = TargetState("lab/m")


async def test_a_change_is_told_as_it_happens(town: Town) -> None:
    """What a worker of one server finds out reaches the workers of the other without waiting for the second to be over."""
    await town.one.change(OPEN)
    assert town.two.news() == [OPEN]
    assert town.one.news() == []
    await town.one.change(WELL)
    assert town.two.news() == [WELL]


async def test_well_again_by_whoever_tried(town: Town) -> None:
    """A server that never said anything against a target may be the first to find it well: the one that did hears so."""
    await town.one.change(OPEN)
    await town.two.change(WELL)
    assert town.one.news() == [WELL]


async def test_what_is_only_heard_is_not_told_on(town: Town) -> None:
    """A worker that repeats what another said, of this server or of another, is no witness."""
    await town.two.change(msgspec.structs.replace(OPEN, own=False))
    await town.two.beat(msgspec.structs.replace(OPEN, own=False))
    assert town.one.news() == []


async def test_a_lost_message_is_made_good(town: Town) -> None:
    """The second's words differ from what was known: that is news, once; also that a target is well again."""
    town.one.board.take("w0", TargetsTold((OPEN,), everything=False), ())
    await town.one.beat(OPEN)
    assert town.two.news() == [OPEN]
    await town.one.beat(OPEN)
    assert town.two.news() == []
    await town.one.beat(TargetState("lab/m", "half_open"))
    assert town.two.news() == []
    await town.one.beat()
    assert town.two.news() == [WELL]


async def test_work_of_all_workers_counts_as_one(town: Town) -> None:
    """Calls and work of a server's workers are added up; what is measured last is told with its age."""
    town.one.board.take("w1", TargetsTold((TargetState("lab/m", running=2, work=20, first_event=0.5, age=3.0),)), ())
    await town.one.beat(TargetState("lab/m", running=1, work=10, first_event=0.2, age=1.0))
    (told,) = town.two.told
    assert told == TargetsTold((TargetState("lab/m", running=3, work=30, first_event=0.2, age=1.0),), True, "server-" + "1" * 16)
    await town.one.beat()
    town.one.board.ended("w1", ())
    await town.one.beat()
    assert town.two.loads() == {}


async def test_a_found_target_is_not_put_out_by_an_older_word(town: Town) -> None:
    """One worker found the target well: what another said before that no longer counts."""
    town.one.board.take("w1", TargetsTold((OPEN,)), ())
    await town.one.change(OPEN)
    town.clock.advance(0.5)
    await town.one.change(WELL)
    town.two.news()
    await town.one.beat()
    assert town.two.news() == []


async def test_who_is_silent_is_forgotten(town: Town) -> None:
    """A server that died: its work no longer counts after a few seconds, and what it left alone is asked again when its term ends."""
    await town.one.beat(TargetState("lab/m", running=7, work=70))
    assert town.two.loads() == {"lab/m": (7, 70)}
    await town.one.broadcast.close()
    town.clock.advance(SILENCE_SECONDS)
    await town.two.beat()
    assert (town.two.told, town.two.neighbours.servers) == ([], 1)
    town.clock.advance(0.1)
    await town.two.beat()
    assert town.two.told == [TargetsTold((), True, "server-" + "1" * 16)]
    assert town.two.neighbours.servers == 0


async def test_a_new_worker_is_told_what_the_others_said(town: Town) -> None:
    """With the seconds that are left."""
    await town.one.change(OPEN)
    await town.one.beat(OPEN, TargetState("lab/n", running=1, work=5))
    town.clock.advance(2.0)
    told: list[TargetsTold] = []
    town.two.neighbours.welcome(told.append)
    assert [(each.everything, {(state.target, state.seconds, state.running) for state in each.states}) for each in told] == [
        (True, {("lab/m", 5.0, 0), ("lab/n", 0.0, 1)}),
        (False, {("lab/m", 3.0, 0)}),
    ]


async def test_only_what_this_configuration_has(town: Town) -> None:
    """A target that is not here, or has the same name and is somewhere else, is neither told of nor heard of."""
    await town.say(word("elsewhere/m"), word(place=b"place-02"), everything=True)
    await town.say(word("elsewhere/m"), word(place=b"place-02"))
    assert town.one.news() == []
    town.one.neighbours.share({})
    await town.one.change(OPEN)
    await town.say(word())
    assert town.one.news() == []
    assert [state.target for state in town.two.news()] == ["lab/m"]


@pytest.mark.parametrize(
    ("condition", "seconds", "most"), [("open", 1e9, 9.6), ("resting", float("inf"), 60.0), ("quarantined", 1e300, 300.0)]
)
async def test_no_term_is_longer_than_our_own(town: Town, condition: str, seconds: float, most: float) -> None:
    """However long another says, a target is left alone as long as this configuration would at most."""
    await town.say(word(condition=condition, seconds=seconds))
    (state,) = town.one.news()
    assert (state.condition, state.seconds) == (condition, most)


@pytest.mark.parametrize(
    "strange",
    [
        word(seconds=float("nan")),
        word(seconds=-1.0),
        word(seconds=0),
        word(condition="haunted"),
        word(condition="half_open"),
    ],
)
async def test_what_makes_no_sense_puts_nothing_out(town: Town, strange: list[Any]) -> None:
    """No number, a term that is over, a condition from another time: no news."""
    await town.say(strange)
    assert town.one.news() == []


async def test_figures_and_words_are_bounded(town: Town) -> None:
    """Impossible figures are cut or dropped, and a reason is a code or nothing: it is shown to operators."""
    wild = word(running=-5, work=2**60, first_event=float("nan"), age=-1.0, reason="\x1b[31m a long story")
    await town.say(wild, word("lab/n", running=2**63, first_event=1.0, age=1e9), everything=True)
    assert town.one.told[0].states == (
        TargetState("lab/m", "open", 5.0, "", 0, 1_000_000_000),
        TargetState("lab/n", "open", 5.0, "upstream_broken", 1_000_000),
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"\xc1",
        b"\x91" * 5000 + b"\x01",
        msgspec.msgpack.encode([2, "a" * 16, False, []]),
        msgspec.msgpack.encode([1, "not hex at all!!", False, []]),
        msgspec.msgpack.encode([1, "a" * 16, False, [["lab/m"]]]),
        msgspec.msgpack.encode([1, "a" * 16, False, [word()] * (MOST_TARGETS + 1)]),
        msgspec.msgpack.encode([1, "a" * 16, False, [word("x" * 600)]]),
        msgspec.msgpack.encode({"version": 1}),
        b"\xdd\xff\xff\xff\xff",
    ],
)
async def test_what_cannot_be_read_is_counted(town: Town, raw: bytes) -> None:
    """Whatever bytes come, nothing breaks and nobody is told."""
    town.stranger.send(raw)
    await settle_loop()
    assert (town.one.told, town.one.neighbours.servers, town.one.neighbours.counts["unreadable"]) == ([], 0, 1)


async def test_a_later_version_adds_at_the_end(town: Town) -> None:
    """Fields that this version does not know are passed over."""
    town.stranger.send(msgspec.msgpack.encode([1, "a" * 16, False, [[*word(), "new", {"more": 1}]], "even more"]))
    await settle_loop()
    assert [state.condition for state in town.one.news()] == ["open"]


async def test_an_echo_is_not_heard(town: Town) -> None:
    """Who takes this server's name tells it nothing."""
    await town.say(word(), server="1" * 16)
    assert town.one.news() == []


async def test_too_many(town: Town) -> None:
    """Messages of one server, and of all, beyond a bound in a second, and servers beyond a bound, are passed over; the next second goes
    on."""
    taken = MOST_OF_ONE // (MESSAGE_COST + 1)
    for _ in range(taken + 5):
        await town.say(word())
    assert town.one.neighbours.counts["too_many"] == 5
    town.one.told.clear()
    town.clock.advance(1.0)
    await town.say(word())
    assert len(town.one.news()) == 1
    for number in range(MOST_SERVERS + 3):
        await town.say(server=f"{number:016x}", everything=True)
    assert town.one.neighbours.servers == MOST_SERVERS
    town.clock.advance(1.0)
    before = town.one.neighbours.counts["taken"]
    for number in range(MOST_OF_ALL // MESSAGE_COST + 100):
        await town.say(server=f"{number % 150:016x}", everything=True)
    assert town.one.neighbours.counts["taken"] == before + MOST_OF_ALL // MESSAGE_COST


async def test_what_is_said_fits_whatever_there_is(town: Town) -> None:
    """A server with more targets than a message takes tells of those first that are left alone, then of the busiest."""
    names = [f"lab/{number}-{'x' * 400}" for number in range(MOST_TARGETS + 10)]
    places = dict.fromkeys(names, PLACE)
    for server in (town.one, town.two):
        server.neighbours.share(places)
    states = [TargetState(name, running=number + 1) for number, name in enumerate(names)]
    await town.one.beat(*states[:-1], TargetState(names[0], "open", 5.0, "upstream_broken"))
    told = next(told for told in town.two.told if told.everything)
    assert 100 < len(told.states) <= MOST_TARGETS
    assert told.states[0].condition == "open"
    assert told.states[1].running == len(names) - 1
    assert town.two.neighbours.counts["unreadable"] == 0


async def test_no_message_breaks_anything(town: Town) -> None:
    """A good message with any of its bytes changed, in several ways, is taken or passed over."""
    good = msgspec.msgpack.encode([1, "a" * 16, True, [word(), word("lab/n", "closed", 0.0, running=3)]])
    loop = asyncio.get_running_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    for number in range(1000):
        at = number % len(good)
        town.stranger.send(good[:at] + bytes([(good[at] + number // len(good) * 37 + 1) % 256]) + good[at + 1 :])
        town.clock.advance(0.02)
        await settle_loop(2)
    assert problems == []
