"""What a child process does until it is killed: carry calls as a worker does, and now and then drain as a steward does.

Whatever has happened for certain is appended to a file of acknowledgements, one line in one write: "o <call>" when the
opened record is kept, "c <call> <charge>" when the closed one is. Every second call is that of a key without a budget.
"""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any, cast

from gatehouse.adapters.storage.audit_log import AuditAppender
from gatehouse.adapters.storage.books import SqlBooks
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.storage.leases import SqlLeaseStore
from gatehouse.adapters.storage.shelf import FileJournalShelf
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.system import SystemClock
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.control.drain import Drain
from gatehouse.control.lease_office import Office
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.identity import Principal, Role
from gatehouse.core.money import Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.records import MeterHold
from gatehouse.core.usage import Usage
from gatehouse.pipeline.bookkeeping import Bookkeeper, Commitments
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.record import Record

METER = "key:ab12cd34:money:total:all"
SEAL = b"s" * 32
HOLD = 10_000


def build_drain(database: Database, folder: Path, office: Office) -> Drain:
    """The steward's drain on this data directory."""
    books = SqlBooks(database.run, AuditAppender(SEAL).append, "server")
    return Drain(FileJournalShelf(folder / "journals"), books, office, SystemClock(), ProcessTally(), batch=200)


def main() -> None:
    """For each line on stdin, "<incarnation> <drains: 0 or 1>", fork a child, say its process id, and say "ended" when it is no more.

    Forking from here, a process with everything loaded and no threads, makes a life cost milliseconds.
    """
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        incarnation, drains = line.split()
        child = os.fork()
        if not child:
            asyncio.run(_carry(folder, incarnation, drains == "1"))
            os._exit(1)
        print(child, flush=True)  # noqa: T201 - the protocol
        os.waitpid(child, 0)
        print("ended", flush=True)  # noqa: T201


async def _carry(folder: Path, incarnation: str, drains: bool) -> None:
    chance = random.Random(incarnation)
    clock = SystemClock()
    tally = ProcessTally()
    journal = JournalWriter.open(folder / "journals", incarnation, rotate_bytes=30_000)
    books = Bookkeeper(journal, clock, tally, Commitments(b"k" * 32), "cfg-1")
    record = Record(books, tally, ("record", "dispatch"))
    acknowledge = os.open(folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    drain: Drain | None = None
    if drains:
        database = await Database.open("sqlite:///test.db", folder)
        office = Office(SqlLeaseStore(database.run), clock)
        await office.open()
        drain = build_drain(database, folder, office)
    number = 0
    while True:
        for _ in range(chance.randrange(1, 60)):
            number += 1
            x = _exchange(f"{incarnation}-{number}", clock, budget=number % 2 == 0)
            await record.admit(x)
            for _ in range(chance.choice((1, 1, 1, 2))):
                if x.opened:
                    books.attempt_failed(x, UpstreamFailed("no", code="upstream_unreachable"))
                books.opened(x, TARGET)
                os.write(acknowledge, f"o {x.request_id}\n".encode())
            if chance.random() < 0.01:
                await books.durable()
            x.outcome = Outcome.COMPLETED
            x.usage = Usage(input=10, output=3)
            x.charge = Money(chance.randrange(HOLD))
            record.settle(x)
            os.write(acknowledge, f"c {x.request_id} {x.charge}\n".encode())
        if drain is not None:
            await drain.drain_now()


TARGET = Target("lab/qwen3", "lab", "qwen3")


def _exchange(request_id: str, clock: SystemClock, *, budget: bool) -> Exchange:
    x = Exchange(request_id, Head("POST", "/v1/chat/completions", {}), None, cast("Any", None))
    x.started_at, x.clock_start = clock.now(), clock.monotonic()
    x.principal = Principal("ab12cd34", "test", frozenset({Role.DEVELOPER}))
    x.call = Call(model="assistant", messages=(Message("user", "hello"),))
    x.plan = Plan("assistant", (TARGET,))
    x.money_holds = (MeterHold(METER, HOLD),) if budget else ()
    x.ceiling = HOLD
    x.marks = [x.clock_start] * 3
    x.entered = 2
    return x


if __name__ == "__main__":
    main()
