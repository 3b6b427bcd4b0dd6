"""A log in a SQLite file, and what tests do to it."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, select, update
from sqlalchemy.event import listen

from gatehouse.adapters.storage._audit_tables import AUDIT_CHECKPOINTS, AUDIT_EVENTS, AUDIT_STATE
from gatehouse.adapters.storage._metadata import METADATA
from gatehouse.adapters.storage.audit_log import AuditAppender, verify
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.core.audit import AuditEvent, VerifyReport, leaf_data
from gatehouse.core.merkle import Frontier, leaf_hash

SEAL = b"s" * 32
SIGNER = AuditSigner(bytes(range(32)), "0123456789abcdef")


def event(number: int) -> AuditEvent:
    return AuditEvent(1000.0 + number, "call", "chat", "ab12cd34", "default", f"req_{number}", "completed", {"n": str(number)}, b"c")


class Log:
    """A log in a file, and what tests do to it."""

    def __init__(self, path: Path) -> None:
        self.engine: Engine = create_engine(f"sqlite:///{path}")
        # What a power cut would do is tested with the database; here the disk need not be waited for.
        listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        METADATA.create_all(self.engine, [AUDIT_EVENTS, AUDIT_CHECKPOINTS, AUDIT_STATE])
        self.appender = AuditAppender(SEAL)
        self.size = 0

    def append(self, count: int) -> None:
        with self.engine.begin() as connection:
            self.appender.append(connection, [event(self.size + number) for number in range(count)])
        self.size += count

    def checkpoint(self, at: float = 1.0) -> str:
        with self.engine.begin() as connection:
            return self.appender.checkpoint(connection, SIGNER, at)

    def verify(self, extends: str | None = None, seal: bytes | None = SEAL) -> VerifyReport:
        with self.engine.begin() as connection:
            return verify(connection, SIGNER, extends, seal_key=seal)

    def tamper(self, work: Callable[[Connection], object]) -> None:
        """As somebody with write access to the database."""
        with self.engine.begin() as connection:
            work(connection)

    def forge(self, changed: dict[int, str]) -> None:
        """Rewrite events cleverly: new subjects, their leaves, and the frontier made to match. The seal's key is not in the database."""

        def work(connection: Connection) -> None:
            frontier = Frontier()
            for row in connection.execute(select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.seq)).all():
                columns = list(row[:10])
                columns[6] = changed.get(row.seq, row.subject)
                leaf = leaf_hash(leaf_data(tuple(columns)))
                frontier.append(leaf)
                connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == row.seq).values(subject=columns[6], leaf=leaf))
            connection.execute(update(AUDIT_STATE).values(frontier=frontier.dump()))

        self.tamper(work)


def kinds(report: VerifyReport) -> set[str]:
    return {problem.kind for problem in report.problems}
