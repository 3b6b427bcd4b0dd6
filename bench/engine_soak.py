"""`python -m bench.engine_soak`: thousands of calls of the embedded engine through the whole gateway; does memory stay flat?

Calls are streamed and whole, short and long, some with a JSON schema, and some are left by their callers at the first piece. Every few
hundred of them the memory of steward, worker and engine host is read. Before that come as many quick calls of a canned upstream as fill
what is meant to fill (the database's page cache, the allocators' pools), and the first fifth of the calls only warms up. Of the rest
the first third is compared with the last one, by medians of RSS. Exit status 1 when a process has grown by more than `--bound`, when an
answer was not right, or when the books are not what callers saw.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench import load, traffic
from bench.engine_load import TINY, Caller, EngineServer, Sums, books_differ, cost
from bench.machine import Memory, Process
from bench.subjects import WrongBooks

FILLING: Final = 20_000
"""Quick calls before the first slow one."""
WARMING: Final = 0.2
"""The share of the calls after which memory is looked at."""
FEWEST: Final = 6
"""Samples after it that say anything."""
LEAVES: Final = 25
"""Every so many calls one is left by its caller."""
FORMS: Final = 10
"""Every so many calls one asks for a form."""
SCHEMA: Final = {
    "type": "object",
    "properties": {"category": {"enum": ["billing", "bug", "account"]}},
    "required": ["category"],
}


class Sample(msgspec.Struct, frozen=True):
    """The memory of each process after so many calls."""

    calls: int
    of: dict[str, Memory]


class Growth(msgspec.Struct, frozen=True):
    """Of one process, in megabytes: medians of RSS in the first and the last third after warming up."""

    first: float
    last: float
    bound: float

    @property
    def flat(self) -> bool:
        """Whether it has not grown by more than the bound."""
        return self.last - self.first <= self.bound


def body(number: int) -> dict[str, object]:
    """The call of that number; no two are the same."""
    asked: dict[str, object] = {
        "model": TINY,
        "messages": [{"role": "user", "content": f"I was charged twice, order {number}. " + "Please look. " * (number % 7)}],
        "max_tokens": 4 + number % 24,
    }
    if number % FORMS == 0:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}}
    return asked | ({"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {})


def endless(number: int) -> dict[str, object]:
    """A stream that does not come to its end before its caller leaves: without its end token the model goes on."""
    return body(number) | {"stream": True, "max_tokens": 1000, "response_format": {"type": "text"}, "logit_bias": {"1": -100}}


def growth(samples: Sequence[Sample], bound: float) -> dict[str, Growth]:
    """Of each process, after warming up; nothing when there are too few samples."""
    most = samples[-1].calls if samples else 0
    kept = [sample for sample in samples if sample.calls > most * WARMING]
    if len(kept) < FEWEST:
        return {}
    third = len(kept) // 3
    names = set.intersection(*(set(sample.of) for sample in kept))

    def median(some: Sequence[Sample], name: str) -> float:
        return statistics.median(sample.of[name].rss for sample in some)

    return {name: Growth(median(kept[:third], name), median(kept[-third:], name), bound) for name in sorted(names)}


def fill(server: EngineServer, key: str, calls: int) -> Sums:
    """Quick calls of the other model; what their callers saw. Raises RuntimeError when one was not answered."""
    figures = load.run(traffic.ask("fill", traffic.chat(), key), server.port, 8, 120.0, count(1), most=calls)
    if figures.errors:
        raise RuntimeError(f"{figures.errors} of the first calls were not answered: {figures.complaint}")
    done = figures.done
    return Sums(done, Counter(answered=done), input=done * traffic.PROMPT_TOKENS, output=done * traffic.ANSWER_TOKENS)


class Soak:
    """So many calls by so many users, or as many as there is time for."""

    def __init__(self, server: EngineServer, key: str, progress: Progress) -> None:
        self.seen = Sums()
        self.samples: list[Sample] = []
        self.left = 0
        self._server = server
        self._key = key
        self._progress = progress
        self._numbers = count(1)

    async def run(self, calls: int, users: int, every: int, seconds: float) -> None:
        """After `seconds` nobody begins another call."""
        until = time.monotonic() + seconds
        task = self._progress.add_task("calls", total=calls, memory="")

        async def user() -> None:
            caller = Caller(self._server.port, self._key)
            while (number := next(self._numbers)) <= calls and time.monotonic() < until:
                if number % LEAVES == 0:
                    await caller.leave(endless(number))
                    self.left += 1
                else:
                    began = time.perf_counter()
                    self.seen.add(await caller.ask(body(number)), time.perf_counter() - began)
                done = self.seen.calls + self.left
                if done % every == 0:
                    self._sample(done)
                self._progress.update(task, completed=done, memory=self._said())
            caller.close()

        await asyncio.gather(*(user() for _ in range(users)))

    def _sample(self, done: int) -> None:
        self.samples.append(Sample(done, self._server.memory()))

    def _said(self) -> str:
        return ", ".join(f"{name} {held.rss:.1f} MB" for name, held in self.samples[-1].of.items()) if self.samples else ""


def problems(seen: Sums, grown: dict[str, Growth]) -> list[str]:
    """What is not as it should be, books apart."""
    found = [
        f"the {name} grew from {each.first:.1f} to {each.last:.1f} MB, more than {each.bound:.1f} MB"
        for name, each in grown.items()
        if not each.flat
    ]
    if not grown:
        found.append("too few samples to say anything: more calls, or a smaller --every")
    if seen.verdicts["answered"] != seen.calls:
        found.append(f"not every call was answered: {dict(seen.verdicts)} {dict(seen.codes)} {seen.wrong}")
    return found


def main() -> int:
    """Ask and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="how many (default 10000; 40000 for a long one)")
    parser.add_argument("--users", type=int, default=8, help="at a time (default 8)")
    parser.add_argument("--every", type=int, default=250, help="calls between two looks at the memory (default 250)")
    parser.add_argument("--seconds", type=float, default=1800.0, help="the longest it may take (default 1800)")
    parser.add_argument("--bound", type=float, default=2.0, help="megabytes a process may grow (default 2)")
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="gatehouse-soak-") as place:
        origin = Process("the upstream", [sys.executable, "-m", "bench.upstream"], Path(place) / "upstream.log", None, piped=True)
        try:
            server = EngineServer(Path(place), upstream=origin.read_port())
        except BaseException:
            origin.stop()
            raise
        try:
            key, key_id = server.make_key()
            filled = fill(server, key, FILLING)
            began = time.perf_counter()
            shown = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[memory]}"))
            with Progress(*shown, console=console) as progress:
                soak = Soak(server, key, progress)
                asyncio.run(soak.run(given.calls, given.users, given.every, given.seconds))
            took = time.perf_counter() - began
            rows = server.rows(key_id)
        finally:
            server.stop()
            origin.stop()
        grown = growth(soak.samples, given.bound)
        wrong = problems(soak.seen, grown)
        wrong += books_differ(rows, TINY, soak.seen, cost(soak.seen), soak.left)
        wrong += books_differ(rows, traffic.MODEL, filled, filled.calls * traffic.cost(traffic.ANSWER_TOKENS))
        try:
            audit = server.verify()
        except WrongBooks as error:
            audit, wrong = "", [*wrong, str(error)]
    tell(console, soak, grown, took)
    console.print(audit)
    for problem in wrong:
        console.print(f"[red]not as it should be[/]: {problem}")
    return 1 if wrong else 0


def tell(console: Console, soak: Soak, grown: dict[str, Growth], took: float) -> None:
    """What was seen."""
    names = sorted({name for sample in soak.samples for name in sample.of})
    table = Table("calls", *(f"{name}: RSS, PSS" for name in names), title="megabytes")
    step = -(-len(soak.samples) // 20) or 1
    for sample in soak.samples[step - 1 :: step]:
        cells = [f"{sample.of[name].rss:.1f}, {sample.of[name].pss:.1f}" if name in sample.of else "" for name in names]
        table.add_row(str(sample.calls), *cells)
    console.print(table)
    calls = soak.seen.calls + soak.left
    console.print(f"{calls} calls in {took:.0f} s, {soak.seen.output} tokens answered, {soak.left} calls left by their callers")
    for name, each in grown.items():
        word = "flat" if each.flat else "GREW"
        console.print(f"{name}: {word}: {each.first:.1f} MB, then {each.last:.1f} MB (at most {each.bound:.1f} MB more)")


if __name__ == "__main__":
    sys.exit(main())
