"""Processes killed at random points of writing and of draining: nothing that was acknowledged is missing, nothing is there twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import select

from gatehouse.adapters.storage._tables import LEDGER, METERS
from gatehouse.adapters.storage.audit_log import verify
from gatehouse.adapters.storage.leases import SqlLeaseStore
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.system import SystemClock
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.control.lease_office import Office
from tests.adapters.storage.killed_loop import HOLD, METER, SEAL, build_drain

KILLS = int(os.environ.get("KILLS", "40"))
"""`KILLS=200 pytest tests/adapters/storage/test_kill.py` is the long form."""


def lines(path: Path) -> list[str]:
    """Whole lines only: the last one may be torn by the kill."""
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def budgeted(request_id: str) -> bool:
    """Whether the call's key has a budget."""
    return int(request_id.rpartition("-")[2]) % 2 == 0


class Victims:
    """Child processes, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._acknowledged = folder / "acknowledged"
        command = [sys.executable, "-m", "tests.adapters.storage.killed_loop", str(folder)]
        paths = os.pathsep.join(path for path in sys.path if path)
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env={**os.environ, "PYTHONPATH": paths}
        )

    def run_and_kill(self, incarnation: str, drains: bool, more: int) -> None:
        """Let a child work until it has acknowledged about `more` things, then SIGKILL it wherever it stands."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        enough = self._size() + more * 10
        self._server.stdin.write(f"{incarnation} {drains:d}\n")
        child = int(self._server.stdout.readline())
        deadline = time.monotonic() + 60
        try:
            while self._size() < enough:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        finally:
            os.kill(child, signal.SIGKILL)
        assert self._server.stdout.readline() == "ended\n"

    def close(self) -> None:
        """No child is left."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.wait(10) == 0
        assert self._server.stdout is not None
        self._server.stdout.close()

    def _size(self) -> int:
        return self._acknowledged.stat().st_size if self._acknowledged.exists() else 0


async def test_no_kill_loses_or_doubles_a_call(tmp_path: Path) -> None:
    """After all the kills and one drain: each acknowledged end is in the ledger as acknowledged, each call that was only opened is lost
    and charged its hold, budget or none, every call has one final row and one audit event, the meter is the sum of its rows, and the
    log verifies."""
    chance = random.Random(20260101)
    victims = Victims(tmp_path)
    for number in range(KILLS):
        victims.run_and_kill(f"w{number}", number % 2 == 1, chance.randrange(1, 300))
    victims.close()
    database = await Database.open("sqlite:///test.db", tmp_path)
    office = Office(SqlLeaseStore(database.run), SystemClock())
    await office.open()
    await build_drain(database, tmp_path, office).drain_now()

    opened = {line.split()[1] for line in lines(tmp_path / "acknowledged") if line.startswith("o ") and line.endswith("\n")}
    closed = {
        line.split()[1]: int(line.split()[2]) for line in lines(tmp_path / "acknowledged") if line.startswith("c ") and line.endswith("\n")
    }
    query = select(LEDGER.c.request_id, LEDGER.c.outcome, LEDGER.c.charge, LEDGER.c.final, LEDGER.c.attempt)
    rows = await database.read(lambda connection: list(connection.execute(query)))
    final = {row.request_id: row for row in rows if row.final}
    assert len(final) == sum(bool(row.final) for row in rows)
    assert {name: (final[name].outcome, final[name].charge) for name in closed} == {
        name: ("completed", charge) for name, charge in closed.items()
    }
    assert opened | closed.keys() <= final.keys()
    # A kill may fall between a record and its acknowledgement, once a life.
    unknown = final.keys() - closed.keys()
    assert len(unknown) <= KILLS
    assert all(final[name].outcome in {"lost", "completed"} for name in unknown)
    lost = [row for row in final.values() if row.outcome == "lost"]
    assert all(row.charge == (HOLD if row.attempt else 0) for row in lost)
    spent = await database.read(lambda connection: connection.scalar(select(METERS.c.spent).where(METERS.c.meter == METER)))
    assert spent == sum(row.charge for row in rows if budgeted(row.request_id))
    report = await database.read(lambda connection: verify(connection, AuditSigner(bytes(range(32)), "0123456789abcdef"), seal_key=SEAL))
    assert (report.ok, report.size) == (True, len(final))
    assert list((tmp_path / "journals").glob("[!.]*")) == []
    await database.close()
