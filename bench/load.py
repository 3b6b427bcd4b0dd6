"""The load: closed loop on kept connections, bounded in time and count, with every answer checked.

Each connection asks, waits for the whole answer, and asks again; so many connections are so many calls at a time.
"""

import asyncio
import gc
import time
from itertools import count
from typing import Any, Final

import msgspec
import uvloop

from bench import traffic

_STUCK_SECONDS: Final = 60.0
"""How long after the end of the time the last answers may take."""
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Figures(msgspec.Struct):
    """What came of some load. Seconds; latencies are of complete answers, `first` to the first event of a stream."""

    done: int = 0
    errors: int = 0
    seconds: float = 0.0
    events: int = 0
    latencies: list[float] = []
    first: list[float] = []
    complaint: str = ""
    """The beginning of the first answer that was not right."""


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._pieces: list[bytes] = []
        self._asking = False
        self._need = -1
        self._have = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def _next(self) -> None:
        load = self._load
        now = time.perf_counter()
        if load.left <= 0 or now >= load.until:
            self._transport.close()
            return
        load.left -= 1
        self._asking, self._pieces, self._need, self._have, self._started = True, [], -1, 0, now
        self._first = 0.0
        self._transport.write(load.ask.numbered(next(load.serials)))

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._have += len(data)
        if self._load.ask.stream:
            if not self._first and b"data:" in data:
                self._first = time.perf_counter()
            if self._at_last_chunk() or self._pieces[0][9:12] != b"200":
                self._end()
            return
        if self._need < 0:
            self._measure()
        if self._need == 0:
            if self._at_last_chunk():
                self._end()
        elif 0 < self._need <= self._have:
            self._end()

    def _at_last_chunk(self) -> bool:
        tail = self._pieces[-1]
        if len(tail) < len(_LAST_CHUNK):
            tail = b"".join(self._pieces[-len(_LAST_CHUNK) :])
        return tail.endswith(_LAST_CHUNK)

    def _measure(self) -> None:
        """Find where the answer ends: `_need` bytes, or 0 for the last chunk."""
        text = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        at = text.find(b"\r\n\r\n")
        if at < 0:
            return
        head = text[:at].lower() + b"\r\n"
        _, found, rest = head.partition(b"\r\ncontent-length: ")
        self._need = at + 4 + int(rest[: rest.index(b"\r\n")]) if found else 0

    def _end(self) -> None:
        now, load = time.perf_counter(), self._load
        self._asking = False
        answer = b"".join(self._pieces)
        load.answered(answer, now - self._started, self._first - self._started if self._first else 0.0)
        if answer[9:12] == b"200":
            self._next()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._asking:
            self._load.failed(b"".join(self._pieces) or b"the connection ended without an answer")
        self._load.gone()


class Load:
    """Some asking: `concurrency` connections until `seconds` or `most` requests are over. `serials` keeps requests distinct."""

    def __init__(
        self, ask: traffic.Ask, port: int, concurrency: int, seconds: float, most: int, serials: "count[int]", words: int = 0
    ) -> None:
        self.ask = ask
        self.serials = serials
        self.left = most
        self.until = 0.0
        self.figures = Figures()
        self._port = port
        self._open = concurrency
        self._concurrency = concurrency
        self._seconds = seconds
        self._words = words

    async def run(self) -> Figures:
        """Ask until it is over.

        Raises:
            TimeoutError: answers are missing a minute after the end.
        """
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        start = time.perf_counter()
        self.until = start + self._seconds
        for _ in range(self._concurrency):
            await loop.create_connection(lambda: Caller(self), "127.0.0.1", self._port)
        async with asyncio.timeout(self._seconds + _STUCK_SECONDS):
            await self._over
        self.figures.seconds = time.perf_counter() - start
        return self.figures

    def answered(self, answer: bytes, seconds: float, first: float) -> None:
        """An answer came to its end."""
        if answer[9:12] != b"200" or (self.ask.stream and not self._whole(answer)):
            self.failed(answer)
            return
        figures = self.figures
        figures.done += 1
        figures.latencies.append(seconds)
        if self.ask.stream:
            figures.first.append(first)
            figures.events += self._words

    def _whole(self, answer: bytes) -> bool:
        """Every word arrived, and the end; chunks may have cut a word in two."""
        word = traffic.WORD.encode()
        if self.ask.end in answer and answer.count(word) == self._words:
            return True
        body = dechunked(answer.partition(b"\r\n\r\n")[2])
        return self.ask.end in body and body.count(word) == self._words

    def failed(self, answer: bytes) -> None:
        """No answer, or not the right one."""
        self.figures.errors += 1
        self.figures.complaint = self.figures.complaint or answer[:600].decode("utf-8", "replace")

    def gone(self) -> None:
        """A connection ended."""
        self._open -= 1
        if self._open == 0 and not self._over.done():
            self._over.set_result(None)


def run(ask: traffic.Ask, port: int, concurrency: int, seconds: float, serials: "count[int]", most: int = 10**8, words: int = 0) -> Figures:
    """`Load` in a loop of its own, without the garbage collector's pauses in the latencies."""
    gc.collect()
    gc.disable()
    try:
        return uvloop.run(Load(ask, port, concurrency, seconds, most, serials, words).run())
    finally:
        gc.enable()


def dechunked(body: bytes) -> bytes:
    """A chunked body without its framing."""
    pieces, at = [], 0
    while at < len(body):
        line = body.index(b"\r\n", at)
        size = int(body[at:line].partition(b";")[0], 16)
        pieces.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
        if size == 0:
            break
    return b"".join(pieces)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
