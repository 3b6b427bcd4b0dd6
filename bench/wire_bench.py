"""How fast is the data plane's HTTP server alone: one core serves a constant answer, the other one asks.

    python bench/wire_bench.py [--seconds 3] [--connections 32] [--pipeline 1] [--mode answer|stream|bare]

`bare` is the floor: the same event loop, answering fixed bytes to every segment that comes, parsing nothing.
`stream` counts events: each request is answered with a stream of 100.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.ports import Timer
from gatehouse.core.request_ids import RequestIds
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.read import Read
from gatehouse.wire.http.data_plane import DataPlane, Route
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.server import DataServer

BODY = json.dumps({"model": "assistant", "messages": [{"role": "user", "content": "Say something about gates. " * 4}]}).encode()
FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"User-Agent: OpenAI/Python 2.8.1\r\nContent-Type: application/json\r\nX-Stainless-Lang: python\r\n"
    b"Authorization: Bearer gh_live_ab12cd34_0123456789abcdefghijklmnopqrstuv\r\n"
)
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, len(BODY), BODY)
REPLY = json.dumps({"id": "chatcmpl-1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "A gate. " * 20}}]}).encode()
FRAME = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" gate"}}]}\n\n'
ANSWER = Answer(choices=(Choice(text="A gate."),), raw=REPLY, dialect="bench")
CHUNK = Chunk(choices=(ChoiceDelta(text=" gate"),), raw=FRAME, dialect="bench")
EVENTS = 100


class Dialect:
    """Constant words, so that only the server is measured."""

    name = "bench"

    def __init__(self, *, stream: bool) -> None:
        self._call = Call(model="assistant", stream=stream)

    def decode_request(self, body: bytes) -> Call:
        return self._call

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        return answer.raw

    def open_stream(self, call: Call, request_id: str) -> "Dialect":
        return self

    def event(self, event: Event, cost: str | None) -> bytes:
        return event.raw

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        return 400, b"{}"

    def error(self, error: GatehouseError) -> bytes:
        return b"data: {}\n\n"


class Constant:
    """The stage that answers: at once, or with events that come one by one as from a socket, four in each turn."""

    name = "constant"

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream

    async def admit(self, x: Exchange) -> Events:
        return self._many() if self._stream else self._one()

    def settle(self, x: Exchange) -> None:
        pass

    async def _one(self) -> AsyncGenerator[Event, None]:
        yield ANSWER

    async def _many(self) -> AsyncGenerator[Event, None]:
        for at in range(EVENTS):
            if at % 4 == 0:
                await asyncio.sleep(0)
            yield CHUNK


class LoopClock:
    """Real time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Any, *args: Any) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback, *args)


class SystemRng:
    """The system's chance."""

    def random(self) -> float:
        return secrets.randbelow(2**53) / 2**53

    def token(self, size: int) -> bytes:
        return os.urandom(size)


class Bare(asyncio.Protocol):
    """The floor."""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(REPLY), REPLY)

    def data_received(self, data: bytes) -> None:
        self._write(self._answer * data.count(b"POST "))


def serve(sock: socket.socket, mode: str, core: int) -> None:
    """The server's process."""
    os.sched_setaffinity(0, {core})
    tasks: set[asyncio.Task[Any]] = set()

    def spawn(work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def run() -> None:
        if mode == "bare":
            await asyncio.get_running_loop().create_server(Bare, sock=sock)
        else:
            stream = mode == "stream"
            clock = LoopClock()
            runner = Runner((Read(20_000_000, offload=None), Constant(stream=stream)), clock)
            dialect = Dialect(stream=stream)
            plane = DataPlane(
                runner,
                {"/v1/chat/completions": Route(dialect, "chat")},
                dialect,
                ready=lambda: (True, {}),
                ids=RequestIds(SystemRng(), clock),
            )
            await DataServer(plane, HttpLimits(), clock, spawn).start([sock])
        await asyncio.Event().wait()

    uvloop.run(run())


class Client(asyncio.Protocol):
    """Asks, counts, asks again."""

    def __init__(self, pipeline: int, ending: bytes, tally: list[int]) -> None:
        self._pipeline = pipeline
        self._ending = ending
        self._tally = tally
        self._missing = 0
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._missing = self._pipeline
        self._transport.write(REQUEST * self._pipeline)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        ended = data.count(self._ending)
        self._tail = data[-len(self._ending) + 1 :] if not data.endswith(self._ending) else b""
        self._tally[0] += ended
        self._missing -= ended
        if self._missing <= 0:
            self._ask()


async def load(path: str | tuple[str, int], seconds: float, connections: int, pipeline: int, ending: bytes) -> float:
    """Answers a second."""
    loop = asyncio.get_running_loop()
    tally = [0]
    for _ in range(connections):
        assert isinstance(path, tuple)
        await loop.create_connection(lambda: Client(pipeline, ending, tally), *path)
    await asyncio.sleep(0.5)
    before, start = tally[0], time.perf_counter()
    await asyncio.sleep(seconds)
    return (tally[0] - before) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--mode", choices=["answer", "stream", "bare"], default="answer")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listener, given.mode, cores[0]), daemon=True)
    server.start()
    os.sched_setaffinity(0, {cores[-1]})
    ending = b"[DONE]\n\n\r\n0\r\n\r\n" if given.mode == "stream" else REPLY[-40:]
    rate = uvloop.run(load(listener.getsockname(), given.seconds, given.connections, given.pipeline, ending))
    usage = Path(f"/proc/{server.pid}/stat").read_text().split()
    used = float(usage[13]) + float(usage[14])
    server.kill()
    server.join()
    unit = "events/s" if given.mode == "stream" else "requests/s"
    rate = rate * EVENTS if given.mode == "stream" else rate
    busy = used / os.sysconf("SC_CLK_TCK") / (given.seconds + 0.5)
    print(f"{given.mode}: {rate:,.0f} {unit} (server busy {busy:.0%}, so {rate / max(busy, 0.01):,.0f} a full core)")


if __name__ == "__main__":
    main()
