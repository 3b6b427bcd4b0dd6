"""A canned OpenAI-compatible upstream, as fast as one Python process gets: it must not be what is measured.

    python -m bench.upstream [--port 0]

Prints its port. Beside chat completions it knows two paths of its own: `GET /served` tells what it served, and `POST /shape`
sets how streams are sent: {"frames": 100, "burst": 1, "pace": 0.0}, `burst` frames in each write, `pace` seconds between.
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import httptools
import uvloop

from bench import traffic

_BASE: Final = {"id": "chatcmpl-bench0000000000000000000001", "created": 1767268800, "model": "fake"}
_END: Final = b"data: [DONE]\n\n"
_STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


class Canned:
    """The answers, made once, and the count of what was served."""

    def __init__(self) -> None:
        message = {"role": "assistant", "content": "Paris, of France; the other two are only beautiful."}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        told = {**_BASE, "object": "chat.completion", "choices": [choice], "usage": traffic.usage(traffic.ANSWER_TOKENS)}
        self.whole = _answer(told)
        self.first = _frame({"role": "assistant", "content": ""})
        self.word = _frame({"content": traffic.WORD})
        self.last = _frame({}, "stop")
        self.served = {"whole": 0, "streams": 0, "broken": 0}
        self.shape(frames=100, burst=1, pace=0.0)

    def shape(self, frames: int, burst: int, pace: float) -> None:
        """How streams are sent from now on: `frames` words, `burst` in a write."""
        self.frames, self.burst, self.pace = frames, burst, pace
        told = {**_BASE, "object": "chat.completion.chunk", "choices": [], "usage": traffic.usage(frames)}
        self.usage = _chunk(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, canned: Canned) -> None:
        self._canned = canned
        self._answering: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._write: Callable[[bytes], None] = transport.write
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()
            self._canned.served["broken"] += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # -- what the parser calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        canned, body = self._canned, self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if self._url == b"/served":
            self._write(_answer(canned.served))
        elif self._url == b"/shape":
            canned.shape(**json.loads(body))
            self._write(_answer({}))
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._left, self._usage = canned.frames, b'"include_usage"' in body
            self._write(_STREAM_HEAD + canned.first)
            self._later()
        else:
            canned.served["whole"] += 1
            self._write(canned.whole)

    def _later(self) -> None:
        pace = self._canned.pace
        self._answering = self._loop.call_later(pace, self._more) if pace else self._loop.call_soon(self._more)

    def _more(self) -> None:
        canned = self._canned
        count = min(canned.burst, self._left)
        self._left -= count
        self._write(canned.word * count)
        if self._left:
            self._later()
            return
        self._answering = None
        canned.served["streams"] += 1
        self._write(canned.last + (canned.usage if self._usage else b"") + _chunk(_END) + b"0\r\n\r\n")


def _answer(told: dict[str, Any]) -> bytes:
    body = json.dumps(told, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _frame(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    told = {**_BASE, "object": "chat.completion.chunk", "choices": [choice]}
    return _chunk(b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(port: int) -> None:
    """Serve until the process ends."""
    canned = Canned()
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(canned), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
