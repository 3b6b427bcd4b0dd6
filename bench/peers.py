"""Other gateways to stand beside: each installed into an environment of its own under bench/.peers, never imported.

Settings are the smallest that answer through the same upstream: no keys to check, no log on disk, one process. That is less
work than we do, on purpose.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from bench import traffic
from bench.machine import free_port

HOME: Final = Path(__file__).parent / ".peers"
_INSTALL_SECONDS: Final = 900


class NotHere(RuntimeError):
    """A peer that cannot be installed on this machine; the text says why."""


class Launched(msgspec.Struct, frozen=True):
    """How to run a peer: its command, what a request must carry, and where it will listen."""

    words: list[str]
    port: int
    headers: dict[str, str]
    environment: dict[str, str]


class Peer:
    """One of them."""

    name: str

    def version(self) -> str:
        """What is installed; empty when nothing is."""
        raise NotHere(self.name)

    def install(self) -> None:
        """From the package registry. Raises NotHere."""
        raise NotHere(self.name)

    def launch(self, upstream: int, place: Path) -> Launched:
        """The command; files it needs go to `place`."""
        raise NotHere(self.name)


class Portkey(Peer):
    """Portkey's gateway, from npm."""

    name = "portkey"
    _package: Final = "@portkey-ai/gateway"

    def __init__(self) -> None:
        self._home = HOME / "portkey"
        self._module = self._home / "node_modules" / self._package

    def version(self) -> str:
        described = self._module / "package.json"
        return str(json.loads(described.read_bytes())["version"]) if described.exists() else ""

    def install(self) -> None:
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise NotHere("portkey: Node.js with npm is not installed")
        self._home.mkdir(parents=True, exist_ok=True)
        _install(self.name, [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(self._home), self._package])

    def launch(self, upstream: int, place: Path) -> Launched:
        node, port = shutil.which("node"), free_port()
        assert node is not None
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
        words = [node, str(self._module / "build" / "start-server.js"), f"--port={port}", "--headless"]
        return Launched(words, port, headers, {"NODE_ENV": "production"})


class LiteLlm(Peer):
    """LiteLLM's proxy, from PyPI."""

    name = "litellm"

    def __init__(self) -> None:
        self._home = HOME / "litellm"
        self._python = self._home / "bin" / "python"

    def version(self) -> str:
        found = sorted(self._home.glob("lib/python*/site-packages/litellm-*.dist-info"))
        return found[-1].name.removeprefix("litellm-").removesuffix(".dist-info") if found else ""

    def install(self) -> None:
        if not self._python.exists():
            _install(self.name, [sys.executable, "-m", "venv", str(self._home)])
        _install(self.name, [str(self._python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"])

    def launch(self, upstream: int, place: Path) -> Launched:
        port = free_port()
        target = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-upstream"}
        settings = {"model_list": [{"model_name": traffic.MODEL, "litellm_params": target}], "litellm_settings": {"telemetry": False}}
        config = place / "litellm.yaml"
        config.write_text(json.dumps(settings))
        command = str(self._home / "bin" / "litellm")
        words = [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it ships with the package; without this it is fetched at start
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, for the time of a run: no keys to check
        }
        return Launched(words, port, {}, environment)


def _install(name: str, words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"{name}: {error}") from None
    if done.returncode != 0:
        raise NotHere(f"{name}: the registry does not give it here: {(done.stderr or done.stdout).strip()[-400:]}")


def known() -> dict[str, Peer]:
    """By name."""
    return {peer.name: peer for peer in (Portkey(), LiteLlm())}
