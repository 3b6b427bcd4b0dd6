"""The sum of every process's counters, in the Prometheus format. Lives in the steward; workers never import it."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gatehouse.adapters.telemetry.tally import BY_NAME, FAMILIES, Key, Snapshot

Number = tuple[str, tuple[str, ...], int]
Histogram = tuple[list[int], float]


class Exposition:
    """A dead process's counters stay in the sum, its gauges do not."""

    def __init__(self) -> None:
        self._alive: dict[str, Snapshot] = {}
        self._numbers: dict[Key, int] = {}
        self._histograms: dict[Key, Histogram] = {}

    def take(self, process: str, encoded: bytes) -> None:
        """Replace what is known of a living process."""
        self._alive[process] = msgspec.msgpack.decode(encoded, type=Snapshot)

    def ended(self, process: str) -> None:
        """Fold the counters of a process that is gone into the base."""
        snapshot = self._alive.pop(process, None)
        if snapshot is not None:
            _add(snapshot, self._numbers, self._histograms, gauges=False)

    def total(self, name: str) -> int:
        """A counter or gauge summed over labels and processes."""
        return sum(number for (family, _), number in self._sum()[0].items() if family == name)

    def render(self, own: Iterable[Number] = ()) -> bytes:
        """The Prometheus text format; `own` are figures of the steward itself."""
        numbers, histograms = self._sum()
        for name, labels, number in own:
            numbers[name, labels] = numbers.get((name, labels), 0) + number
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Sum(numbers, histograms))
        return generate_latest(registry)

    def _sum(self) -> tuple[dict[Key, int], dict[Key, Histogram]]:
        numbers = dict(self._numbers)
        histograms = dict(self._histograms)
        for snapshot in self._alive.values():
            _add(snapshot, numbers, histograms, gauges=True)
        return numbers, histograms


def _add(snapshot: Snapshot, numbers: dict[Key, int], histograms: dict[Key, Histogram], *, gauges: bool) -> None:
    for name, labels, number in snapshot.numbers:
        if name in BY_NAME and (gauges or BY_NAME[name].kind != "gauge"):
            numbers[name, labels] = numbers.get((name, labels), 0) + number
    for name, labels, counts, total in snapshot.histograms:
        have, before = histograms.get((name, labels), ([0] * len(counts), 0.0))
        histograms[name, labels] = ([a + b for a, b in zip(have, counts, strict=True)], before + total)


class _Sum(Collector):
    def __init__(self, numbers: dict[Key, int], histograms: dict[Key, Histogram]) -> None:
        self._numbers = numbers
        self._histograms = histograms

    def collect(self) -> Iterator[Any]:
        for family in FAMILIES:
            if family.kind == "histogram":
                yield self._histogram(family.name)
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.text, labels=family.labels)
            for (name, labels), number in sorted(self._numbers.items()):
                if name == family.name:
                    metric.add_metric(labels, number)
            yield metric

    def _histogram(self, wanted: str) -> HistogramMetricFamily:
        family = BY_NAME[wanted]
        metric = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for (name, labels), (counts, total) in sorted(self._histograms.items()):
            if name == wanted:
                running, buckets = 0, []
                for bound, count in zip((*family.buckets, float("inf")), counts, strict=True):
                    running += count
                    buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
                metric.add_metric(labels, buckets, total)
        return metric
