"""A line in which nobody's backlog is in anybody else's way: who waits for a slot, and who is next.

Three levels, and one rule for each:

- **class**: live goes before batch and batch before shadow, by weight: with all three waiting, live gets 64 parts of the time,
  batch 8 and shadow 1, so that eight live calls pass before a batch call has its turn; a class alone gets everything.
- **tenant** and, within it, **key**: the next slot goes to whoever holds the fewest; among equals to who has been given the
  least time since they began to wait together, then to who has waited longest for a turn.

Within one key it is first come, first served. Nobody saves up for later: who begins to wait counts as having had as
much as the one who had least. A call of several choices whose turn it is waits until all its slots are free, and nobody overtakes
it meanwhile, or it would wait for ever.

Pure bookkeeping: no clock, no tasks. Each choice looks at every flow that waits, which the bound of the line keeps few.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

WEIGHTS: Final = {"live": 64.0, "batch": 8.0, "shadow": 1.0}
"""Classes of traffic by weight. Every other kind of traffic (canary, probe) is live: somebody waits for its answer."""
LIVE: Final = "live"
_SMOOTHING: Final = 8
"""An observation counts one part in this many."""

Path = tuple[str, str, str]
"""Class, tenant and key of a call."""


class Entry:
    """A call in the line, or one that holds its slots."""

    __slots__ = ("flow", "path", "slots")

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self.slots = slots
        self.flow: Flow[Entry] | None = None


E = TypeVar("E", bound=Entry)


class Flow(Generic[E]):
    """A class, a tenant in it, or a key in that. It exists while calls of it wait or hold slots."""

    __slots__ = ("children", "held", "line", "name", "pace", "parent", "since", "turn", "used", "waiting", "weight")

    def __init__(self, name: str, parent: "Flow[E] | None", weight: float) -> None:
        self.name = name
        self.parent = parent
        self.weight = weight
        self.children: dict[str, Flow[E]] = {}
        self.line: deque[E] = deque()
        """A key's calls, oldest first."""
        self.waiting = 0
        """Slots that its waiting calls ask for."""
        self.held = 0
        """Slots that its running calls hold."""
        self.used = 0.0
        """Slot-seconds it was given, on the scale of its siblings."""
        self.turn = -1
        """When it was served last, in turns of the line; -1 never."""
        self.pace = 0.0
        """Of a key: seconds between two slots while it waits for some; 0 before that was seen."""
        self.since = 0.0
        """Of a key: when it began to wait for the next slot."""


class FairLine(Generic[E]):
    """The calls that wait for slots, and the slots that running calls hold. `typical` is how long a call is expected to hold one."""

    def __init__(self) -> None:
        self.typical = 1.0
        self._root: Flow[E] = Flow("", None, 1.0)
        self._turns = 0
        self._pinned: E | None = None
        self._calls: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._root.held

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._root.waiting

    def calls(self, kind: str) -> int:
        """Calls of a class that wait."""
        return self._calls.get(kind, 0)

    def join(self, entry: E, now: float) -> None:
        """To the end of its key's line."""
        flow = self._flow(entry)
        if not flow.waiting:
            flow.since = now
        flow.line.append(entry)
        self._calls[entry.path[0]] = self.calls(entry.path[0]) + 1
        self._move(flow, waiting=entry.slots)

    def seat(self, entry: E) -> None:
        """Straight to its slots, past an empty line."""
        self._serve(self._flow(entry), entry.slots)

    def next(self) -> E | None:
        """Whose turn it is."""
        if self._pinned is not None:
            return self._pinned
        flow = self._root
        if not flow.waiting:
            return None
        while flow.children:
            rank: Callable[[Flow[E]], tuple[float, ...]] = self._finish if flow.parent is None else _rank
            flow = min((child for child in flow.children.values() if child.waiting), key=rank)
        return flow.line[0]

    def pin(self, entry: E) -> None:
        """It stays next until it is served or dropped, whoever comes: some of its slots are free and wait for it."""
        self._pinned = entry

    def serve(self, entry: E, now: float) -> None:
        """Out of the line, to its slots. `entry` must be the first of its key, as `next` finds it."""
        flow = self._leave(entry)
        taken = (now - flow.since) / entry.slots
        flow.pace += (taken - flow.pace) / _SMOOTHING if flow.pace else taken
        flow.since = now
        self._serve(flow, entry.slots)

    def drop(self, entry: E) -> None:
        """Out of the line, for good."""
        self._tidy(self._leave(entry))

    def free(self, entry: E, seconds: float) -> None:
        """Its slots are free again after `seconds`."""
        flow = _flow_of(entry)
        entry.flow = None
        spent = entry.slots * seconds
        node: Flow[E] | None = flow
        while node is not None:
            node.held -= entry.slots
            node.used += spent
            node = node.parent
        self._tidy(flow)

    # --- estimates -------------------------------------------------------------------------------------------------

    def at_its_pace(self, path: Path) -> float:
        """Seconds until the calls of its key that wait already will be served, at the pace of the last ones; 0 where there are none.

        Unlike `ahead` this knows of the others who keep coming.
        """
        key = self._chain(path)[2][1]
        return key.waiting * key.pace if key is not None else 0.0

    def ahead(self, path: Path, slots: int) -> int:
        """How many slots will probably be given to others before a call that joins now gets its own, of `slots` in all.

        At each level the newcomer's flow first catches up with its fair share, and then takes turns with every other one that waits.
        """
        chain = self._chain(path)
        fair = float(slots)
        shares = []
        for parent, mine in chain[1:]:
            fair /= 1 if parent is None else 1 + sum(child is not mine for child in parent.children.values())
            shares.append(fair)
        before = chain[2][1].waiting if chain[2][1] is not None else 0
        for (parent, mine), fair in zip(reversed(chain[1:]), reversed(shares), strict=True):
            if parent is None:
                continue
            turns = before - max(0.0, fair - (mine.held if mine is not None else 0))
            for other in parent.children.values():
                if other is not mine and other.waiting:
                    before += min(other.waiting, max(0, round(turns + max(0.0, fair - other.held))))
        return before + self._ahead_of_class(path[0], before)

    def _ahead_of_class(self, kind: str, before: int) -> int:
        """Slots that other classes get while this one gets `before` and one more."""
        mine = self._root.children.get(kind)
        others = [other for other in self._root.children.values() if other is not mine]
        weight = WEIGHTS[kind]
        share = self._share(mine) if mine is not None else 0.0
        if mine is None or not mine.waiting:
            share = max(share, min((self._share(other) for other in others), default=0.0))
        share += (before + 1) * self.typical / weight
        total = 0
        for other in others:
            gap = (share - self._share(other)) * other.weight / self.typical
            turns = math.floor(gap) if other.weight > weight else math.ceil(gap) - 1
            total += min(other.waiting, max(0, turns))
        return total

    def longest(self, entry: E) -> E | None:
        """Who must make room for `entry` in a full line: the newest call of the longest line of its class; None when that is its own."""
        (_, kind), (_, tenant), (_, key) = self._chain(entry.path)
        if kind is None or not kind.waiting:
            return None
        longest = max(kind.children.values(), key=_waiting)
        if longest is not tenant and longest.waiting > _waiting(tenant) + entry.slots:
            return max(longest.children.values(), key=_waiting).line[-1]
        if tenant is not None and tenant.waiting:
            other = max(tenant.children.values(), key=_waiting)
            if other is not key and other.waiting > _waiting(key) + entry.slots:
                return other.line[-1]
        return None

    # --- inside ----------------------------------------------------------------------------------------------------

    def _chain(self, path: Path) -> list[tuple[Flow[E] | None, Flow[E] | None]]:
        """(parent, flow) of each level of a path; None where there is none."""
        chain: list[tuple[Flow[E] | None, Flow[E] | None]] = []
        parent: Flow[E] | None = self._root
        for name in path:
            flow = parent.children.get(name) if parent is not None else None
            chain.append((parent, flow))
            parent = flow
        return chain

    def _flow(self, entry: E) -> Flow[E]:
        """The flow of its key, made when there is none; every flow on the way that did not wait is set beside its siblings."""
        flow = self._root
        for level, name in enumerate(entry.path):
            child = flow.children.get(name)
            if child is None:
                child = flow.children[name] = Flow(name, flow, WEIGHTS[name] if level == 0 else 1.0)
            if not child.waiting:
                shares = [self._share(other) if level == 0 else other.used for other in flow.children.values() if other is not child]
                if shares:
                    child.used = max(child.used, min(shares) * child.weight - (child.held * self.typical if level == 0 else 0.0))
            flow = child
        entry.flow = flow  # type: ignore[assignment]
        return flow

    def _leave(self, entry: E) -> Flow[E]:
        flow = _flow_of(entry)
        if self._pinned is entry:
            self._pinned = None
        if flow.line[0] is entry:
            flow.line.popleft()
        else:
            flow.line.remove(entry)
        self._calls[entry.path[0]] -= 1
        self._move(flow, waiting=-entry.slots)
        return flow

    def _serve(self, flow: Flow[E], slots: int) -> None:
        self._turns += 1
        node: Flow[E] | None = flow
        while node is not None:
            node.held += slots
            node.turn = self._turns
            node = node.parent

    @staticmethod
    def _move(flow: Flow[E], *, waiting: int) -> None:
        node: Flow[E] | None = flow
        while node is not None:
            node.waiting += waiting
            node = node.parent

    @staticmethod
    def _tidy(flow: Flow[E]) -> None:
        """Forget flows of which nothing waits and nothing runs."""
        node = flow
        while node.parent is not None and not node.waiting and not node.held:
            del node.parent.children[node.name]
            node = node.parent
        if node.parent is None and not node.children:
            node.used = 0.0

    def _share(self, kind: Flow[E]) -> float:
        """What a class has had for its weight, its running calls counted in full."""
        return (kind.used + kind.held * self.typical) / kind.weight

    def _finish(self, kind: Flow[E]) -> tuple[float, ...]:
        """What it will have had with one more; among equals the heavier goes first."""
        return self._share(kind) + self.typical / kind.weight, -kind.weight


def _rank(flow: Flow[E]) -> tuple[float, ...]:
    return flow.held, flow.used, flow.turn


def _waiting(flow: Flow[E] | None) -> int:
    return flow.waiting if flow is not None else 0


def _flow_of(entry: E) -> Flow[E]:
    assert entry.flow is not None
    return entry.flow  # type: ignore[return-value]
