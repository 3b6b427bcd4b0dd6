"""Replays arrivals of real services over the real Dispatch and turnstile, in virtual time, and compares the policies of a model.

    python -m bench.simulate --data FOLDER [--calls 3000] [--seed 1] [--write]

FOLDER holds the public traces that docs/routing-simulation.md names. The fleet is made up: replicas with a prefix cache, a prompt
processor that reads one prompt after another, and slots for answers. Everything between a call and its replica is the product's.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import random
import statistics
import sys
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import ChoiceDelta, Chunk, Event, Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.money import Money, format_usd
from gatehouse.core.plans import Deadlines, Plan, Policy, Target
from gatehouse.core.ports import Attempt, Refused
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.selection import Selector
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.turnstile import Turnstile
from gatehouse.testing.fakes import FakeClock, FakeRng, FakeTally, settle_loop

BLOCK: Final = 512
"""Tokens of a block of the prefix cache, as in the Mooncake traces."""
CHARACTERS: Final = 4
SESSION: Final = "x-session-id"
DEADLINES: Final = Deadlines(first_byte=30.0, total=600.0, idle=60.0)
"""A call that would not begin in time at one replica is turned away there and goes to the next."""
ROOT: Final = Path(__file__).parents[1]
M: Final = 10**10


class Arrival(msgspec.Struct, frozen=True):
    """A call of a trace: when (seconds), how long, and which blocks its prompt begins with (none: nothing is shared)."""

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...] = ()


class Fleet(msgspec.Struct, frozen=True):
    """Replicas: prompt tokens a second, seconds a token of an answer, slots, blocks of prefix cache, price in and out (USD a million)."""

    replicas: int = 8
    reads: float = 8_000.0
    writes: float = 0.02
    slots: int = 32
    cache: int = 2_000
    slow: int = 0
    """Of them so many are half as fast and cost half."""


class Replica:
    """Implements `Model` and `Slotted` in virtual time."""

    def __init__(self, fleet: Fleet, clock: FakeClock, factor: float) -> None:
        self.slots: int | None = fleet.slots
        self.clock = clock
        self.reads = fleet.reads * factor
        self.writes = fleet.writes / factor
        self.room = fleet.cache
        self.blocks: OrderedDict[int, None] = OrderedDict()
        self.free = 0.0
        self.running = 0

    def cached(self, arrival: Arrival) -> int:
        """Tokens of its prompt that need not be read."""
        run = 0
        for block in arrival.blocks:
            if block not in self.blocks:
                break
            run += 1
        return min(run * BLOCK, max(arrival.prompt - 1, 0))

    def begins(self, arrival: Arrival) -> float:
        """Seconds until it would have its first token, if it were sent here now."""
        wait = max(self.free - self.clock.monotonic(), 0.0)
        return wait + (arrival.prompt - self.cached(arrival)) / self.reads

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """Read the prompt when its turn comes; then write."""
        attempt.sent = True
        arrival = ARRIVALS[call]
        cached = self.cached(arrival)
        seconds = self.begins(arrival)
        self.free = self.clock.monotonic() + seconds
        for block in arrival.blocks:
            self.blocks[block] = None
            self.blocks.move_to_end(block)
        while len(self.blocks) > self.room:
            self.blocks.popitem(last=False)
        await self.clock.sleep(seconds)
        return self._write(arrival, Usage(input=arrival.prompt - cached, cached_input=cached, output=arrival.answer))

    async def _write(self, arrival: Arrival, usage: Usage) -> AsyncGenerator[Event, None]:
        self.running += 1
        try:
            yield Chunk((ChoiceDelta(begins=True),))
            await self.clock.sleep(arrival.answer * self.writes * (1.0 + self.running / 32))
            yield Chunk((ChoiceDelta(text="done", finish="stop"),), usage=usage)
        finally:
            self.running -= 1

    async def ping(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is held."""


class _Arrivals(dict[int, Arrival]):
    """What a call stands for, by the identity of its messages; calls are rewritten on their way, their messages are not."""

    def __getitem__(self, call: Call | int) -> Arrival:
        return super().__getitem__(id(call.messages) if isinstance(call, Call) else call)


ARRIVALS: Final = _Arrivals()


class Silent:
    """Books that nobody reads."""

    def commits_beside(self, x: Exchange) -> bool:
        """Nothing is large here."""
        return False

    async def commit(self, x: Exchange) -> None:
        """Nothing to commit to."""

    def opened(self, x: Exchange, target: Target) -> None:
        x.attempts += 1
        x.attempt = x.attempts
        x.opened = True
        x.target = target

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        for x, target in calls:
            self.opened(x, target)
        return []

    def not_opened(self, x: Exchange) -> None:
        """Nothing is refused here."""

    async def durable(self) -> None:
        """Nothing is written."""

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        x.opened = False

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: Money) -> None:
        """Nothing is hedged."""


class Given(Selector):
    """A policy of the simulation only: `choose` is handed the call and the replicas."""

    def __init__(self, dispatch: Dispatch, clock: FakeClock, rng: FakeRng, choose: Callable[[Arrival, list[Target]], int]) -> None:
        super().__init__(dispatch.loads, clock, rng)
        self.choose = choose

    def pick(self, x: Exchange, plan: Plan, targets: list[Target], prompt: int) -> int:
        assert x.call is not None
        return self.choose(ARRIVALS[x.call], targets)


class Result(msgspec.Struct, frozen=True):
    """Seconds to the first token and to the last, USD, and the share of prompt tokens that were in a cache."""

    policy: str
    first_p50: float
    first_p99: float
    whole_p50: float
    whole_p99: float
    usd: str
    hits: float
    turned_away: int
    """Calls that no replica would have begun in time."""


RUNS: Final[tuple[tuple[str, Policy, int], ...]] = (
    ("random", "weighted", 256),
    ("round robin", "least_work", 256),
    ("least_work", "least_work", 256),
    ("latency", "latency", 256),
    ("cost", "cost", 256),
    ("session", "session", 256),
    ("prefix", "prefix", 256),
    ("prefix, 2048 tokens", "prefix", 2048),
    ("oracle", "least_work", 256),
)
"""Name, the product's policy that carries it, and how much of a prompt decides."""


async def run(name: str, policy: Policy, prefix: int, arrivals: Sequence[Arrival], fleet: Fleet, seed: int) -> Result:
    """One policy over one trace."""
    clock, rng = FakeClock(), FakeRng(seed)
    replicas = {f"r{n}": Replica(fleet, clock, 0.5 if n < fleet.slow else 1.0) for n in range(fleet.replicas)}
    targets = tuple(Target(f"{n}/m", n, "m", price=_price(n, fleet), deadlines=DEADLINES) for n in replicas)
    plan = Plan("m", targets, policy=policy, session_header=SESSION, prefix_tokens=prefix)
    tally = FakeTally()
    dispatch = Dispatch(replicas, Silent(), clock, rng, tally, Turnstile(replicas, clock, tally))
    if name == "round robin":
        turn = iter(range(10**9))
        dispatch._selector = Given(dispatch, clock, rng, lambda _, able: next(turn) % len(able))
    elif name == "oracle":

        def best(arrival: Arrival, able: list[Target]) -> int:
            def begins(n: int) -> float:
                replica = replicas[able[n].provider]
                crowd = max(dispatch.loads.of(able[n].id).running - fleet.slots + 1, 0)
                return replica.begins(arrival) + crowd * arrival.answer * replica.writes * 2 / fleet.slots

            return min(range(len(able)), key=begins)

        dispatch._selector = Given(dispatch, clock, rng, best)
    runner = Runner((dispatch,), clock)
    done: list[tuple[float, float, Exchange]] = []

    async def carry(number: int, arrival: Arrival) -> None:
        x = _exchange(number, arrival, plan)
        began = clock.monotonic()
        with contextlib.suppress(GatehouseError):
            await runner.carry(x, _drain)
        done.append((x.first_event, clock.monotonic() - began, x))
        ARRIVALS.pop(id(x.call.messages) if x.call is not None else 0, None)

    tasks: set[asyncio.Task[None]] = set()

    def begin(number: int, arrival: Arrival) -> None:
        task = asyncio.get_running_loop().create_task(carry(number, arrival))
        tasks.add(task)

    for number, arrival in enumerate(arrivals):
        clock.call_later(arrival.at, begin, number, arrival)
    while len(done) < len(arrivals):
        due = clock.next_due()
        if due is None:
            raise RuntimeError("calls wait for what never comes")
        clock.advance(max(due - clock.monotonic(), 0.0))
        await settle_loop(8)
    await asyncio.gather(*tasks)
    return _result(name, done)


def _exchange(number: int, arrival: Arrival, plan: Plan) -> Exchange:
    session = arrival.blocks[1] if len(arrival.blocks) > 1 else number
    x = Exchange(f"r{number}", Head("POST", "/", {SESSION.encode(): str(session).encode()}), None, None)  # type: ignore[arg-type]
    text = "".join((f"{block:015d}," * (BLOCK * CHARACTERS // 16)) for block in arrival.blocks) or f"{number}," * 40
    call = Call(model="m", messages=(Message("user", text[: arrival.prompt * CHARACTERS].ljust(arrival.prompt * CHARACTERS)),), stream=True)
    ARRIVALS[id(call.messages)] = arrival
    x.call, x.plan = call, plan
    x.principal = Principal("k", "key", frozenset({Role.DEVELOPER}))
    return x


async def _drain(x: Exchange, events: Events) -> None:
    async for _ in events:
        pass


def _price(name: str, fleet: Fleet) -> Price:
    half = 2 if int(name[1:]) < fleet.slow else 1
    into, out = M // 4 // half, 2 * M // half
    return Price(name, input=into, output=out, cached_input=into // 10, cache_write=into, reasoning=out, audio_input=0, audio_output=0)


def _result(name: str, done: list[tuple[float, float, Exchange]]) -> Result:
    away = sum(first < 0 for first, _, _ in done)
    firsts = sorted(first for first, _, _ in done if first >= 0)
    wholes = sorted(whole for first, whole, _ in done if first >= 0)
    into = sum(x.usage.input_total for _, _, x in done)
    hits = sum(x.usage.cached_input for _, _, x in done) / into if into else 0.0

    def at(values: list[float], share: float) -> float:
        return values[min(int(share * len(values)), len(values) - 1)]

    charge = format_usd(sum(x.charge for _, _, x in done))
    return Result(name, statistics.median(firsts), at(firsts, 0.99), statistics.median(wholes), at(wholes, 0.99), charge, hits, away)


# --- traces -----------------------------------------------------------------------------------------------------------


def mooncake(path: Path, calls: int) -> list[Arrival]:
    """Kimi's arrivals: milliseconds, lengths, hashes of 512-token blocks."""
    found: list[Arrival] = []
    with path.open() as lines:
        for line in lines:
            if len(found) >= calls:
                break
            row = json.loads(line)
            found.append(Arrival(row["timestamp"] / 1000, row["input_length"], max(row["output_length"], 1), tuple(row["hash_ids"])))
    return found


def azure(path: Path, calls: int) -> list[Arrival]:
    """Azure's arrivals: times and lengths; nothing is known of what prompts share."""
    found: list[Arrival] = []
    start: datetime | None = None
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if len(found) >= calls:
                break
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            start = start or at
            found.append(Arrival((at - start).total_seconds(), int(row["ContextTokens"]), max(int(row["GeneratedTokens"]), 1)))
    return found


def made_up(calls: int, seed: int, sessions: int = 60) -> list[Arrival]:
    """A small trace for tests: conversations that grow by a block a turn, behind a system prompt of two kinds."""
    chance = random.Random(seed)
    known: dict[int, list[int]] = {}
    at = 0.0
    found: list[Arrival] = []
    for number in range(calls):
        at += chance.expovariate(20.0)
        session = chance.randrange(sessions)
        blocks = known.setdefault(session, [session % 2, 1_000 + session])
        blocks.append(100_000 + number)
        found.append(Arrival(at, BLOCK * len(blocks), chance.randrange(20, 200), tuple(blocks)))
        if len(blocks) > 12:
            del known[session]
    return found


def squeezed(arrivals: Iterable[Arrival], factor: float) -> list[Arrival]:
    """The same calls, `factor` times as fast."""
    return [msgspec.structs.replace(arrival, at=arrival.at / factor) for arrival in arrivals]


class Case(msgspec.Struct, frozen=True):
    """A trace, how much faster it is played, and the fleet it meets."""

    title: str
    file: str
    pace: float
    fleet: Fleet


CASES: Final = (
    Case("conversations that share prefixes (Mooncake conversation), 8 equal replicas", "mooncake_conversation.jsonl", 1.2, Fleet()),
    Case("long documents and agents (Mooncake synthetic), 8 equal replicas", "mooncake_synthetic.jsonl", 0.7, Fleet()),
    Case(
        "code completion (Azure 2023), 6 replicas, two of them half as fast at half the price",
        "azure_llm_2023_code.csv",
        3.5,
        Fleet(replicas=6, slow=2),
    ),
    Case(
        "chats (Azure 2023), 6 replicas, two of them half as fast at half the price",
        "azure_llm_2023_conv.csv",
        1.6,
        Fleet(replicas=6, slow=2, slots=16),
    ),
)


def simulate(arrivals: Sequence[Arrival], fleet: Fleet, seed: int) -> list[Result]:
    """Every policy over one trace."""
    return [asyncio.run(run(name, policy, prefix, arrivals, fleet, seed)) for name, policy, prefix in RUNS]


def table(results: list[Result]) -> str:
    """As Markdown."""
    lines = [
        "| policy | first token p50 | p99 | whole answer p50 | p99 | cost (USD) | prompt tokens from cache | turned away |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        seconds = " | ".join(f"{each:.2f} s" for each in (result.first_p50, result.first_p99, result.whole_p50, result.whole_p99))
        lines.append(f"| {result.policy} | {seconds} | {float(result.usd):.2f} | {100 * result.hits:.1f} % | {result.turned_away} |")
    return "\n".join(lines)


def picture(sections: list[tuple[str, list[Result]]]) -> str:
    """The 99th percentile of the time to the first token, as bars: one group a trace, each on its own scale."""
    height, width, left = 18, 420, 190
    lines: list[str] = []
    y = 20
    for title, results in sections:
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{title}</text>')
        y += 8
        most = max(result.first_p99 for result in results) or 1.0
        for result in results:
            length = max(1, round(width * result.first_p99 / most))
            colour = "#9aa5b1" if result.policy in {"random", "round robin", "oracle"} else "#2f6f9f"
            lines.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{result.policy}</text>')
            lines.append(f'<rect x="{left}" y="{y + 2}" width="{length}" height="{height - 4}" fill="{colour}"/>')
            lines.append(f'<text x="{left + length + 6}" y="{y + 13}">{result.first_p99:.2f} s</text>')
            y += height
        y += 28
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>", ""])


def main() -> None:
    """Simulate every case; print, and with --write put the tables and the picture into the documentation."""
    parser = argparse.ArgumentParser(description="Replay traces over the real Dispatch in virtual time.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with the traces")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/routing-simulation.md's tables and its picture")
    options = parser.parse_args()
    sections = []
    for case in CASES:
        path = options.data / case.file
        if not path.exists():
            sys.exit(f"{path} is missing: docs/routing-simulation.md says where the traces come from")
        read = mooncake if path.suffix == ".jsonl" else azure
        results = simulate(squeezed(read(path, options.calls), case.pace), case.fleet, options.seed)
        sections.append((case.title, results))
        print(f"\n### {case.title}\n\n{table(results)}", flush=True)
    if options.write:
        page = ROOT / "docs" / "routing-simulation.md"
        before, _, rest = page.read_text().partition("<!-- tables -->\n")
        _, _, after = rest.partition("<!-- end of tables -->\n")
        tables = "\n".join(f"### {title}\n\n{table(results)}\n" for title, results in sections)
        page.write_text(f"{before}<!-- tables -->\n{tables}<!-- end of tables -->\n{after}")
        (ROOT / "docs" / "pictures" / "routing.svg").write_text(picture(sections))


if __name__ == "__main__":
    main()
