"""The audit log in SQL: sequenced, hashed and sealed in the same transaction as whatever it tells of.

No state is held between batches. Each one reads the tree's frontier from its row (locked where the database has locks),
so a rolled back batch never happened, and several stewards on one database take turns. The row carries a seal, a MAC
under a key that derives from the root: whoever alters the log's end inside the database cannot get it signed. What a MAC
cannot see is the whole end put back to an earlier, sealed state; copies of checkpoints kept elsewhere show that.
"""

import hmac
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from gatehouse.adapters.storage._audit_tables import AUDIT_CHECKPOINTS, AUDIT_EVENTS, AUDIT_STATE
from gatehouse.adapters.storage._audit_verify import STATE, seal_of, verify_log
from gatehouse.adapters.storage._run import Run
from gatehouse.core.audit import AuditEvent, AuditRow, Progress, VerifyReport, columns_of, leaf_data
from gatehouse.core.checkpoints import Checkpoint, NoteSigner, NoteVerifier, sign_checkpoint
from gatehouse.core.merkle import HASH_SIZE, Frontier, leaf_hash

_PAGE: Final = 10_000


class SealBroken(Exception):
    """The log's end was altered outside Gatehouse. Nothing is signed until an operator has looked and resealed it."""


class AuditAppender:
    """Adds events to the log and signs where it stands. Holds only the seal's key."""

    __slots__ = ("_seal_key",)

    def __init__(self, seal_key: bytes) -> None:
        self._seal_key = seal_key

    def append(self, connection: Connection, events: Sequence[AuditEvent]) -> None:
        """Add `events` in order, in the transaction that is open on `connection`."""
        if not events:
            return
        frontier, sealed = self._read(connection)
        rows: list[tuple[Any, ...]] = []
        leaves: list[bytes] = []
        for seq, event in enumerate(events, frontier.size):
            columns = columns_of(seq, event)
            leaf = leaf_hash(leaf_data(columns))
            leaves.append(leaf)
            # SQLite's driver asks of `bytes`, but not of these, whether somebody has registered another way to write them.
            rows.append((*columns[:-1], bytearray(columns[-1]), bytearray(leaf)))
        frontier.extend(leaves)
        # Straight to the driver: three times as fast as building each row's parameters by name.
        names = ", ".join(AUDIT_EVENTS.c.keys())
        connection.exec_driver_sql(f"INSERT INTO audit_events ({names}) VALUES ({_marks(connection, len(AUDIT_EVENTS.c))})", rows)  # noqa: S608
        self._write(connection, frontier, sealed=sealed)

    def checkpoint(self, connection: Connection, signer: NoteSigner, at: float) -> str:
        """Sign the log as it stands at `at` (seconds since the epoch), keep the note and return it.

        When nothing was added since the newest note, that one is returned.

        Raises:
            SealBroken: what would be signed was not written by us.
        """
        frontier, sealed = self._read(connection)
        if not sealed:
            raise SealBroken(
                "the end of the audit log was altered outside Gatehouse, so it is not signed any more; "
                "run `gatehouse audit verify`, then `gatehouse audit reseal` to go on from what is there"
            )
        root = frontier.root()
        newest = connection.execute(select(AUDIT_CHECKPOINTS).order_by(AUDIT_CHECKPOINTS.c.size.desc()).limit(1)).one_or_none()
        if newest is not None and newest.size >= frontier.size:
            if (newest.size, newest.root) != (frontier.size, root):
                # Two signed checkpoints that contradict each other would make every one of them worthless.
                raise SealBroken(
                    f"a log of {newest.size} events was signed before and is not the one that is here ({frontier.size} events); "
                    "restore the database from a backup that has those events"
                )
            return str(newest.note)
        note = sign_checkpoint(Checkpoint(signer.name, frontier.size, root), signer)
        connection.execute(
            insert(AUDIT_CHECKPOINTS).values(size=frontier.size, root=root, note=note, at=round(at * 1_000_000)),
        )
        return note

    def reseal(self, connection: Connection, event: AuditEvent) -> None:
        """Take the rows that are there as the log, add `event`, which tells who decided that and why, and seal it again.

        What was signed before stays signed: a row changed under a checkpoint is still found.

        Raises:
            SealBroken: rows are missing, so that no tree can be made of them.
        """
        frontier = _rebuild(connection)
        self._read(connection)
        self._write(connection, frontier, sealed=True)
        self.append(connection, (event,))

    def _read(self, connection: Connection) -> tuple[Frontier, bool]:
        """The frontier, and whether its seal is good. Others who want it wait until this transaction ends."""
        query = select(AUDIT_STATE).where(AUDIT_STATE.c.name == STATE).with_for_update()
        state = connection.execute(query).one_or_none()
        if state is None:
            # A new log, unless somebody removed the row: then events are there, and what they make is not sealed.
            frontier = _rebuild(connection)
            nodes = frontier.dump()
            seal = b"" if frontier.size else seal_of(self._seal_key, 0, nodes)
            # Several servers may begin a log at once: one row wins, and everybody reads it.
            connection.exec_driver_sql(
                f"INSERT INTO audit_state (name, size, frontier, seal) VALUES ({_marks(connection, 4)}) ON CONFLICT DO NOTHING",  # noqa: S608
                (STATE, frontier.size, nodes, seal),
            )
            state = connection.execute(query).one()
        try:
            frontier = Frontier.load(state.size, bytes(state.frontier))
        except (ValueError, TypeError):
            return _rebuild(connection), False
        return frontier, hmac.compare_digest(bytes(state.seal), seal_of(self._seal_key, state.size, bytes(state.frontier)))

    def _write(self, connection: Connection, frontier: Frontier, *, sealed: bool) -> None:
        nodes = frontier.dump()
        # A broken seal stays broken: going on must not heal what somebody did.
        seal = seal_of(self._seal_key, frontier.size, nodes) if sealed else b""
        connection.execute(
            update(AUDIT_STATE).where(AUDIT_STATE.c.name == STATE).values(size=frontier.size, frontier=nodes, seal=seal),
        )


def _marks(connection: Connection, count: int) -> str:
    """Places for `count` bound values in the words of the driver."""
    return ", ".join(["?" if connection.dialect.paramstyle == "qmark" else "%s"] * count)


def _rebuild(connection: Connection) -> Frontier:
    """The frontier of the rows that are there. Raises SealBroken when some are missing, so that no tree can be made of them."""
    frontier = Frontier()
    result = connection.execute(select(AUDIT_EVENTS.c.seq, AUDIT_EVENTS.c.leaf).order_by(AUDIT_EVENTS.c.seq))
    for rows in result.partitions(_PAGE):
        whole = rows[0].seq == frontier.size and rows[-1].seq == frontier.size + len(rows) - 1
        if not whole or any(len(row.leaf) != HASH_SIZE for row in rows):
            raise SealBroken(f"events of the audit log are missing at or after {frontier.size}; restore them from a backup")
        frontier.extend(row.leaf for row in rows)
    return frontier


def verify(
    connection: Connection,
    verifier: NoteVerifier,
    extends: str | None = None,
    *,
    seal_key: bytes | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Recompute every leaf and every root, check every stored checkpoint, and that the log leads to the checkpoint `extends`.

    `connection` must see one snapshot throughout: any transaction on SQLite, REPEATABLE READ on PostgreSQL. Memory is
    constant. Without `seal_key` (an auditor has only the public key) the seal itself is not checked, all else is.

    Raises:
        ValueError: `extends` is not a checkpoint signed by the verifier's key.
    """
    return verify_log(connection, verifier, extends, seal_key, progress)


def page(connection: Connection, tenant: str, before: int | None, limit: int) -> tuple[AuditRow, ...]:
    """At most `limit` events of `tenant` below `before`, newest first."""
    query = select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.tenant == tenant).order_by(AUDIT_EVENTS.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(AUDIT_EVENTS.c.seq < before)
    return tuple(AuditRow(**row) for row in connection.execute(query).mappings())


class SqlAuditLog:
    """Implements `AuditLog`. `read` serves what may take long, so that verification never stands in the writer's way."""

    def __init__(self, run: Run, read: Run, appender: AuditAppender, signer: NoteSigner, seal_key: bytes) -> None:
        self._run = run
        self._read = read
        self._appender = appender
        self._signer = signer
        self._seal_key = seal_key

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """See `AuditSink`."""
        await self._run(lambda connection: self._appender.append(connection, events))

    async def page(self, tenant: str, before: int | None, limit: int) -> tuple[AuditRow, ...]:
        """See `AuditLog`."""
        return await self._read(lambda connection: page(connection, tenant, before, limit))

    async def checkpoint(self, at: float) -> str:
        """See `AuditLog`."""
        return await self._run(lambda connection: self._appender.checkpoint(connection, self._signer, at))

    async def verify(self, extends: str | None = None) -> VerifyReport:
        """See `AuditLog`."""
        return await self._read(lambda connection: verify(connection, self._signer, extends, seal_key=self._seal_key))
