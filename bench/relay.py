"""The floor to compare with: a relay that parses heads, copies bytes both ways over kept upstream connections, and does nothing else.

    python -m bench.relay --upstream PORT [--port 0]

Prints its port. No proxy written in Python that knows where a message ends can be much cheaper than this one.
"""

import argparse
import asyncio
from collections import deque
from typing import Any

import httptools
import uvloop


class Upward(asyncio.Protocol):
    """A kept connection to the upstream; its answers go as they come to whoever has it."""

    def __init__(self, idle: "deque[Upward]") -> None:
        self._idle = idle
        self.client: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.write = transport.write
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client is not None:
            client.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.client = None
        self._idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.client is not None:
            self.client.close()
        elif self in self._idle:
            self._idle.remove(self)


class Relay(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, idle: deque[Upward], port: int) -> None:
        self._idle = idle
        self._port = port
        self._up: Upward | None = None
        self._waiting: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._up is not None and self._up.client is self._transport:
            self._up.transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._up is not None:
            self._up.write(data)
        else:
            self._waiting.append(data)

    def on_message_begin(self) -> None:
        if self._idle:
            self._up = self._idle.popleft()
            self._up.client = self._transport
        else:
            self._up = None
            self._dial = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._up = await loop.create_connection(lambda: Upward(self._idle), "127.0.0.1", self._port)
        self._up.client = self._transport
        self._up.write(b"".join(self._waiting))
        self._waiting.clear()


async def serve(port: int, upstream: int) -> None:
    """Serve until the process ends."""
    idle: deque[Upward] = deque()
    server = await asyncio.get_running_loop().create_server(lambda: Relay(idle, upstream), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--upstream", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.upstream))


if __name__ == "__main__":
    main()
