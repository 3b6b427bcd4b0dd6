"""The database: SQLite in the data directory unless configured otherwise, PostgreSQL by its URL alone.

Work is plain functions on a connection, each in one transaction. One thread writes, so that SQLite has one writer by
construction and PostgreSQL sees four connections a server, however many workers there are; two threads read, so that a long
report stands in nobody's way. Waiting for a turn is bounded; what has begun is waited for.

SQLite runs in WAL mode with `synchronous=FULL`: a commit is on disk when it returns. NORMAL would be faster, but the drain removes
journals and the audit log publishes signed checkpoints after a commit, and a power cut must not take the commit back.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InternalError, OperationalError
from sqlalchemy.exc import InterfaceError as SqlInterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gatehouse.adapters.storage._schema import SCHEMA, prepare
from gatehouse.adapters.storage._sole import DatabaseTaken, SoleUse
from gatehouse.core.errors import Unavailable

logger = logging.getLogger("gatehouse.storage")

T = TypeVar("T")

READERS: Final = 2
"""Reports that may run at once: the verification of a long audit log does not keep everybody else from theirs."""
PATIENCE: Final = 5.0
"""Seconds that work waits for its turn before the caller is told that the database is busy."""
TAKING_SECONDS: Final = 5.0
"""How long a server that starts waits for another one to be gone."""
TAKING_TRIES: Final = 20
_READ_OPTION: Final = "gatehouse_read"
_SQLITE_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    # Of each connection. What is read again is small, and what is written lies side by side; a larger cache only fills for hours.
    "PRAGMA cache_size = -4096",
    "PRAGMA wal_autocheckpoint = 4096",
    "PRAGMA journal_size_limit = 67108864",
)
_POSTGRES_OPTIONS: Final = f"-c search_path={SCHEMA} -c statement_timeout=30s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s"
_REPORT_SECONDS: Final = 600


class Database:
    """One database, opened and of the right revision. Made with `open`."""

    def __init__(self, engine: Engine, patience: float = PATIENCE) -> None:
        self._engine = engine
        self._patience = patience
        self._sole: SoleUse | None = None
        self._writer = ThreadPoolExecutor(1, "storage-write")
        self._reader = ThreadPoolExecutor(READERS, "storage-read")
        self._closed = False

    @classmethod
    async def open(cls, url: str, folder: Path, patience: float = PATIENCE, *, sole: bool = False) -> Self:
        """Connect, and create or migrate what is missing. Relative SQLite paths are under `folder`.

        `sole`: for a server, which has the database to itself until it is closed; nothing is migrated under another one.

        Raises:
            ValueError: not a database URL we know.
            DatabaseTaken: another server has the database.
            SchemaRefused: the database is not ours, or of a newer version.
            Unavailable: it cannot be reached.
        """
        database = cls(engine_for(url, folder), patience)
        try:
            if sole:
                await database._take()
            await database.run(prepare)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def dialect(self) -> str:
        """sqlite or postgresql."""
        return self._engine.dialect.name

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction of the writer: committed when this returns, rolled back when it raises.

        A caller that is cancelled leaves work that has begun to its end.

        Raises:
            Unavailable: the database refuses, or no turn came in time; then nothing was done.
        """
        return await self._submit(self._writer, lambda: self._transact(work, read=False))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """`work` on one snapshot, beside the writer; it must not write. Raises Unavailable like `run`."""
        return await self._submit(self._reader, lambda: self._transact(work, read=True))

    async def ping(self) -> str:
        """ "" when the database answers, else why not."""
        try:
            await self.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
        except Unavailable as error:
            return error.detail or error.message
        return ""

    async def close(self) -> None:
        """Finish what has begun and disconnect. A second close is a no-op."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._shut)

    async def _take(self) -> None:
        sole = SoleUse(self._engine)
        for last in [*[False] * (TAKING_TRIES - 1), True]:
            if await self._submit(self._writer, lambda: _taken(sole)):
                self._sole = sole
                return
            if not last:
                # Whoever was killed a moment ago is still being cleared away.
                await asyncio.sleep(TAKING_SECONDS / TAKING_TRIES)
        raise DatabaseTaken(
            "another Gatehouse server runs on this database; several servers on one database are not supported, since each would"
            " spend the budgets: stop the other one, or give this one a database of its own (storage.url)"
        )

    def _shut(self) -> None:
        self._writer.shutdown()
        self._reader.shutdown()
        self._engine.dispose()
        if self._sole is not None:
            # Last: to close a descriptor of SQLite's file ends the locks that SQLite holds on it.
            self._sole.release()

    def _start(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise _unavailable("the database is closed")
        return thread.submit(call)

    async def _submit(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        future = self._start(thread, call)
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait({waiting}, timeout=self._patience)
            if not done and future.cancel():
                raise _unavailable(f"no turn within {self._patience:g} s")
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            future.cancel()
            waiting.add_done_callback(_forget)
            raise

    def _transact(self, work: Callable[[Connection], T], *, read: bool) -> T:
        with _translated(), self._engine.connect() as connection:
            if not read:
                if self._sole is not None and not self._sole.kept():
                    raise _unavailable("another Gatehouse server has taken the database while it could not be reached")
                with connection.begin():
                    return work(connection)
            if self.dialect == "sqlite":
                connection.execution_options(**{_READ_OPTION: True})
                with connection.begin():
                    connection.exec_driver_sql("PRAGMA query_only = ON")
                    try:
                        return work(connection)
                    finally:
                        connection.exec_driver_sql("PRAGMA query_only = OFF")
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_REPORT_SECONDS}s'")
                return work(connection)


def _taken(sole: SoleUse) -> bool:
    with _translated():
        return sole.take()


def engine_for(url: str, folder: Path) -> Engine:
    """An engine with our settings for SQLite or PostgreSQL; nothing is connected yet. Raises ValueError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("storage.url is not a database URL: expected sqlite:///FILE or postgresql://...") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed, folder)
        case "postgresql":
            return _postgres(parsed)
        case other:
            raise ValueError(f"storage.url names {other}; sqlite and postgresql are supported")


def _sqlite(url: URL, folder: Path) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ValueError("storage.url needs a file: sqlite:///gatehouse.db")
    path = folder / url.database
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(url.set(database=str(path), drivername="sqlite+pysqlite"), pool_size=1 + READERS, max_overflow=0)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver's own idea of when a transaction begins is switched off; ours is below.
        connection.isolation_level = None
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read = connection.get_execution_options().get(_READ_OPTION)
        connection.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")

    return engine


def _postgres(url: URL) -> Engine:
    given = url.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} {_POSTGRES_OPTIONS}".strip()
    return create_engine(
        url.set(drivername="postgresql+psycopg").difference_update_query(("options",)),
        pool_size=2 + READERS,  # one more for the lock of the server that has the database to itself
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"options": options, "connect_timeout": 5, "application_name": "gatehouse"},
    )


def _unavailable(detail: str) -> Unavailable:
    return Unavailable("The database cannot be used at the moment.", code="storage_unavailable", retry_after=2.0, detail=detail)


def _forget(waiting: "asyncio.Future[Any]") -> None:
    """Nobody waits any more: what became of the work is only logged."""
    if not waiting.cancelled() and (error := waiting.exception()) is not None:
        logger.warning("work that nobody waited for failed: %s", type(error).__name__)


@contextmanager
def _translated() -> Iterator[None]:
    """What the database cannot do now is Unavailable; what we did wrong stays what it is. Statements and values are not repeated."""
    try:
        yield
    except (OperationalError, SqlInterfaceError, InternalError) as error:
        raise _unavailable(str(error.orig).strip()) from error
    except PoolTimeout as error:
        raise _unavailable("no connection within the time") from error
    except DBAPIError as error:
        # SQLite's word for a file that is damaged or no database at all is the bare class; what we do wrong has a class of its own.
        if error.connection_invalidated or type(error) is DatabaseError:
            raise _unavailable(str(error.orig).strip()) from error
        raise
