"""One server at a time on one database: two would each lend what the budgets have left.

On PostgreSQL that is an advisory lock of a session of its own, which ends with the process, however that ends. When the session is
lost (the database was restarted) the lock is taken again before anything is written, and if another server was quicker nothing is.
A SQLite file is locked itself, beside its directory: it may lie in a directory that two servers share.
"""

import contextlib
import fcntl
import os
from typing import Final

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

LOCK: Final = 0x67617465686F7573
"""Advisory locks are numbers, each database has its own."""


class DatabaseTaken(ValueError):
    """Another server has the database to itself."""


class SoleUse:
    """Used by the writer's thread only, until `release`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: Connection | None = None
        self._file = -1
        self._doubt = False

        @event.listens_for(engine, "connect")
        def renewed(*_: object) -> None:
            # A new connection where there was one: the database may have been restarted, and have forgotten the lock.
            self._doubt = True

    def take(self) -> bool:
        """Whether nobody else has the database. Raises what SQLAlchemy raises when it cannot be reached."""
        if self._engine.dialect.name == "sqlite":
            return self._lock_file(str(self._engine.url.database))
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            taken = bool(session.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar())
        except BaseException:
            session.invalidate()
            session.close()
            raise
        if not taken:
            session.close()
            return False
        self._session = session
        self._doubt = False
        return True

    def kept(self) -> bool:
        """Whether that is still so; asked before each write, and looked into when a connection was made anew."""
        if not self._doubt:
            return True
        if self._session is not None:
            try:
                self._session.exec_driver_sql("SELECT 1")
            except DBAPIError:
                self._drop()
            else:
                self._doubt = False
                return True
        return self._file >= 0 or self.take()

    def release(self) -> None:
        """Let others have it."""
        self._drop()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(DBAPIError):
                # Closed for good: back in the pool it would keep the lock.
                session.invalidate()
                session.close()

    def _lock_file(self, path: str) -> bool:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._file = descriptor
        return True
