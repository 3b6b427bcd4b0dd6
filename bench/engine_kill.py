"""`python -m bench.engine_kill`: the host of the embedded engine is killed under load, several times.

Sixteen users of the embedded model, half of them streamed, and four users of another model, whose upstream is canned. Shown is that a
call which the kill meets ends with an error of a type and a code: it neither hangs nor looks finished; that no call of the other model
notices; that the host comes back, later after each kill, and answers; and that afterwards the books are exactly what the users have
seen and the audit log is whole. Exit status 1 when one of it does not hold.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import traffic
from bench.engine_load import TINY, Caller, EngineServer, Sums, books_differ, cost
from bench.machine import Process
from bench.subjects import WrongBooks
from bench.talk import ask

OTHERS: Final = 4
"""Users of the other model."""
WORDS: Final = 20
"""Events of its streams, with a pause between: most kills meet them open."""
PAUSE: Final = 0.02
AFTER_ERROR: Final = 0.05
"""Seconds a user waits after an error before asking again; users of the other model after each answer, so that the cores are free."""
PATIENCE: Final = 30.0
"""Seconds in which a host has to be back."""


class Kill(msgspec.Struct, frozen=True):
    """One kill: seconds until there was a new process, and until a call was answered again; how many calls failed meanwhile."""

    process: float
    answer: float
    failed: int


def body(number: int, *, stream: bool) -> dict[str, object]:
    """A call that goes on for 120 tokens: without its end token the model does not come to an end by itself."""
    asked: dict[str, object] = {
        "model": TINY,
        "messages": [{"role": "user", "content": f"Tell me about ticket {number}."}],
        "max_tokens": 120,
        "logit_bias": {"1": -100},
    }
    return asked | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def other(number: int, *, stream: bool) -> dict[str, object]:
    """A call of the other model."""
    asked: dict[str, object] = {"model": traffic.MODEL, "messages": [{"role": "user", "content": f"Ticket {number}"}], "max_tokens": 64}
    return asked | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


class Load:
    """Users who ask until they are told to stop."""

    def __init__(self, port: int, key: str, users: int) -> None:
        self.seen = {TINY: Sums(), traffic.MODEL: Sums()}
        self._port = port
        self._key = key
        self._users = users
        self._numbers = count()
        self._over = False

    async def run(self, until: asyncio.Event) -> None:
        """Ask until `until`; every call that has begun comes to its end."""
        async with asyncio.TaskGroup() as group:
            for place in range(self._users):
                group.create_task(self._user(TINY, body, stream=place % 2 == 0))
            for place in range(OTHERS):
                group.create_task(self._user(traffic.MODEL, other, stream=place % 2 == 0))
            await until.wait()
            self._over = True

    async def _user(self, model: str, make: Callable[..., dict[str, object]], *, stream: bool) -> None:
        caller, seen = Caller(self._port, self._key), self.seen[model]
        while not self._over:
            began = time.perf_counter()
            told = await caller.ask(make(next(self._numbers), stream=stream))
            seen.add(told, time.perf_counter() - began)
            if told.verdict != "answered" or model != TINY:
                await asyncio.sleep(AFTER_ERROR)
        caller.close()


async def _until(condition: Callable[[], bool], what: str) -> float:
    """Seconds it took. Raises TimeoutError with `what`."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > PATIENCE:
            raise TimeoutError(f"{what} within {PATIENCE:.0f} s")
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


async def kill(server: EngineServer, load: Load) -> Kill:
    """Once, when as many calls were answered as there are users and the engine is at work."""
    seen = load.seen[TINY]
    enough = seen.verdicts["answered"] + 16
    await _until(lambda: seen.verdicts["answered"] >= enough, "not sixteen calls were answered")
    pid, failed = server.host(), seen.verdicts["failed"]
    if pid is None:
        raise TimeoutError("there is no host of the engine")
    os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    await _until(lambda: server.host() not in {None, pid}, "no new host")
    process, answered = time.perf_counter() - began, seen.verdicts["answered"]
    await _until(lambda: seen.verdicts["answered"] > answered, "no answer of a new host")
    return Kill(process, time.perf_counter() - began, seen.verdicts["failed"] - failed)


async def under_load(server: EngineServer, load: Load, kills: int) -> list[Kill]:
    """All kills."""
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    made: list[Kill] = []
    try:
        with Progress() as progress:
            task = progress.add_task("kills", total=kills)
            for _ in range(kills):
                made.append(await kill(server, load))
                progress.advance(task)
    finally:
        stop.set()
        await running
    return made


def problems(kills: list[Kill], seen: dict[str, Sums]) -> list[str]:
    """What is not as it should be, books apart."""
    found = []
    for model, sums in seen.items():
        bad = {verdict: number for verdict, number in sums.verdicts.items() if verdict in {"hung", "wrong"}}
        if bad:
            found.append(f"{model}: {bad}, the first: {sums.wrong}")
    if failed := seen[traffic.MODEL].verdicts["failed"]:
        found.append(f"{traffic.MODEL}: {failed} calls failed: {dict(seen[traffic.MODEL].codes)}")
    if not seen[TINY].cut:
        found.append("no kill met an open stream")
    unharmed = sum(kill.failed == 0 for kill in kills)
    if unharmed:
        found.append(f"{unharmed} kills met no call, so they show nothing")
    return found


def main() -> int:
    """Kill and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="how often (default 5)")
    parser.add_argument("--users", type=int, default=16, help="users of the embedded model (default 16)")
    given = parser.parse_args()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="gatehouse-kill-") as place:
        origin = Process("the upstream", [sys.executable, "-m", "bench.upstream"], Path(place) / "upstream.log", None, piped=True)
        try:
            upstream = origin.read_port()
            ask(upstream, "POST", "/shape", {"frames": WORDS, "burst": 1, "pace": PAUSE})
            server = EngineServer(Path(place), upstream=upstream)
            try:
                key, key_id = server.make_key()
                load = Load(server.port, key, given.users)
                kills = asyncio.run(under_load(server, load, given.kills))
                rows = server.rows(key_id)
            finally:
                server.stop()
            wrong = problems(kills, load.seen) + books_differ(rows, TINY, load.seen[TINY], cost(load.seen[TINY]))
            served = ask(upstream, "GET", "/served")[1]
        finally:
            origin.stop()
        others = load.seen[traffic.MODEL]
        spent = served["whole"] * traffic.cost(traffic.ANSWER_TOKENS) + served["streams"] * traffic.cost(WORDS)
        wrong += books_differ(rows, traffic.MODEL, others, spent)
        try:
            audit = server.verify()
        except WrongBooks as error:
            audit, wrong = "", [*wrong, str(error)]
    tell(console, kills, load.seen, audit)
    for problem in wrong:
        console.print(f"[red]not as it should be[/]: {problem}")
    return 1 if wrong else 0


def tell(console: Console, kills: list[Kill], seen: dict[str, Sums], audit: str) -> None:
    """What was seen."""
    table = Table("kill", "new process after", "answers after", "calls that failed", title="SIGKILL of the engine's host")
    for number, each in enumerate(kills, 1):
        table.add_row(str(number), f"{each.process:.2f} s", f"{each.answer:.2f} s", str(each.failed))
    console.print(table)
    for model, sums in seen.items():
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(sums.verdicts.items()))
        codes = f" ({', '.join(f'{code} {number}' for code, number in sums.codes.most_common())})" if sums.codes else ""
        cut = f", {sums.cut} of them within their stream" if sums.cut else ""
        console.print(f"{model}: {sums.calls} calls: {verdicts}{cut}{codes}; the slowest took {sums.slowest:.2f} s")
    console.print(audit)


if __name__ == "__main__":
    sys.exit(main())
