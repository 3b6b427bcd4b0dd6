"""What the soak and the kill of the embedded engine share: the server, callers that judge every answer, and the books.

An answer is one of four things. `answered`: whole, with an end and its usage. `failed`: an error with a type and a code, as a status
or in the stream, and no end like that of a finished one. `hung`: nothing for a long time. `wrong`: everything else.
"""

import asyncio
import http.client
import json
import sys
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bench import traffic
from bench.machine import Memory, Process, free_port, memory
from bench.subjects import ADMIN_KEY, PLENTY, READY_SECONDS, WrongBooks
from bench.talk import ask

TINY: Final = "tiny"
PRICE: Final = {"input": "0.25", "output": "2.00"}
"""USD per million tokens of the embedded model, so that money is in the books too."""
HANGS: Final = 30.0
"""Seconds without an answer's end after which a call hangs."""
_END: Final = b"0\r\n\r\n"

Verdict = Literal["answered", "failed", "hung", "wrong"]


class Told(msgspec.Struct, frozen=True):
    """What came of one call."""

    verdict: Verdict
    input: int = 0
    output: int = 0
    code: str = ""
    """Of an error."""
    what: str = ""
    """The beginning of an answer that was wrong."""
    left: bool = False
    """The server ended the connection."""
    begun: bool = False
    """It failed within its stream."""


class Sums(msgspec.Struct):
    """What callers of one model have seen."""

    calls: int = 0
    verdicts: Counter[str] = msgspec.field(default_factory=Counter)
    codes: Counter[str] = msgspec.field(default_factory=Counter)
    cut: int = 0
    """Of those that failed, how many had begun to stream."""
    input: int = 0
    output: int = 0
    wrong: str = ""
    slowest: float = 0.0

    def add(self, told: Told, seconds: float) -> None:
        """One more."""
        self.calls += 1
        self.verdicts[told.verdict] += 1
        self.slowest = max(self.slowest, seconds)
        if told.verdict == "answered":
            self.input += told.input
            self.output += told.output
        elif told.verdict == "failed":
            self.codes[told.code] += 1
            self.cut += told.begun
        else:
            self.wrong = self.wrong or told.what or told.verdict


def judge(status: int, body: bytes, *, stream: bool, whole: bool, left: bool = False) -> Told:
    """What an answer is. `body` is without its framing; `whole` when it came to the end that its framing promised."""
    if status != 200:
        return _failure(body, whole=whole, left=left)
    if not stream:
        try:
            value = json.loads(body)
            usage = value["usage"]
            if whole and value["choices"][0]["finish_reason"]:
                return Told("answered", usage["prompt_tokens"], usage["completion_tokens"], left=left)
        except (ValueError, KeyError, IndexError, TypeError):
            pass
        return Told("wrong", what=_beginning(body), left=left)
    return _judged_stream(body, whole=whole, left=left)


def _failure(body: bytes, *, whole: bool, left: bool) -> Told:
    try:
        error = json.loads(body)["error"]
        if whole and error["type"] and error["message"]:
            return Told("failed", code=str(error.get("code") or error["type"]), left=left)
    except (ValueError, KeyError, TypeError):
        pass
    return Told("wrong", what=_beginning(body), left=left)


def _judged_stream(body: bytes, *, whole: bool, left: bool) -> Told:
    done = finished = False
    usage: dict[str, int] | None = None
    failed = ""
    for line in body.splitlines():
        if line == b"data: [DONE]":
            done = True
        elif line.startswith(b"data: "):
            try:
                frame = json.loads(line[6:])
            except ValueError:
                continue
            if error := frame.get("error"):
                failed = str(error.get("code") or error.get("type") or "")
            finished = finished or any(choice.get("finish_reason") for choice in frame.get("choices") or ())
            usage = frame.get("usage") or usage
    if failed and not done:
        return Told("failed", code=failed, left=left, begun=True)
    if done and finished and usage and whole and not failed:
        return Told("answered", usage["prompt_tokens"], usage["completion_tokens"], left=left)
    return Told("wrong", what=f"...{_beginning(body[-300:])}", left=left)


def _beginning(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace") or "an empty answer"


def dechunked(body: bytes) -> bytes:
    """As much of a chunked body as has come, without its framing."""
    pieces, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        try:
            size = int(body[at:end].partition(b";")[0], 16)
        except ValueError:
            break
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
        if size == 0:
            break
    return b"".join(pieces)


class Caller:
    """One user: a kept connection, made again when the server ended it."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: dict[str, object]) -> Told:
        """One call to its end."""
        try:
            async with asyncio.timeout(HANGS):
                told = await self._once(body) or await self._once(body)
        except TimeoutError:
            told = Told("hung", left=True)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            told = Told("wrong", what=f"no answer: {type(error).__name__}", left=True)
        told = told or Told("wrong", what="no answer", left=True)
        if told.left:
            self.close()
        return told

    async def _once(self, body: dict[str, object]) -> Told | None:
        """None when the server had ended a kept connection before it saw this call, as it does behind a stream that broke."""
        kept = self._line is not None
        reader = await self._send(body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if kept and not getattr(error, "partial", b""):
                self.close()
                return None
            raise
        return await self._read(head.lower(), reader, stream=bool(body.get("stream")))

    async def leave(self, body: dict[str, object]) -> None:
        """One call, left at the first piece of its answer."""
        async with asyncio.timeout(HANGS):
            reader = await self._send(body)
            await reader.read(1)
        self.close()

    async def _send(self, body: dict[str, object]) -> asyncio.StreamReader:
        if self._line is None:
            self._line = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        content = json.dumps(body, separators=(",", ":")).encode()
        head = f"POST {traffic.PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
        self._line[1].write(head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content)
        return self._line[0]

    async def _read(self, head: bytes, reader: asyncio.StreamReader, *, stream: bool) -> Told:
        status, left = int(head[9:12]), b"connection: close" in head
        if b"content-length:" in head:
            body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            return judge(status, body, stream=stream, whole=True, left=left)
        body = b""
        while not body.endswith(_END):
            piece = await reader.read(1 << 16)
            if not piece:
                return judge(status, dechunked(body), stream=stream, whole=False, left=True)
            body += piece
        return judge(status, dechunked(body), stream=stream, whole=True, left=left)

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line[1].transport.abort()
            self._line = None


class EngineServer:
    """`gatehouse serve` with the built-in model, and beside it a model of the canned upstream where there is one."""

    def __init__(self, place: Path, *, slots: int = 8, upstream: int | None = None) -> None:
        self.port, self._admin_port = free_port(), free_port()
        self.data_dir = place / "data"
        self._place = place
        config = place / "gatehouse.yaml"
        config.write_text(json.dumps(configuration(slots, upstream)))
        words = [sys.executable, "-m", "gatehouse", "serve", "--config", str(config), "--data-dir", str(self.data_dir)]
        words += ["--port", str(self.port), "--admin-port", str(self._admin_port), "--workers", "1"]
        self.process = Process("gatehouse", words, place / "serve.log", None, environment={"GATEHOUSE_BOOTSTRAP_KEY": ADMIN_KEY})
        try:
            self.process.wait_until(self._answers, READY_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        chat = {"model": TINY, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        try:
            return ask(self.port, "POST", traffic.PATH, chat, {"authorization": f"Bearer {ADMIN_KEY}"}, 20.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def admin(self, method: str, path: str, body: Any = None, expected: int = 200) -> Any:
        """Ask the admin port."""
        status, told = ask(self._admin_port, method, path, body, {"authorization": f"Bearer {ADMIN_KEY}"})
        if status != expected:
            raise self.process.complaint(f"answered {method} {path} with {status}: {told}")
        return told

    def make_key(self) -> tuple[str, str]:
        """A key whose every meter counts and none refuses, and its id."""
        wanted = {"name": "bench", "limits": PLENTY, "budget": {"usd": "100000000.00", "period": "month"}}
        made = self.admin("POST", "/admin/v1/keys", wanted, 201)
        return str(made["key"]), str(made["id"])

    def host(self) -> int | None:
        """Process id of the engine's host; None while there is none."""
        return next((pid for pid, words in self.process.children() if "_engine" in words), None)

    def memory(self) -> dict[str, Memory]:
        """Of each process, now."""
        named = {"steward": self.process.pid}
        for pid, words in self.process.children():
            named["engine host" if "_engine" in words else "worker" if "_worker" in words else words] = pid
        return {name: memory(pid) for name, pid in named.items()}

    def rows(self, key_id: str) -> list[dict[str, Any]]:
        """The usage of a key by model and outcome."""
        told = self.admin("GET", "/admin/v1/usage?group_by=key,model,outcome")["rows"]
        return [row for row in told if row["key"] == key_id]

    def verify(self) -> str:
        """After `stop`: what `gatehouse audit verify` says offline. Raises WrongBooks."""
        words = [sys.executable, "-m", "gatehouse", "audit", "verify", "--data-dir", str(self.data_dir)]
        log = self._place / "verify.log"
        status = Process("audit verify", words, log, None).wait(600.0)
        if status != 0:
            raise WrongBooks(f"audit verify ended with {status}: {log.read_text()}")
        return log.read_text().strip()

    def stop(self) -> None:
        """End it and all it started."""
        self.process.stop()


def configuration(slots: int, upstream: int | None) -> dict[str, object]:
    """The operator's file; JSON is YAML."""
    models: list[dict[str, object]] = [
        {"name": TINY, "targets": [{"engine": "llamacpp", "path": "builtin", "slots": slots, "price": PRICE}]}
    ]
    if upstream is None:
        return {"models": models}
    lab = {"name": "lab", "kind": "openai-compatible", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-upstream"}
    models.append({"name": traffic.MODEL, "targets": [{"provider": "lab", "model": "fake", "price": traffic.PRICE}]})
    return {"providers": [lab], "models": models}


def cost(sums: Sums) -> Decimal:
    """What the answers of the embedded model cost, exactly."""
    return (sums.input * Decimal(PRICE["input"]) + sums.output * Decimal(PRICE["output"])) / 1_000_000


def books_differ(rows: Iterable[dict[str, Any]], model: str, seen: Sums, spent: Decimal, left: int = 0) -> list[str]:
    """In what the usage of `model` is not what its callers have seen; `left` calls more were left by their callers."""
    mine = {row["outcome"]: row for row in rows if row["model"] == model}
    done = mine.get("completed") or {"requests": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": "0"}
    booked = sum(row["requests"] for row in mine.values())
    pairs = {
        "answered calls": (done["requests"], seen.verdicts["answered"]),
        "their input tokens": (done["input_tokens"], seen.input),
        "their output tokens": (done["output_tokens"], seen.output),
        "their cost": (Decimal(str(done["cost_usd"])), spent),
        "calls of every outcome": (booked, seen.calls + left),
    }
    return [f"{model}: {what}: {told} in the books, {saw} seen" for what, (told, saw) in pairs.items() if told != saw]
