"""What is measured: nothing in between, the bare relay, Gatehouse with everything on, and the peers."""

import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bench import load, peers, talk, traffic
from bench.machine import ROOT, Cores, Memory, Process, cpu_seconds, free_port, memory, pin

READY_SECONDS: Final = 120.0
ADMIN_KEY: Final = "bench-administrator-key-0123456789"
PLENTY: Final = {"requests_per_minute": 2_000_000_000, "tokens_per_minute": 2_000_000_000_000, "concurrency": 100_000}
"""Limits that are checked and held at every call and refuse none."""


class WrongBooks(RuntimeError):
    """Usage, cost or the audit log is not what was sent."""


class Subject:
    """Somebody who answers chats on a port."""

    name = "direct"
    headers: Mapping[str, str] = MappingProxyType({})
    translates = False
    """Whether it answers `/v1/messages` for an upstream that speaks OpenAI's format."""

    def __init__(self, cores: Cores, port: int) -> None:
        self.cores = cores
        self.port = port
        self.key = "sk-bench-0123456789abcdef"
        self.pid: int | None = None
        self.helper_pid: int | None = None
        """A process beside the measured one that works for it."""
        self.serials = count(1)

    def run(
        self, body: dict[str, object], concurrency: int, seconds: float, *, most: int = 10**8, words: int = 0, translated: bool = False
    ) -> load.Figures:
        """Send chats with `body`; `words` > 0 asks for streams of so many. Everything sent is booked.

        `translated` asks in Anthropic's words, of those who translate; all others are asked as ever.
        """
        ask = traffic.ask(self.name, body, self.key, self.headers, stream=words > 0, translated=translated and self.translates)
        figures = load.run(ask, self.port, concurrency, seconds, self.serials, most, words)
        self.book(figures, words)
        return figures

    def book(self, figures: load.Figures, words: int) -> None:
        """Remember what was answered."""

    def cpu(self) -> float:
        """Seconds of processor time of the measured process so far."""
        return cpu_seconds(self.pid) if self.pid is not None else 0.0

    def helper_cpu(self) -> float:
        """The same of the process beside it."""
        return cpu_seconds(self.helper_pid) if self.helper_pid is not None else 0.0

    def stop(self) -> None:
        """Ended for good."""


class Relay(Subject):
    """The bare relay."""

    name = "relay"

    def __init__(self, cores: Cores, upstream: int, logs: Path) -> None:
        super().__init__(cores, 0)
        words = [sys.executable, "-m", "bench.relay", "--upstream", str(upstream)]
        self._process = Process("the relay", words, logs / "relay.log", cores.measured, piped=True)
        self.port, self.pid = self._process.read_port(), self._process.pid

    def stop(self) -> None:
        self._process.stop()


class Peer(Subject):
    """Another gateway, in an environment of its own."""

    def __init__(self, cores: Cores, peer: "peers.Peer", upstream: int, logs: Path) -> None:
        super().__init__(cores, 0)
        self.name = peer.name
        launched = peer.launch(upstream, logs)
        self.headers, self.port = launched.headers, launched.port
        log = logs / f"{peer.name}.log"
        started = time.perf_counter()
        self._process = Process(peer.name, launched.words, log, cores.measured, environment=launched.environment)
        self.pid = self._process.pid
        try:
            self._process.wait_until(lambda: talk.answers(self.port, self.key, self.headers), READY_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.perf_counter() - started

    def stop(self) -> None:
        self._process.stop(seconds=10.0)


class Gatehouse(Subject):
    """One worker behind every control: a key with limits and a budget, both guards, cache lookup, prices, ledger and audit."""

    name = "gatehouse"
    translates = True

    def __init__(self, cores: Cores, upstream: int, place: Path, root: Path = ROOT) -> None:
        super().__init__(cores, 0)
        self.data_dir = place / "data"
        place.mkdir(parents=True, exist_ok=True)
        config = place / "gatehouse.yaml"
        config.write_text(json.dumps(configuration(upstream)))
        words = [sys.executable, "-m", "gatehouse", "serve", "--config", str(config), "--data-dir", str(self.data_dir)]
        self._spend = Decimal(0)
        self._sent: Counter[str] = Counter()
        self._process, self.port, self._admin_port, self.ready_seconds = start_server(words, place / "serve.log", cores.measured, root=root)
        try:
            self._settle_in()
        except BaseException:
            self.stop()
            raise

    def _settle_in(self) -> None:
        """Everything but the worker goes to another core; the key is made."""
        self.pid = next(pid for pid, words in self._process.children() if "_worker" in words)
        self.helper_pid = self._process.pid
        pin(self.helper_pid, self.cores.rest)
        self.idle = {"steward": memory(self.helper_pid), "worker": memory(self.pid)}
        wanted = {"name": "bench", "limits": PLENTY, "budget": {"usd": "100000000.00", "period": "month"}, "models": [traffic.MODEL]}
        made = self.admin("POST", "/admin/v1/keys", wanted, 201)
        self.key, self._key_id = str(made["key"]), str(made["id"])

    def admin(self, method: str, path: str, body: Any = None, expected: int = 200) -> Any:
        """Ask the admin port."""
        status, told = talk.ask(self._admin_port, method, path, body, {"authorization": f"Bearer {ADMIN_KEY}"})
        if status != expected:
            raise self._process.complaint(f"answered {method} {path} with {status}: {told}")
        return told

    def book(self, figures: load.Figures, words: int) -> None:
        tokens = words or traffic.ANSWER_TOKENS
        self._sent.update(requests=figures.done, input_tokens=figures.done * traffic.PROMPT_TOKENS, output_tokens=figures.done * tokens)
        self._spend += figures.done * traffic.cost(tokens)

    def check_books(self) -> dict[str, str]:
        """Usage counts every request that was answered and no other, and cost is exact.

        Raises:
            WrongBooks: it is not so.
        """
        rows = self.admin("GET", "/admin/v1/usage?group_by=key")["rows"]
        row = next((row for row in rows if row["key"] == self._key_id), None) or {}
        expected = {**self._sent}
        told = {name: row.get(name) for name in expected}
        if told != expected or Decimal(str(row.get("cost_usd", "-1"))) != self._spend:
            raise WrongBooks(f"usage says {row}; sent were {expected} for {self._spend} USD")
        return {"requests": str(expected["requests"]), "cost_usd": str(row["cost_usd"])}

    def check_audit(self) -> str:
        """Offline, after the server was stopped: what `gatehouse audit verify` says.

        Raises:
            WrongBooks: it fails.
        """
        words = [sys.executable, "-m", "gatehouse", "audit", "verify", "--data-dir", str(self.data_dir)]
        log = self.data_dir.parent / "verify.log"
        status = Process("audit verify", words, log, self.cores.rest).wait(600.0)
        if status != 0:
            raise WrongBooks(f"audit verify ended with {status}: {log.read_text()}")
        return log.read_text().strip()

    def memory(self) -> Memory:
        """Of the worker, now."""
        assert self.pid is not None
        return memory(self.pid)

    def stop(self) -> None:
        self._process.stop()


class Embedded:
    """A server without a configuration: the built-in model in its engine host. Only started, asked once and weighed."""

    def __init__(self, cores: Cores, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "gatehouse", "serve", "--data-dir", str(place / "data")]
        process, _, _, self.ready_seconds = start_server(words, place / "serve.log", cores.measured, model="tiny")
        try:
            self.idle = {_role(words): memory(pid) for pid, words in process.children()} | {"steward": memory(process.pid)}
        finally:
            process.stop()


def configuration(upstream: int) -> dict[str, object]:
    """The operator's file; JSON is YAML."""
    provider = {
        "name": "lab",
        "kind": "openai-compatible",
        "base_url": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "sk-upstream",
        "max_connections": 8192,
        "max_waiting": 8192,
    }
    model = {
        "name": traffic.MODEL,
        "targets": [{"provider": "lab", "model": "fake", "price": traffic.PRICE}],
        "cache": {"scope": "key"},
        "guard": {"input": "block", "output": "redact", "unscannable": {"image": "allow"}},
    }
    return {"providers": [provider], "models": [model]}


def start_server(words: list[str], log: Path, core: int, model: str = traffic.MODEL, root: Path = ROOT) -> tuple[Process, int, int, float]:
    """Start `gatehouse serve`; the process, its ports, and the seconds until it answered a chat."""
    port, admin_port = free_port(), free_port()
    words = [*words, "--port", str(port), "--admin-port", str(admin_port), "--workers", "1"]
    started = time.perf_counter()
    process = Process("gatehouse", words, log, core, environment={"GATEHOUSE_BOOTSTRAP_KEY": ADMIN_KEY}, root=root)

    def answers() -> bool:
        body = {**traffic.chat(), "model": model, "max_tokens": 4}
        try:
            return talk.ask(port, "POST", traffic.PATH, body, {"authorization": f"Bearer {ADMIN_KEY}"}, 20.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    try:
        process.wait_until(answers, READY_SECONDS)
    except BaseException:
        process.stop()
        raise
    return process, port, admin_port, time.perf_counter() - started


def _role(words: str) -> str:
    return "worker" if "_worker" in words else "engine host" if "_engine" in words else words
