"""`python -m bench.engine_bench`: tokens a second of the embedded engine by itself, and through Gatehouse with every control.

Both answer the same prompts greedily, in turns, so that what else the machine does hits both; what counts is the ratio. By itself the
engine is driven by one thread a user, never more at work than it has slots; through Gatehouse each user is an HTTP client.

A turn in which other programs used much of the machine says nothing about either: with `--quiet` its whole round is done again.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.engine_load import EngineServer
from bench.machine import Process, busy_seconds, cpu_seconds
from bench.subjects import ADMIN_KEY
from gatehouse.adapters.engines.llamacpp import LlamaEngine
from gatehouse.core.calls import Call, Message
from gatehouse.core.events import Answer, Chunk
from gatehouse.models import builtin_path

MOST_AGAIN: Final = 40
"""Rounds in all for each round that is asked for."""
SUBJECTS: Final = ("engine", "whole", "streamed")
TOKENS: Final = 64
TEXTS: Final = (
    "I was charged twice this month, order {0}.",
    "The app crashes when I open report {0}.",
    "How do I change the address of account {0}?",
    "Who are you?",
    "Please add a dark mode, ticket {0}.",
)


def prompt(number: int) -> str:
    """The same for the same number."""
    return TEXTS[number % len(TEXTS)].format(number)


def asked(number: int) -> Call:
    """A prompt as the engine is given it."""
    return Call(model="tiny", messages=(Message("user", prompt(number)),), stream=True, max_tokens=TOKENS, temperature=0.0)


def alone(engine: LlamaEngine, users: int, calls: int) -> float:
    """Tokens a second of the engine in this process."""
    slots = threading.Semaphore(engine.slots)
    numbers = count()
    tokens: list[int] = []

    def heard(event: Chunk | Answer) -> bool:
        if event.usage is not None and not (isinstance(event, Chunk) and event.interim):
            tokens.append(event.usage.output)
        return False

    def user() -> None:
        while (number := next(numbers)) < calls:
            with slots:
                engine.run(asked(number), heard)

    threads = [threading.Thread(target=user) for _ in range(users)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(tokens) != calls:
        raise RuntimeError(f"{len(tokens)} of {calls} calls told their tokens")
    return sum(tokens) / (time.perf_counter() - started)


async def through(port: int, users: int, calls: int, *, stream: bool) -> float:
    """Tokens a second over HTTP, each user on a connection of its own."""
    numbers = count()
    tokens: list[int] = []

    async def user() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (number := next(numbers)) < calls:
            body: dict[str, object] = {
                "model": "tiny",
                "messages": [{"role": "user", "content": prompt(number)}],
                "max_tokens": TOKENS,
                "temperature": 0,
            }
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            content = json.dumps(body).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %b\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % (ADMIN_KEY.encode(), len(content)) + content
            )
            tokens.append(await _tokens(reader))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(users)))
    return sum(tokens) / (time.perf_counter() - started)


async def _tokens(reader: asyncio.StreamReader) -> int:
    """Read one answer, whole or streamed; the tokens it says it has."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(head.decode())
    if b"content-length:" in head:
        body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
    return int(body.rsplit(b'"completion_tokens":', 1)[1].lstrip().split(b",")[0].split(b"}")[0])


class Turn(msgspec.Struct, frozen=True):
    """One subject's turn. `cpu` is microseconds of everybody who took part, `others` how many cores the rest of the machine used."""

    rate: float
    cpu: float
    others: float


class Rounds:
    """Turns of every subject with every number of users, until enough rounds were quiet."""

    def __init__(self, subjects: dict[str, Callable[[int, int], float]], process: Process, calls: int) -> None:
        self._subjects = subjects
        self._process = process
        self._calls = calls
        self.found: dict[tuple[str, int], list[Turn]] = {}
        self.rejected = 0

    def run(self, users: list[int], rounds: int, quiet: float) -> None:
        """Each number of users has rounds of its own: a noisy one costs only itself."""
        for number in users:
            calls = self._calls if number > 1 else self._calls // 2
            kept: list[dict[str, Turn]] = []
            for tried in range(rounds * MOST_AGAIN):
                turns = {subject: self._turn(subject, number, calls) for subject in self._subjects}
                if max(turn.others for turn in turns.values()) <= quiet:
                    kept.append(turns)
                if len(kept) == rounds:
                    self.rejected += tried + 1 - rounds
                    break
            else:
                raise RuntimeError(f"the machine was quiet in {len(kept)} of {rounds * MOST_AGAIN} rounds")
            for subject in self._subjects:
                self.found[subject, number] = [turns[subject] for turns in kept]

    def _turn(self, subject: str, users: int, calls: int) -> Turn:
        began, busy, ours = time.perf_counter(), busy_seconds(), self._ours()
        rate = self._subjects[subject](users, calls)
        took, busy, ours = time.perf_counter() - began, busy_seconds() - busy, self._ours() - ours
        return Turn(rate, ours / (rate * took) * 1e6, max(0.0, busy - ours) / took)

    def _ours(self) -> float:
        return sum(map(cpu_seconds, (os.getpid(), self._process.pid, *(pid for pid, _ in self._process.children()))))


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everybody has a turn (default 5)")
    parser.add_argument("--calls", type=int, default=96, help="calls a turn (default 96)")
    parser.add_argument("--slots", type=int, default=8, help="slots of the engine (default 8)")
    parser.add_argument("--users", default="1,8,32", help="callers at a time (default 1,8,32)")
    parser.add_argument("--quiet", type=float, default=math.inf, help="cores that other programs may use in a turn (default any)")
    given = parser.parse_args()
    users = [int(number) for number in given.users.split(",")]
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as place:
        engine = LlamaEngine(builtin_path(), slots=given.slots)
        server = EngineServer(Path(place), slots=given.slots)
        process, port = server.process, server.port
        try:
            subjects: dict[str, Callable[[int, int], float]] = {
                "engine": lambda number, calls: alone(engine, number, calls),
                "whole": lambda number, calls: uvloop.run(through(port, number, calls, stream=False)),
                "streamed": lambda number, calls: uvloop.run(through(port, number, calls, stream=True)),
            }
            for turn in subjects.values():
                turn(given.slots, given.slots)
            rounds = Rounds(subjects, process, given.calls)
            rounds.run(users, given.rounds, given.quiet)
        finally:
            server.stop()
            engine.close()
    tell(rounds, users, given.slots)
    return 0


def tell(rounds: Rounds, users: list[int], slots: int) -> None:
    """Medians, and the medians of the ratios within each round."""
    found = rounds.found

    def ratio(over: tuple[str, int], under: tuple[str, int]) -> float:
        return statistics.median(a.rate / b.rate for a, b in zip(found[over], found[under], strict=True))

    others = statistics.median(turn.others for turns in found.values() for turn in turns)
    kept = len(found["engine", users[0]])
    print(f"{slots} slots, {kept} rounds ({rounds.rejected} more were not quiet), other programs {others:.2f} cores; medians")
    for number in users:
        for subject in SUBJECTS:
            turns = found[subject, number]
            rate, cpu = (statistics.median(getattr(turn, field) for turn in turns) for field in ("rate", "cpu"))
            share = f", {ratio((subject, number), ('engine', number)):.2f} of the engine alone" if subject != "engine" else ""
            print(f"  {number:3} users, {subject:8}: {rate:6,.0f} tokens/s, {cpu:4.0f} us of processor a token{share}")
    if slots in users and max(users) > slots:
        print(
            "  ",
            ", ".join(
                f"{subject}: {max(users)} users do {ratio((subject, max(users)), (subject, slots)):.2f} of {slots}" for subject in SUBJECTS
            ),
        )


if __name__ == "__main__":
    sys.exit(main())
