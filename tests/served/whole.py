"""A whole server as a user starts it: a process of its own, a data directory, real sockets."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

ROOT = Path(__file__).parents[2]


class Reply(msgspec.Struct, frozen=True):
    """An HTTP answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Server:
    """`gatehouse serve` in a child process."""

    def __init__(self, data_dir: Path, config: str | None, *options: str, environment: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.config = data_dir.parent / f"{data_dir.name}.yaml"
        if config is not None:
            self.config.write_text(config)
        self._words = ("serve", "--data-dir", str(data_dir), "--port", "0", "--admin-port", "0", *options)
        if config is not None:
            self._words += ("--config", str(self.config))
        self._environment = environment or {}
        self.process: asyncio.subprocess.Process | None = None
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.url = ""
        self.admin_url = ""

    async def start(self, seconds: float = 60.0) -> None:
        """Return when it is ready."""
        where = self.data_dir / "run" / "server.json"
        where.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gatehouse", *self._words, stdout=log, stderr=log, env={**os.environ, **self._environment}, cwd=ROOT
            )
        async with asyncio.timeout(seconds):
            while not where.exists():
                if self.process.returncode is not None:
                    raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
                await asyncio.sleep(0.02)
        said = json.loads(where.read_bytes())
        self.url, self.admin_url = said["url"], said["admin_url"]

    @property
    def key(self) -> str:
        """The administrator's key, which may also call models."""
        return (self.data_dir / "admin.key").read_text().strip()

    @property
    def port(self) -> int:
        """The data port."""
        return port_of(self.url)

    @property
    def pid(self) -> int:
        """The steward's."""
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for pid, words in children_of(self.pid) if "_worker" in words]

    async def stop(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    # -- talking to it ---------------------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = "", admin: bool = False, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own; key "" is the administrator's, None is none."""
        port = port_of(self.admin_url if admin else self.url)
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {
            "host": f"127.0.0.1:{port}",
            "content-length": str(len(content)),
            "connection": "close",
            "content-type": "application/json",
        }
        if key is not None:
            fields["authorization"] = f"Bearer {key or self.key}"
        fields |= headers or {}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
            async with asyncio.timeout(60):
                return await read_reply(reader)
        finally:
            writer.close()

    async def chat(self, text: str = "hi", *, model: str = "assistant", key: str = "", **fields: Any) -> Reply:
        """One chat completion."""
        return await self.ask(
            "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}], **fields}, key=key
        )

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """One admin call that must go well; its decoded answer."""
        reply = await self.ask(method, path, body, admin=True)
        assert reply.status < 300, reply
        return reply.json()

    async def make_key(self, **fields: Any) -> str:
        """A new key."""
        made = await self.admin("POST", "/admin/v1/keys", {"name": "test", **fields})
        return str(made["key"])

    async def usage(self, group_by: str = "key") -> list[dict[str, Any]]:
        """The rows of the usage report."""
        report = await self.admin("GET", f"/admin/v1/usage?group_by={group_by}")
        return list(report["rows"])

    async def metric(self, name: str) -> float:
        """A metric summed over its labels."""
        reply = await self.ask("GET", "/metrics", admin=True, key=None)
        lines = [line for line in reply.body.decode().splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def gatehouse(self, *words: str) -> tuple[int, str, str]:
        """The command line on this data directory: exit status, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gatehouse", *words, "--data-dir", str(self.data_dir),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """One answer that ends with its length, its last chunk or the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join([piece async for piece in chunks(reader)])
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Reply(int(lines[0].split(" ")[1]), headers, body)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body as they come. Raises IncompleteReadError when it breaks off."""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        piece = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield piece[:-2]


def children_of(pid: int) -> list[tuple[int, list[str]]]:
    """Living children and their command lines, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append((int(path.parent.name), (path.parent / "cmdline").read_text().split("\0")))
    return found


@contextlib.asynccontextmanager
async def serving(data_dir: Path, config: str | None, *options: str, environment: dict[str, str] | None = None) -> AsyncIterator[Server]:
    """A server for the time of a test; its log is shown when the test fails."""
    server = Server(data_dir, config, *options, environment=environment)
    await server.start()
    try:
        yield server
    except BaseException:
        sys.stderr.write(server.log.read_text())
        raise
    finally:
        if server.process is not None and server.process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await server.stop(seconds=45)
            if server.process.returncode is None:
                server.process.kill()
                await server.process.wait()


def port_of(url: str) -> int:
    """The port in a URL, which may have a path."""
    port = urlsplit(url).port
    assert port is not None
    return port


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
