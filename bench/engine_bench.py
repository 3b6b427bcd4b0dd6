"""`python -m bench.engine_bench`: tokens a second of the embedded engine by itself, and through Gatehouse with every control.

Both answer the same prompts greedily, in turns, so that what else the machine does hits both; what counts is the ratio. By itself the
engine is driven by one thread a user, never more at work than it has slots; through Gatehouse each user is an HTTP client.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from bench.machine import Process, free_port, load_average
from bench.subjects import ADMIN_KEY, READY_SECONDS
from bench.talk import ask
from gatehouse.adapters.engines.llamacpp import LlamaEngine
from gatehouse.core.calls import Call, Message
from gatehouse.core.events import Answer, Chunk
from gatehouse.models import builtin_path

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
        if event.usage is not None:
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


def serve(place: Path, slots: int) -> tuple[Process, int]:
    """A server with the built-in model and nothing else."""
    port = free_port()
    config = place / "gatehouse.yaml"
    models = [{"name": "tiny", "targets": [{"engine": "llamacpp", "path": "builtin", "slots": slots}]}]
    config.write_text(json.dumps({"models": models}))
    words = [sys.executable, "-m", "gatehouse", "serve", "--config", str(config), "--data-dir", str(place / "data")]
    words += ["--port", str(port), "--admin-port", str(free_port()), "--workers", "1"]
    process = Process("gatehouse", words, place / "serve.log", None, environment={"GATEHOUSE_BOOTSTRAP_KEY": ADMIN_KEY})
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}

    def answers() -> bool:
        try:
            return ask(port, "POST", "/v1/chat/completions", chat, {"authorization": f"Bearer {ADMIN_KEY}"}, 20.0)[0] == 200
        except OSError:
            return False

    process.wait_until(answers, READY_SECONDS)
    return process, port


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everybody has a turn (default 5)")
    parser.add_argument("--calls", type=int, default=96, help="calls a turn (default 96)")
    parser.add_argument("--slots", type=int, default=8, help="slots of the engine (default 8)")
    parser.add_argument("--users", default="1,8,32", help="callers at a time (default 1,8,32)")
    given = parser.parse_args()
    users = [int(number) for number in given.users.split(",")]
    found: dict[tuple[str, int], list[float]] = {(subject, number): [] for subject in SUBJECTS for number in users}
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as place:
        engine = LlamaEngine(builtin_path(), slots=given.slots)
        process, port = serve(Path(place), given.slots)
        try:
            turns: dict[str, Callable[[int, int], float]] = {
                "engine": lambda number, calls: alone(engine, number, calls),
                "whole": lambda number, calls: asyncio.run(through(port, number, calls, stream=False)),
                "streamed": lambda number, calls: asyncio.run(through(port, number, calls, stream=True)),
            }
            for _ in range(given.rounds):
                for number in users:
                    calls = given.calls if number > 1 else given.calls // 2
                    for subject in SUBJECTS:
                        found[subject, number].append(turns[subject](number, calls))
        finally:
            process.stop()
            engine.close()
    tell(found, users, given.slots)
    return 0


def tell(found: dict[tuple[str, int], list[float]], users: list[int], slots: int) -> None:
    """Medians, and the medians of the ratios within each round."""

    def ratio(over: tuple[str, int], under: tuple[str, int]) -> float:
        return statistics.median(a / b for a, b in zip(found[over], found[under], strict=True))

    print(f"{slots} slots, {len(found['engine', users[0]])} rounds, load {load_average():.1f}; tokens/s, medians")
    for number in users:
        line = ", ".join(f"{subject} {statistics.median(found[subject, number]):,.0f}" for subject in SUBJECTS)
        ratios = ", ".join(f"{subject}/engine {ratio((subject, number), ('engine', number)):.2f}" for subject in SUBJECTS[1:])
        print(f"  {number:3} users: {line}; {ratios}")
    if slots in users and max(users) > slots:
        print(
            "  ",
            ", ".join(f"{subject} {max(users)}/{slots} users {ratio((subject, max(users)), (subject, slots)):.2f}" for subject in SUBJECTS),
        )


if __name__ == "__main__":
    sys.exit(main())
