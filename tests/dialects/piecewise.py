"""Streams cut anywhere: what every decoder of an outbound dialect must not notice."""

import itertools
from typing import Protocol

from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Event


class Reader(Protocol):
    """A decoder of one stream."""

    finished: bool

    def feed(self, data: bytes) -> list[Event]: ...

    def close(self) -> None: ...


def read(decoder: Reader, *pieces: bytes) -> list[Event]:
    """All events of a stream that ends well."""
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.close()
    return events


def fail(decoder: Reader, *pieces: bytes) -> tuple[list[Event], UpstreamFailed]:
    """What a stream gave before it failed, and how it failed."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        decoder.close()
    except UpstreamFailed as failed:
        return events, failed
    raise AssertionError("the stream looks finished")


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces."""
    marks = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(marks)]


def whole(events: list[Event]) -> Answer:
    """The stream put together."""
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.answer()
