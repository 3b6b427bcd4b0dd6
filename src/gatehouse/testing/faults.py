"""A TCP proxy that is bad on purpose, after Toxiproxy's toxics: put it before any server and see what its clients do.

Toxics act on pieces as they pass, in the order they were added, in one direction; adding or clearing them takes effect on
open connections too. `down` and `up` make the whole thing disappear and come back on the same port.
"""

import asyncio
import random
from types import TracebackType
from typing import Final, Literal

import msgspec

from gatehouse.testing.upstream import reset

Direction = Literal["down", "up"]
"""down: from the server to its client. up: the other way."""


class Latency(msgspec.Struct, frozen=True):
    """Each piece waits `seconds`, more or less `jitter`."""

    seconds: float
    jitter: float = 0.0


class Bandwidth(msgspec.Struct, frozen=True):
    """No more than so many bytes a second."""

    bytes_per_second: int


class Slicer(msgspec.Struct, frozen=True):
    """Pieces of at most `size` bytes, `gap` seconds apart."""

    size: int
    gap: float = 0.0


class LimitData(msgspec.Struct, frozen=True):
    """After so many bytes of a connection it is closed, politely."""

    bytes: int


class Reset(msgspec.Struct, frozen=True):
    """After so many bytes of a connection it is reset."""

    after: int = 0


class Stall(msgspec.Struct, frozen=True):
    """After so many bytes of a connection nothing passes any more, but it stays open."""

    after: int = 0


Toxic = Latency | Bandwidth | Slicer | LimitData | Reset | Stall
_READ: Final = 65_536


class FaultProxy:
    """Stands before `host:port`. An async context manager; `seed` fixes the jitter."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._target = (host, port)
        self._rng = random.Random(seed)  # noqa: S311 - jitter that repeats, nothing secret
        self._toxics: list[tuple[Direction, Toxic]] = []
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    def add(self, toxic: Toxic, direction: Direction = "down") -> None:
        """Let `toxic` act from now on."""
        self._toxics.append((direction, toxic))

    def clear(self) -> None:
        """Let everything pass. What a Stall has swallowed stays swallowed."""
        self._toxics.clear()

    async def up(self) -> None:
        """Listen; after `down`, on the port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse new connections and reset the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(link.ended.wait() for link in links))

    async def __aenter__(self) -> "FaultProxy":
        await self.up()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.down()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            reset(writer.transport)
            return
        link = _Link(self, writer, far_writer)
        self._links.add(link)
        try:
            await link.carry(reader, far_reader)
        finally:
            self._links.discard(link)

    # --- from its links --------------------------------------------------------------------------------------------

    def acting(self, direction: Direction) -> list[Toxic]:
        """What acts on a piece that passes now."""
        return [toxic for where, toxic in self._toxics if where == direction]

    def around(self, toxic: Latency) -> float:
        """Seconds that a piece waits."""
        return max(0.0, toxic.seconds + self._rng.uniform(-toxic.jitter, toxic.jitter))


class _Link:
    """A client's connection and ours to the server, with a pump each way."""

    def __init__(self, proxy: FaultProxy, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._stop = asyncio.Event()
        self.ended = asyncio.Event()

    def reset(self) -> None:
        """Break both connections."""
        reset(self._near.transport)
        reset(self._far.transport)
        self._stop.set()

    async def carry(self, near: asyncio.StreamReader, far: asyncio.StreamReader) -> None:
        """Pump until either side has ended or a toxic broke the link."""
        pumps = [
            asyncio.get_running_loop().create_task(self._pump("up", near, self._far)),
            asyncio.get_running_loop().create_task(self._pump("down", far, self._near)),
            asyncio.get_running_loop().create_task(self._stop.wait()),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in (self._near, self._far):
                writer.close()
            self.ended.set()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        try:
            while data := await reader.read(_READ):
                for piece in self._slices(direction, data):
                    left = await self._suffer(direction, piece, passed)
                    writer.write(piece[:left])
                    await writer.drain()
                    passed += left
                    if left < len(piece) and not await self._break(direction, passed):
                        return
        except OSError:
            return

    def _slices(self, direction: Direction, data: bytes) -> list[bytes]:
        size = min((toxic.size for toxic in self._proxy.acting(direction) if isinstance(toxic, Slicer)), default=len(data))
        return [data[start : start + size] for start in range(0, len(data), size)]

    async def _suffer(self, direction: Direction, piece: bytes, passed: int) -> int:
        """Wait as the toxics say; how many bytes of the piece may pass."""
        left = len(piece)
        for toxic in self._proxy.acting(direction):
            match toxic:
                case Latency():
                    await asyncio.sleep(self._proxy.around(toxic))
                case Bandwidth(bytes_per_second=rate):
                    await asyncio.sleep(len(piece) / rate)
                case Slicer(gap=gap):
                    await asyncio.sleep(gap)
                case LimitData(bytes=bound) | Reset(after=bound) | Stall(after=bound):
                    left = min(left, max(0, bound - passed))
        return left

    async def _break(self, direction: Direction, passed: int) -> bool:
        """What the bound that was reached does; True when the pump may go on."""
        for toxic in self._proxy.acting(direction):
            match toxic:
                case LimitData(bytes=bound) if passed >= bound:
                    return False
                case Reset(after=bound) if passed >= bound:
                    self.reset()
                    return False
                case Stall(after=bound) if passed >= bound:
                    await asyncio.get_running_loop().create_future()
                case _:
                    continue
        return True
