"""What the tests of Guard share: a policy at work, a target that can be watched, a rule pack that breaks."""

from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.core.calls import Call, Message, Part
from gatehouse.core.collect import Collector
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, ChoiceDelta, Chunk, Event
from gatehouse.core.plans import GuardPolicy, Plan, Target
from gatehouse.core.ports import Finding, Scanner
from gatehouse.core.remote import RemoteUrls
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.sieve import Spot
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.testing.fakes import FakeClock
from gatehouse.testing.made_secrets import SecretMaker

SCANNER = SecretScanner()
MAKER = SecretMaker(11)
NPM = MAKER.all()["npm-token"][0][1]
AWS = MAKER.all()["aws-access-key"][0][1]
PEM = MAKER.pem(lines=3)
ACTIONS = ("block", "redact", "flag", "off")


def guard(scanner: Scanner = SCANNER, clock: FakeClock | None = None, **options: Any) -> Guard:
    return Guard(scanner, clock or FakeClock(), **options)


def exchange(call: Call | None = None, remote_urls: RemoteUrls = "pass", **policy: Any) -> Exchange:
    x = Exchange("req_1", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.call = call
    x.plan = Plan("m", (Target("p/m", "p", "m"),), guard=GuardPolicy(**policy), remote_urls=remote_urls)
    return x


def saying(text: str, **fields: Any) -> Call:
    return Call(model="m", messages=(Message("system", "Be brief."), Message("user", text)), **fields)


def of_parts(*parts: Part) -> Call:
    return Call(model="m", messages=(Message("user", parts),))


class Upstream:
    """A target's stream that says whether it was closed, and how many events were taken."""

    def __init__(self, events: Iterable[Event], error: GatehouseError | None = None) -> None:
        self.events = list(events)
        self.error = error
        self.taken = 0
        self.open = False
        self.closed = False

    async def stream(self) -> AsyncGenerator[Event, None]:
        self.open = True
        try:
            for event in self.events:
                self.taken += 1
                yield event
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


def said(text: str, **fields: Any) -> Chunk:
    return Chunk((ChoiceDelta(text=text),), id="1", model="m", raw=f"data: {len(text)}".encode(), dialect="openai", **fields)


async def passed(x: Exchange, events: Iterable[Event], stage: Guard | None = None) -> list[Event]:
    upstream = Upstream(events)
    watched = (stage or guard()).watch(x, upstream.stream())
    try:
        return [event async for event in watched]
    finally:
        await watched.aclose()
        assert upstream.closed or not upstream.open


def whole(events: Iterable[Event]) -> Answer:
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.answer()


class Faulty:
    """A scanner that raises, hangs for a while or returns garbage, from its `after`th question on."""

    version = "faulty"

    def __init__(
        self, fault: Exception | None = None, garbage: tuple[Finding, ...] = (), hang: Callable[[], None] | None = None, after: int = 0
    ) -> None:
        self.fault = fault
        self.garbage = garbage
        self.hang = hang
        self.after = after

    def _answer(self) -> bool:
        self.after -= 1
        if self.after >= 0:
            return False
        if self.hang is not None:
            self.hang()
        if self.fault is not None:
            raise self.fault
        return True

    def scan(self, text: str, before: str = "") -> tuple[Finding, ...]:
        return self.garbage if self._answer() else ()

    def hold_back(self, text: str, before: str = "") -> int:
        return 0

    def is_clean(self, text: str, before: str = "") -> bool:
        return not (self._answer() and self.garbage)


FAULTS = [{"fault": RuntimeError("secret words")}, {"fault": MemoryError()}, {"garbage": (Spot("r", 5, 9999),)}]
