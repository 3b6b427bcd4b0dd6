"""Reads the documentation as a program would: its fenced blocks, what is said about each, and runs those that are commands.

A block may have a note before it, an HTML comment that readers do not see: `<!-- run in the background -->`,
`<!-- press ctrl-c -->` or `<!-- not run: REASON -->`. A `text` block shows what the block before it prints; `...` in it
stands for anything.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if not {"decisions", "reference"} & set(path.parts)
)
_FENCE = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(msgspec.Struct, frozen=True):
    """One fenced block: its language, what the comment before it says, its text, and its line in the page."""

    language: str
    note: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(found["language"], found["note"] or "", found["text"], text.count("\n", 0, found.start("language")) + 1)
        for found in _FENCE.finditer(text)
    ]


def named(page: Path) -> str:
    """A page as tests name it."""
    return str(page.relative_to(ROOT))


def assert_shown(expected: str, output: str, where: str) -> None:
    """What a page shows is in what was printed, in order; `...` stands for anything, and line ends for any white space."""
    lines = [".*?".join(re.escape(part) for part in line.split("...")) for line in expected.strip().splitlines()]
    assert re.search(r"\s+".join(lines), output, re.S), f"{where}: the page shows\n{expected}\nbut this was printed\n{output}"


class Reader:
    """Somebody who follows a page: a directory, a shell whose variables last, and a second terminal for the server."""

    def __init__(self, home: Path, replaced: dict[str, str]) -> None:
        self._home = home
        self._replaced = replaced
        self._state = home / ".shell"
        self._state.write_text("")
        self._server: subprocess.Popen[bytes] | None = None
        self._server_log = home / ".server"
        tools = home / ".bin"
        tools.mkdir()
        for name, words in (("gatehouse", "-m gatehouse"), ("python", ""), ("python3", "")):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            tool.chmod(0o755)
        self._environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(home),
            "PYTHONPATH": str(ROOT / "src"),
            "COLUMNS": "140",
            "LANG": "C.UTF-8",
        }

    def follow(self, page: Path) -> int:
        """Run every block of the page in order and compare what it shows; how many ran."""
        printed, ran = "", 0
        for block in blocks(page):
            where = f"{named(page)}:{block.line}"
            text = block.text
            for shown, real in self._replaced.items():
                text = text.replace(shown, real)
            if block.note == "press ctrl-c":
                printed = self.stop()
            if block.language == "text":
                if self._serving(printed):
                    self._wait_for(text, where)
                else:
                    assert_shown(text, printed, where)
            elif block.note.startswith("not run: ") or block.language not in {"bash", "python"}:
                continue
            elif block.note == "run in the background":
                printed = self._start(text)
                ran += 1
            else:
                printed = self._shell(text, where) if block.language == "bash" else self._run([sys.executable, "-c", text], where)
                ran += 1
        return ran

    def _shell(self, text: str, where: str) -> str:
        script = f"set -euo pipefail\nset -a\n. {self._state}\n{text}\nexport -p > {self._state}\n"
        return self._run(["bash", "-c", script], where)

    def _run(self, words: list[str], where: str) -> str:
        if words[0] != "bash":
            words = ["bash", "-c", f'. {self._state}; exec "$@"', "bash", *words]
        done = subprocess.run(words, cwd=self._home, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout}{done.stderr}\n{self._said()}"
        return done.stdout

    # -- the second terminal ---------------------------------------------------------------------------------------

    def _start(self, text: str) -> str:
        self.stop()
        with self._server_log.open("wb") as log:
            words = ["bash", "-c", f". {self._state}\nexec env {text}"]
            self._server = subprocess.Popen(words, cwd=self._home, env=self._environment, stdout=log, stderr=log)
        return "(server)"

    def _serving(self, printed: str) -> bool:
        return printed == "(server)"

    def _wait_for(self, text: str, where: str) -> None:
        """Until the server has printed what the page shows, or has ended, or a minute is over."""
        assert self._server is not None
        deadline = time.monotonic() + 60
        while "Gatehouse is ready" not in self._said() and self._server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert_shown(text, self._said(), where)

    def _said(self) -> str:
        return self._server_log.read_text() if self._server_log.exists() else ""

    def stop(self) -> str:
        """Ctrl-C in the server's terminal; what it printed."""
        if self._server is not None:
            if self._server.poll() is None:
                self._server.send_signal(signal.SIGINT)
            assert self._server.wait(60) == 0, self._said()
            self._server = None
        return self._said()
