"""What servers tell each other of targets: the steward's word to the others, and how much of theirs it believes.

A server says what has changed as it happens, and once a second everything. What it hears may be late, made up, or from a version of
another time, so nothing of it is taken but for targets that stand in this configuration and are at the same place, never for longer
than this configuration would leave a target alone, and bounded in size and number. Whoever is silent for a few seconds is forgotten.
A message that was lost is made good by the next second's: what differs from what a server said before is news.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gatehouse.core.plans import Breaker
from gatehouse.core.ports import LARGEST_BROADCAST, Broadcast, Clock
from gatehouse.core.targets import Condition, TargetState
from gatehouse.processes.protocol import TargetsTold
from gatehouse.processes.target_board import OUT, Send

BEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 4.0
"""After so long without a word a server counts as gone."""
MOST_TARGETS: Final = 1_000
"""Targets that one message tells of; those with something against them come first, then those with most to do."""
MOST_SERVERS: Final = 200
MESSAGE_COST: Final = 30
"""A message costs as much as so many targets, beside those it tells of."""
MOST_OF_ONE: Final = 3_000
"""What the messages of one server may cost in a second: two full ones, or a hundred changes. More are passed over."""
MOST_OF_ALL: Final = 30_000
"""Likewise of all servers."""
MOST_RUNNING: Final = 1_000_000
MOST_WORK: Final = 1_000_000_000
OLDEST: Final = 600.0
"""Seconds after which a measurement says nothing."""
SLOWEST: Final = 3_600.0
OPEN_SPREAD: Final = 1.2
"""A breaker is open for up to so many times its policy's seconds, by chance."""
_REASON: Final = re.compile(r"[a-z0-9_]{1,64}")
_CONDITIONS: Final[dict[str, Condition]] = {"closed": "closed", "open": "open", "resting": "resting", "quarantined": "quarantined"}


class Place(msgspec.Struct, frozen=True):
    """A target as this configuration has it: where it is, and how long it may be left alone."""

    digest: bytes
    """Equal for two servers that mean the same."""
    breaker: Breaker


class _Word(msgspec.Struct, frozen=True, array_like=True):
    """Of one target, on the wire. Later versions add at the end; unknown ends are passed over."""

    target: Annotated[str, Meta(max_length=512)]
    place: Annotated[bytes, Meta(max_length=32)]
    condition: Annotated[str, Meta(max_length=32)]
    seconds: float
    reason: Annotated[str, Meta(max_length=128)]
    running: int
    work: int
    first_event: float
    age: float


class _Speech(msgspec.Struct, frozen=True, array_like=True):
    """One message."""

    version: Literal[1]
    server: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
    everything: bool
    words: Annotated[tuple[_Word, ...], Meta(max_length=MOST_TARGETS)]


class _Budget:
    """What is taken in a second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._since = 0.0
        self._spent = 0

    def takes(self, now: float, cost: int) -> bool:
        """Whether so much more is taken in this second."""
        if now - self._since >= 1.0:
            self._since, self._spent = now, 0
        self._spent += cost
        return self._spent <= self._most


class _Neighbour:
    """One other server."""

    def __init__(self, name: str) -> None:
        self.origin = f"server-{name}"
        self.at = 0.0
        self.budget = _Budget(MOST_OF_ONE)
        self.out: dict[str, TargetState] = {}
        """What it leaves alone, as it last said."""
        self.states: tuple[TargetState, ...] = ()
        """All that it has, as it last said."""


class Neighbours:
    """One per steward. `ours` is what this server has to say, `pass_on` tells every worker."""

    def __init__(
        self,
        name: str,
        broadcast: Broadcast,
        clock: Clock,
        ours: Callable[[], tuple[TargetState, ...]],
        pass_on: Callable[[TargetsTold], object],
    ) -> None:
        self._name = name
        self._broadcast = broadcast
        self._monotonic = clock.monotonic
        self._ours = ours
        self._pass_on = pass_on
        self._places: Mapping[str, Place] = {}
        self._servers: dict[str, _Neighbour] = {}
        self._budget = _Budget(MOST_OF_ALL)
        self._decoder = msgspec.msgpack.Decoder(_Speech)
        self.counts = dict.fromkeys(("sent", "taken", "unreadable", "too_many"), 0)
        """Messages, by what became of them."""
        broadcast.listen(self._hear)

    @property
    def problem(self) -> str:
        """ "" while other servers can be told and heard, else why not."""
        return self._broadcast.problem

    @property
    def servers(self) -> int:
        """How many others there are."""
        return len(self._servers)

    def share(self, places: Mapping[str, Place]) -> None:
        """The targets of the configuration now in force of which servers talk, by id; of all others nothing is said or heard."""
        self._places = places

    # --- what is said ----------------------------------------------------------------------------------------------

    def changed(self, states: Iterable[TargetState]) -> None:
        """A worker has just found something out: let the others know."""
        words = [state for state in states if state.own and (state.condition == "closed" or state.seconds > 0)]
        self._say(words, everything=False)

    def beat(self) -> None:
        """Once a second: say everything, and forget who has been silent."""
        self._say(sorted(self._ours(), key=_first_told), everything=True)
        now = self._monotonic()
        for name in [name for name, each in self._servers.items() if now - each.at > SILENCE_SECONDS]:
            self._pass_on(TargetsTold((), True, self._servers.pop(name).origin))

    def _say(self, states: Iterable[TargetState], *, everything: bool) -> None:
        words = tuple(
            _Word(
                state.target,
                place.digest,
                state.condition,
                state.seconds,
                state.reason,
                state.running,
                state.work,
                state.first_event,
                state.age,
            )
            for state in states
            if (place := self._places.get(state.target)) is not None
        )[:MOST_TARGETS]
        if not words and not everything:
            return
        message = msgspec.msgpack.encode(_Speech(1, self._name, everything, words))
        while len(message) > LARGEST_BROADCAST:
            words = words[: len(words) // 2]
            message = msgspec.msgpack.encode(_Speech(1, self._name, everything, words))
        self.counts["sent"] += 1
        self._broadcast.send(message)

    # --- what is heard ---------------------------------------------------------------------------------------------

    def welcome(self, send: Send) -> None:
        """Tell a worker that has just begun what the others said."""
        now = self._monotonic()
        for each in self._servers.values():
            send(TargetsTold(each.states, True, each.origin))
            gone = now - each.at
            left = tuple(msgspec.structs.replace(state, seconds=max(state.seconds - gone, 0.0)) for state in each.out.values())
            if left:
                send(TargetsTold(left, False, each.origin))

    def _hear(self, message: bytes) -> None:
        try:
            speech = self._decoder.decode(message)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
            # ValueError: text that is no UTF-8.
            self.counts["unreadable"] += 1
            return
        if speech.server == self._name:
            return
        now = self._monotonic()
        each = self._known(speech, now)
        if each is None:
            self.counts["too_many"] += 1
            return
        self.counts["taken"] += 1
        each.at = now
        believed = {word.target: _believed(word, place) for word in speech.words if (place := self._place(word)) is not None}
        news = self._news(each, believed, everything=speech.everything)
        if speech.everything:
            states = tuple(believed.values())
            if states or each.states:
                self._pass_on(TargetsTold(states, True, each.origin))
            each.states = states
        if news:
            self._pass_on(TargetsTold(tuple(news), False, each.origin))

    def _known(self, speech: _Speech, now: float) -> _Neighbour | None:
        """Who speaks; None when there is too much of it, or are too many."""
        cost = MESSAGE_COST + len(speech.words)
        each = self._servers.get(speech.server)
        if each is None and len(self._servers) < MOST_SERVERS:
            each = self._servers[speech.server] = _Neighbour(speech.server)
            each.at = now
        if each is None or not each.budget.takes(now, cost) or not self._budget.takes(now, cost):
            return None
        return each

    def _place(self, word: _Word) -> Place | None:
        """The target of ours that a word is about; None when we have none that is the same."""
        place = self._places.get(word.target)
        return place if place is not None and place.digest == word.place else None

    def _news(self, each: _Neighbour, believed: dict[str, TargetState], *, everything: bool) -> list[TargetState]:
        """What a change tells, and what of everything differs from what the server said before."""
        news = []
        for name, state in believed.items():
            before = each.out.get(name)
            if state.condition in OUT:
                if not everything or before is None or before.condition != state.condition:
                    news.append(state)
                each.out[name] = state
            elif state.condition == "closed":
                # Well again also where only somebody else had said that it was not.
                if not everything or before is not None:
                    news.append(state)
                each.out.pop(name, None)
            elif before is not None:
                each.out[name] = msgspec.structs.replace(before, seconds=0.0)
        if everything:
            for name in [name for name in each.out if name not in believed]:
                news.append(TargetState(name))
                del each.out[name]
        return news


def _first_told(state: TargetState) -> tuple[bool, int, int]:
    return (state.condition not in OUT, -state.running, -state.work)


def _believed(word: _Word, place: Place) -> TargetState:
    """What is taken of a word: nothing out of bounds, and no longer term than this configuration has for the same."""
    policy = place.breaker
    condition = _CONDITIONS.get(word.condition, "half_open")
    longest = {"open": policy.longest * OPEN_SPREAD, "resting": policy.rest, "quarantined": policy.quarantine}.get(condition, 0.0)
    # No number at all is not greater than 0.
    seconds = min(word.seconds, longest) if word.seconds > 0 else 0.0
    if condition in OUT and not seconds:
        condition = "half_open"
    measured = 0 <= word.first_event <= SLOWEST and 0 <= word.age <= OLDEST
    return TargetState(
        word.target,
        condition,
        seconds,
        word.reason if _REASON.fullmatch(word.reason) else "",
        min(max(word.running, 0), MOST_RUNNING),
        min(max(word.work, 0), MOST_WORK),
        word.first_event if measured else -1.0,
        age=word.age if measured else 0.0,
    )
