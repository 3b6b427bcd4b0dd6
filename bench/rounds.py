"""What is measured and in which order: every scenario in alternating rounds, so that a noisy machine is noisy for everybody."""

import math
import statistics
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from bench import load, talk, traffic
from bench.machine import Memory, load_average
from bench.subjects import Gatehouse, Subject

PACE: Final = 0.02
"""Seconds between the events of a stream that imitates a model."""
OPEN_STREAMS: Final = 5000


class Scenario(msgspec.Struct, frozen=True):
    """One kind of load. `words` > 0 are streams of so many events, `burst` of them in each write of the upstream."""

    name: str
    says: str
    concurrency: int
    body: Callable[[], dict[str, object]] = traffic.chat
    words: int = 0
    burst: int = 1
    pace: float = 0.0
    most: int = 10**8
    translated: bool = False
    """Gatehouse is asked in Anthropic's words; all others carry the stream as it is."""


SCENARIOS: Final = (
    Scenario("chats", "short chats, 32 at a time", 32),
    Scenario("chats-1", "short chats, one at a time", 1),
    Scenario("chats-8", "short chats, 8 at a time", 8),
    Scenario("chats-128", "short chats, 128 at a time", 128),
    Scenario("chats-512", "short chats, 512 at a time, from connections opened in one burst", 512),
    Scenario("streams", "16 streams of 100 events, each event its own write", 16, words=100),
    Scenario("streams-burst", "16 streams of 100 events, 8 in a write", 16, words=100, burst=8),
    Scenario("translated", "16 streams of 100 events, OpenAI's upstream asked in Anthropic's words", 16, words=100, translated=True),
    Scenario("first-event", f"8 streams, an event every {PACE * 1000:.0f} ms", 8, words=10, pace=PACE),
    Scenario("image-1mb", "a chat with an image part of 1 MB, one at a time", 1, traffic.large_image, most=40),
    Scenario("text-1mb", "a chat with 1 MB of text, one at a time", 1, traffic.large_text, most=40),
)


class Measure(msgspec.Struct):
    """One subject in one round of one scenario. Rates a second of wall time; `cpu_us` is processor time a request (or an event)."""

    scenario: str
    subject: str
    round: int
    done: int
    errors: int
    rate: float
    cpu_us: float
    helper_us: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    busy: float
    """Share of the wall time that the measured process ran: far below 1, it waited for the load or for the core."""
    load_average: float
    complaint: str = ""
    """The beginning of the first answer that was not right."""


class Summary(msgspec.Struct):
    """Medians over the rounds; `of_relay` are medians of ratios within a round, None for what has none."""

    scenario: str
    subject: str
    errors: int
    rate: float
    per_core: float
    """A second of processor time of the measured process: what one core of its own would carry."""
    cpu_us: float
    helper_us: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    rate_of_relay: float | None
    cpu_of_relay: float | None
    """The relay's processor time a request, divided by ours: 1 is as cheap as the relay."""


def measure(scenario: Scenario, subject: Subject, upstream: int, number: int, seconds: float) -> Measure:
    """Run one scenario against one subject."""
    shape(upstream, scenario.words or 100, scenario.burst, scenario.pace)
    cpu, helper = subject.cpu(), subject.helper_cpu()
    figures = subject.run(
        scenario.body(), scenario.concurrency, seconds, most=scenario.most, words=scenario.words, translated=scenario.translated
    )
    cpu, helper = subject.cpu() - cpu, subject.helper_cpu() - helper
    if figures.errors and isinstance(subject, Gatehouse):
        raise RuntimeError(f"{subject.name}, {scenario.name}: {figures.errors} answers were not right, the first: {figures.complaint}")
    # Somebody else who answers nothing right has zeros here and errors beside them.
    units = (figures.events if scenario.words else figures.done) or math.inf
    return Measure(
        scenario.name,
        subject.name,
        number,
        figures.done,
        figures.errors,
        rate=units / figures.seconds if figures.done else 0.0,
        cpu_us=cpu / units * 1e6,
        helper_us=helper / units * 1e6,
        p50_ms=load.percentile(figures.latencies, 0.5) * 1e3,
        p99_ms=load.percentile(figures.latencies, 0.99) * 1e3,
        first_p50_ms=load.percentile(figures.first, 0.5) * 1e3,
        busy=cpu / figures.seconds,
        load_average=load_average(),
        complaint=figures.complaint,
    )


def shape(upstream: int, frames: int, burst: int, pace: float) -> None:
    """Tell the upstream how to stream from now on."""
    talk.ask(upstream, "POST", "/shape", {"frames": frames, "burst": burst, "pace": pace})


def all_rounds(
    scenarios: Sequence[Scenario], subjects: Sequence[Subject], upstream: int, rounds: int, seconds: float, tell: Callable[[Measure], None]
) -> list[Measure]:
    """Every scenario, `rounds` times over all subjects in turn; before the first, each is warmed up."""
    measured = []
    for scenario in scenarios:
        for subject in subjects:
            shape(upstream, scenario.words or 100, scenario.burst, 0.0)
            subject.run(
                scenario.body(),
                scenario.concurrency,
                min(seconds, 1.0),
                most=min(scenario.most, 2000),
                words=scenario.words,
                translated=scenario.translated,
            )
        for number in range(rounds):
            for subject in subjects:
                one = measure(scenario, subject, upstream, number, seconds)
                measured.append(one)
                tell(one)
    return measured


def summaries(measured: Iterable[Measure]) -> list[Summary]:
    """Medians, in the order they were measured."""
    groups: dict[tuple[str, str], list[Measure]] = {}
    for one in measured:
        groups.setdefault((one.scenario, one.subject), []).append(one)
    return [_summary(ones, groups.get((scenario, "relay"), [])) for (scenario, _), ones in groups.items()]


def _summary(ones: list[Measure], relays: list[Measure]) -> Summary:
    def median(of: Callable[[Measure], float]) -> float:
        return statistics.median(of(one) for one in ones)

    pairs = list(zip(ones, relays, strict=True)) if len(ones) == len(relays) else []
    own = all(one.cpu_us > 0 for one in ones)
    cpu_us = median(lambda one: one.cpu_us)
    return Summary(
        ones[0].scenario,
        ones[0].subject,
        sum(one.errors for one in ones),
        rate=median(lambda one: one.rate),
        per_core=1e6 / cpu_us if cpu_us else 0.0,
        cpu_us=cpu_us,
        helper_us=median(lambda one: one.helper_us),
        p50_ms=median(lambda one: one.p50_ms),
        p99_ms=median(lambda one: one.p99_ms),
        first_p50_ms=median(lambda one: one.first_p50_ms),
        rate_of_relay=statistics.median(one.rate / relay.rate for one, relay in pairs) if pairs else None,
        cpu_of_relay=statistics.median(relay.cpu_us / one.cpu_us for one, relay in pairs) if pairs and own else None,
    )


class StreamsMemory(msgspec.Struct):
    """What the worker held with many streams open at once, in megabytes."""

    streams: int
    before: Memory
    most: Memory
    all_open: bool
    """Whether there was certainly a moment at which all of them were open."""


def streams_memory(house: Gatehouse, upstream: int, streams: int = OPEN_STREAMS, seconds: float = 16.0) -> StreamsMemory:
    """Open `streams` that all last `seconds`, and weigh the worker while they are."""
    words = 8
    shape(upstream, words, 1, seconds / words)
    before, over = house.memory(), threading.Event()
    most = before

    def weigh() -> None:
        nonlocal most
        while not over.wait(0.5):
            now = house.memory()
            most = max(most, now, key=lambda memory: memory.pss)

    scales = threading.Thread(target=weigh)
    scales.start()
    try:
        figures = house.run(traffic.chat(), streams, 600.0, most=streams, words=words)
    finally:
        over.set()
        scales.join()
    if figures.errors:
        raise RuntimeError(f"{figures.errors} of {streams} streams were not right, the first: {figures.complaint}")
    shortest = min(figures.latencies)
    return StreamsMemory(streams, before, most, all_open=figures.seconds - shortest < shortest)
