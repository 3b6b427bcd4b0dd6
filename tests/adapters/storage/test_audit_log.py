"""The audit log in SQL: sequencing, sealing, signing, and what becomes of it when its writer is killed."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gatehouse.adapters.storage._audit_tables import AUDIT_EVENTS, AUDIT_STATE
from gatehouse.adapters.storage.audit_log import AuditAppender, SealBroken, SqlAuditLog, page
from gatehouse.adapters.storage.sql import Database
from gatehouse.core.audit import AuditEvent
from gatehouse.core.checkpoints import open_checkpoint
from gatehouse.core.merkle import root_of
from tests.adapters.storage.audit_rig import SEAL, SIGNER, Log, event, kinds


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Twenty events under checkpoints at 8 and 16."""
    made = Log(tmp_path / "audit.db")
    made.append(8)
    made.checkpoint()
    made.append(8)
    made.checkpoint()
    made.append(4)
    yield made
    made.engine.dispose()


# -- what is written -----------------------------------------------------------------------------------------------


def test_a_log_that_nobody_touched_verifies(log: Log) -> None:
    """Every event, leaf, root, checkpoint and the seal; sixteen of twenty events stand under a signature."""
    report = log.verify()
    assert report.ok
    assert (report.size, report.signed, report.checkpoints, report.first_bad) == (20, 16, 2, None)


def test_an_empty_log_verifies_and_can_be_signed(tmp_path: Path) -> None:
    """Before the first event there is a tree too."""
    log = Log(tmp_path / "audit.db")
    assert log.verify().ok
    assert open_checkpoint(log.checkpoint(), SIGNER).size == 0
    assert log.verify().ok
    log.append(0)
    assert log.verify().size == 0
    log.engine.dispose()


def test_sequence_and_root_are_those_of_the_events_in_order(log: Log) -> None:
    """Numbers from 0 without gaps over all batches, and the RFC 6962 root over their leaves."""
    with log.engine.begin() as connection:
        rows = connection.execute(select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.seq)).all()
    assert [row.seq for row in rows] == list(range(20))
    assert [row.subject for row in rows] == [f"req_{number}" for number in range(20)]
    checkpoint = open_checkpoint(log.checkpoint(), SIGNER)
    assert checkpoint.root == root_of([row.leaf for row in rows])


def test_a_batch_that_was_rolled_back_never_happened(log: Log) -> None:
    """The next batch goes on from what is committed."""
    connection = log.engine.connect()
    transaction = connection.begin()
    log.appender.append(connection, [event(99)])
    transaction.rollback()
    connection.close()
    log.append(2)
    assert log.verify().ok
    assert log.verify().size == 22


def test_two_appends_in_one_transaction_follow_each_other(log: Log) -> None:
    """Whoever adds events twice before the commit gets one sequence."""
    with log.engine.begin() as connection:
        log.appender.append(connection, [event(20)])
        log.appender.append(connection, [event(21), event(22)])
    assert log.verify().ok
    assert log.verify().size == 23


def test_a_checkpoint_is_made_once_for_a_size(log: Log) -> None:
    """Asked again without new events, the same note comes back; with new ones, a new note."""
    first = log.checkpoint(1.0)
    assert log.checkpoint(2.0) == first
    log.append(1)
    assert log.checkpoint(3.0) != first


def test_scenario_60_hostile_words_stay_one_line_in_the_table(tmp_path: Path) -> None:
    """Newlines, ANSI sequences, NUL and lone surrogates in any field neither break the log nor its verification."""
    log = Log(tmp_path / "audit.db")
    hostile = "a\nb\x1b[2J\x00|=\\\ud800\u202e"
    with log.engine.begin() as connection:
        log.appender.append(connection, [AuditEvent(1.0, "call", hostile, hostile, "default", hostile, hostile, {hostile: hostile})])
        (row,) = page(connection, "default", None, 10)
    for column in (row.action, row.actor, row.subject, row.outcome, row.detail):
        assert column.isprintable()
    assert log.verify().ok
    log.engine.dispose()


def test_pages_are_newest_first_and_keep_to_the_tenant(log: Log) -> None:
    """A cursor goes on below the last event seen."""
    with log.engine.begin() as connection:
        log.appender.append(connection, [AuditEvent(1.0, "call", "chat", "k", "acme", "req_x", "failed")])
        assert [row.seq for row in page(connection, "default", None, 3)] == [19, 18, 17]
        assert [row.seq for row in page(connection, "default", 17, 2)] == [16, 15]
        assert [row.subject for row in page(connection, "acme", None, 10)] == ["req_x"]
        assert page(connection, "default", 0, 10) == ()


# -- others ---------------------------------------------------------------------------------------------------------


def test_an_auditor_needs_none_of_our_code(log: Log, tmp_path: Path) -> None:
    """The program in docs/audit-log.md, run as it is printed there, finds the root we sign and the event that was altered."""
    page_text = (Path(__file__).parents[3] / "docs" / "audit-log.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page_text, re.DOTALL)
    command = [sys.executable, "-I", "-c", program, str(tmp_path / "audit.db")]
    checkpoint = open_checkpoint(log.checkpoint(), SIGNER)
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"{checkpoint.size} {checkpoint.root.hex()}\n"
    log.tamper(lambda c: c.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 7).values(actor="somebody")))
    assert "event 7 was altered" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


WRITER = """
import sys
from sqlalchemy import create_engine
from gatehouse.adapters.storage.audit_log import AuditAppender
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.core.audit import AuditEvent

engine = create_engine(f"sqlite:///{sys.argv[1]}")
appender, signer = AuditAppender(b"s" * 32), AuditSigner(bytes(range(32)), "0123456789abcdef")
event = AuditEvent(1.0, "call", "chat", "k", "default", "req", "completed")
while True:
    with engine.begin() as connection:
        appender.append(connection, [event] * 50)
        appender.checkpoint(connection, signer, 1.0)
    print("committed", flush=True)
"""


def test_scenario_47_a_writer_killed_at_any_moment_leaves_a_whole_log(tmp_path: Path) -> None:
    """kill -9 while batches and checkpoints are written: a batch is there as a whole or not, what was committed stays, all verifies."""
    log = Log(tmp_path / "audit.db")
    log.engine.dispose()
    committed = 0
    for kill_after in (1, 20):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "audit.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as writer:
            assert writer.stdout is not None
            for _ in range(kill_after):
                assert writer.stdout.readline() == b"committed\n"
            writer.kill()
            committed += kill_after + len(writer.stdout.readlines())
        report = log.verify()
        assert report.ok
        assert report.size % 50 == 0
        assert report.size == report.signed >= 50 * committed
        committed = report.size // 50
    log.engine.dispose()


# -- the port ------------------------------------------------------------------------------------------------------


async def test_the_log_as_a_port(database: Database) -> None:
    """Record, page, checkpoint and verify over a server's own database of either kind; many writers get one sequence."""
    log = SqlAuditLog(database.run, database.read, AuditAppender(SEAL), SIGNER, SEAL)
    await asyncio.gather(*(log.record((event(number), event(number))) for number in range(20)))
    note = await log.checkpoint(1.0)
    await log.record((event(40),))
    assert [row.seq for row in await log.page("default", None, 2)] == [40, 39]
    report = await log.verify(note)
    assert report.ok
    assert (report.size, report.signed) == (41, 40)
    with pytest.raises(ValueError, match="not a signed note"):
        await log.verify("nonsense")


async def test_what_happened_to_a_log_is_found_on_every_database(database: Database) -> None:
    """An edit, a broken seal and a refusal to sign, on SQLite and PostgreSQL alike."""
    log = SqlAuditLog(database.run, database.read, AuditAppender(SEAL), SIGNER, SEAL)
    await log.record([event(number) for number in range(9)])
    await log.checkpoint(1.0)
    await database.run(lambda connection: connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 4).values(detail="{}")))
    assert (await log.verify()).first_bad == 4
    await database.run(lambda connection: connection.execute(update(AUDIT_STATE).values(seal=b"x")))
    await log.record((event(9),))
    assert kinds(await log.verify()) == {"edited", "seal"}
    with pytest.raises(SealBroken):
        await log.checkpoint(2.0)


async def test_two_servers_begin_and_write_one_log(empty_postgres: str, tmp_path: Path) -> None:
    """Stewards on one PostgreSQL take turns, from the very first event on: one sequence, one tree, no gap."""
    databases = [await Database.open(empty_postgres, tmp_path) for _ in range(2)]
    logs = [SqlAuditLog(each.run, each.read, AuditAppender(SEAL), SIGNER, SEAL) for each in databases]
    await asyncio.gather(*(log.record((event(number), event(number))) for number in range(20) for log in logs))
    await asyncio.gather(*(log.checkpoint(1.0) for log in logs))
    report = await logs[0].verify()
    assert report.ok
    assert (report.size, report.signed, report.checkpoints) == (80, 80, 1)
    for each in databases:
        await each.close()


async def test_scenario_60_hostile_words_are_stored_on_every_database(database: Database) -> None:
    """NUL, which PostgreSQL refuses in text, and lone surrogates, which nobody can encode, are spelled out before they get there."""
    log = SqlAuditLog(database.run, database.read, AuditAppender(SEAL), SIGNER, SEAL)
    hostile = "a\x00b\ud800\n'; DROP TABLE audit_events; --%s ? :x"
    await log.record((AuditEvent(1.0, "call", hostile, hostile, "default", hostile, hostile, {hostile: hostile}, b"\x00\xff"),))
    assert (await log.verify()).ok
    (row,) = await log.page("default", None, 10)
    assert row.actor == "a\\x00b\\ud800\\x0a'; DROP TABLE audit_events; --%s ? :x"
