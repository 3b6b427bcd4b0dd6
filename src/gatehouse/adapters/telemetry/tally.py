"""Counters of one process, cheap enough for every call.

A worker adds into plain dictionaries and sends cumulative snapshots to the steward, which alone renders them (`exposition`). Labels come
from closed sets (configured models and targets, outcomes, error codes); as a last line of defence a family that grows past
its bound folds new label values into "other".
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from gatehouse.core.ports import Number

SERIES_BOUND: Final = 2_000


class Family(msgspec.Struct, frozen=True):
    """A metric of the product: its name, help, label names, and for histograms the upper bounds of the buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_TINY: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)

FAMILIES: Final[tuple[Family, ...]] = (
    Family("gatehouse_requests_total", "counter", "Calls that ended.", ("model", "target", "outcome", "error", "cache")),
    Family("gatehouse_tokens_total", "counter", "Tokens used, in disjoint buckets.", ("model", "target", "bucket")),
    Family("gatehouse_cost_usd_units_total", "counter", "Charges in units of 10^-10 USD.", ("model", "target")),
    Family("gatehouse_request_duration_seconds", "histogram", "From the first byte of a call to its last.", ("model", "outcome"), _SECONDS),
    Family("gatehouse_time_to_first_event_seconds", "histogram", "Until the answer began.", ("model",), _SECONDS),
    Family("gatehouse_stage_duration_seconds", "histogram", "Time a stage's admit took.", ("stage",), _TINY),
    Family("gatehouse_running", "gauge", "Calls being carried.", ()),
    Family("gatehouse_target_running", "gauge", "Calls a target is answering.", ("target",)),
    Family("gatehouse_target_waiting", "gauge", "Calls that wait for a slot of a target.", ("target",)),
    Family("gatehouse_target_wait_seconds", "histogram", "How long calls that had to wait for a slot waited.", ("target",), _SECONDS),
    Family(
        "gatehouse_target_turned_away_total",
        "counter",
        "Calls that a target's line would not take or keep: full, displaced, deadline, late.",
        ("target", "reason"),
    ),
    Family("gatehouse_connections", "gauge", "Open client connections.", ()),
    Family("gatehouse_attempts_failed_total", "counter", "Attempts at a target that failed before the first event.", ("target", "error")),
    Family(
        "gatehouse_provider_keys_aside_total",
        "counter",
        "How often one of several keys of a provider was left aside, by its place: refused or limited.",
        ("provider", "key", "said"),
    ),
    Family("gatehouse_target_out", "gauge", "Workers that leave a target alone, by state.", ("target", "state")),
    Family("gatehouse_target_changes_total", "counter", "How often a target came into a state, as a worker saw it.", ("target", "state")),
    Family("gatehouse_retries_refused_total", "counter", "Further attempts that the retry budget did not allow.", ("model",)),
    Family("gatehouse_hedges_total", "counter", "Calls for which a second target was asked; won: it began first.", ("model", "result")),
    Family("gatehouse_degraded_total", "counter", "Calls that a lower rung answered: model, embedded, stale, text.", ("model", "rung")),
    Family("gatehouse_guard_findings_total", "counter", "Calls in which a guard rule found something, in or out.", ("rule",)),
    Family("gatehouse_over_hold_total", "counter", "Charges above their hold.", ("target",)),
    Family("gatehouse_journal_errors_total", "counter", "Records the journal could not take.", ()),
    Family("gatehouse_worker_restarts_total", "counter", "Workers that had to be started again.", ()),
    Family("gatehouse_state_connected", "gauge", "Whether other servers can be told and heard (1) or not (0).", ()),
    Family("gatehouse_state_servers", "gauge", "Other servers that were heard of in the last seconds.", ()),
    Family(
        "gatehouse_state_messages_total",
        "counter",
        "Messages between servers: sent, taken, and not taken because unreadable or too_many.",
        ("result",),
    ),
    Family("gatehouse_errands_total", "counter", "Requests on the data port that were no calls, by path and status.", ("path", "status")),
    Family("gatehouse_bad_requests_total", "counter", "Requests that were not HTTP we accept.", ("code",)),
)
BY_NAME: Final = {family.name: family for family in FAMILIES}

Key = tuple[str, tuple[str, ...]]


class Snapshot(msgspec.Struct, array_like=True):
    """Everything a process has counted so far. Histograms are bucket counts, then count, then sum."""

    numbers: list[tuple[str, tuple[str, ...], int]]
    histograms: list[tuple[str, tuple[str, ...], list[int], float]]


class _Number:
    """One counter or gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Histogram:
    """One histogram: how many values each bucket got, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class ProcessTally:
    """Implements `Tally` for one process."""

    def __init__(self) -> None:
        self._numbers: dict[Key, _Number] = {}
        self._histograms: dict[Key, _Histogram] = {}
        self._sizes: dict[str, int] = {}

    def count(self, name: str, labels: tuple[str, ...] = (), amount: int = 1) -> None:
        """See `Tally`."""
        number = self._numbers.get((name, labels)) or self._number(name, labels)
        number.value += amount

    def gauge(self, name: str, labels: tuple[str, ...], change: int) -> None:
        """See `Tally`."""
        self.count(name, labels, change)

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """See `Tally`."""
        histogram = self._histograms.get((name, labels)) or self._histogram(name, labels)
        histogram.add(value)

    def counter(self, name: str, labels: tuple[str, ...] = ()) -> Number:
        """See `Tally`."""
        return self._numbers.get((name, labels)) or self._number(name, labels)

    def histogram(self, name: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        """See `Tally`."""
        return (self._histograms.get((name, labels)) or self._histogram(name, labels)).add

    def _number(self, name: str, labels: tuple[str, ...]) -> "_Number":
        return self._numbers.setdefault(self._admit((name, labels)), _Number())

    def _histogram(self, name: str, labels: tuple[str, ...]) -> "_Histogram":
        return self._histograms.setdefault(self._admit((name, labels)), _Histogram(BY_NAME[name].buckets))

    def _admit(self, key: Key) -> Key:
        name, labels = key
        if len(labels) != len(BY_NAME[name].labels):
            raise ValueError(f"{name} has labels {BY_NAME[name].labels}, not {labels}")
        size = self._sizes.get(name, 0)
        if size >= SERIES_BOUND:
            return name, ("other",) * len(labels)
        self._sizes[name] = size + 1
        return key

    def value(self, name: str, labels: tuple[str, ...] = ()) -> int:
        """A counter or gauge as it stands; 0 when never touched."""
        number = self._numbers.get((name, labels))
        return 0 if number is None else number.value

    def snapshot(self) -> bytes:
        """Everything so far, encoded for `merge`."""
        return msgspec.msgpack.encode(
            Snapshot(
                [(name, labels, number.value) for (name, labels), number in self._numbers.items()],
                [(name, labels, each.counts, each.total) for (name, labels), each in self._histograms.items()],
            )
        )
