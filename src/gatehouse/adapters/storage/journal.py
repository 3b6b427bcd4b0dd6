"""The journal of one process: append-only files that outlive it.

An append is one `write` of one frame: when it returns the record survives `kill -9` (not a power cut: for that `sync`
waits, and all who wait share one flush). What is posted leaves with all else of its turn of the event loop, in one `write`. The
process holds a lock for as long as it lives, so that whoever drains the journal knows whether more can come. What cannot be
written whole is taken back, so that no torn frame ever stands before a good one.

    <root>/<incarnation>/owner.lock
    <root>/<incarnation>/<n>.log       n = 1, 2, ...
"""

import asyncio
import fcntl
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import msgspec

from gatehouse.adapters.storage._frames import HEADER, MAX_PAYLOAD, PREFIX
from gatehouse.core.errors import GatehouseError, Internal, Unavailable
from gatehouse.core.ports import Refused, Turn
from gatehouse.core.records import Record

logger = logging.getLogger("gatehouse.journal")

LOCK_NAME: Final = "owner.lock"
ROTATE_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


class JournalWriter:
    """Implements `Journal`. Belongs to one event loop's thread; flushing happens in a thread of its own."""

    def __init__(self, folder: Path, lock: int, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._folder = folder
        self._lock = lock
        self._rotate_bytes = rotate_bytes
        self._rotate_at = rotate_bytes
        self._encode = msgspec.msgpack.Encoder().encode
        self._number = 0
        self._size = 0
        self._synced = 0
        self._named = 0
        self._torn = False
        self._problem = ""
        self._flushing = False
        self._waiters: list[asyncio.Future[None]] = []
        self._flusher = ThreadPoolExecutor(1, "journal-flush")
        self._unsafe = False
        """A flush failed: nobody can say any more what of the file is on disk."""
        self._posted: list[tuple[Sequence[Record], Refused]] = []
        """What leaves at the end of this turn, and who is told when it cannot."""
        self.turn: Turn | None = None
        """The turns of the loop whose records leave together; None: each leaves by itself."""
        self._file = self._open_next()

    @classmethod
    def open(cls, root: Path, incarnation: str, rotate_bytes: int = ROTATE_BYTES) -> Self:
        """Begin a new journal. The folder appears under its name only once the lock is held, so it is never taken for dead.

        Raises:
            ValueError: the name is not one, or was used before.
            OSError: the disk refuses.
        """
        if not _NAME.fullmatch(incarnation):
            raise ValueError(f"not the name of an incarnation: {incarnation[:40]!r}")
        if (root / incarnation).exists():
            raise ValueError(f"a journal of this name exists: {incarnation}")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden = root / f".{incarnation}.new"
        hidden.mkdir(mode=0o700)
        lock = os.open(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(root / incarnation)
            return cls(root / incarnation, lock, rotate_bytes)
        except BaseException:
            os.close(lock)
            raise

    def append(self, record: Record) -> None:
        """See `Journal`."""
        self._write(b"".join(self._framed((record,))))

    def post_all(self, records: Sequence[Record], refused: Refused) -> None:
        """See `Journal`."""
        turn = self.turn
        if not records:
            return  # to write nothing works on a full disk too
        if turn is None:
            self._write_apart([(records, refused)])
            return
        if not self._posted:
            turn.last(self._write_posted)
        self._posted.append((records, refused))

    def _framed(self, records: Sequence[Record]) -> list[bytes]:
        encode, prefix = self._encode, PREFIX.pack
        pieces: list[bytes] = []
        for record in records:
            payload = encode(record)
            length = len(payload)
            if length > MAX_PAYLOAD:
                raise Internal("A record is too large to keep.", detail=f"{length} bytes")
            pieces.append(prefix(length, crc32(payload, length)))
            pieces.append(payload)
        return pieces

    def _write_posted(self) -> None:
        posted, self._posted = self._posted, []
        pieces: list[bytes] = []
        try:
            for records, _ in posted:
                pieces += self._framed(records)
            self._write(b"".join(pieces))
        except Exception:
            self._write_apart(posted)

    def _write_apart(self, posted: list[tuple[Sequence[Record], Refused]]) -> None:
        """One by one, so that as many as possible are kept and each of the others is told."""
        for record, refused in [(record, refused) for records, refused in posted for record in records]:
            try:
                self.append(record)
            except Exception as problem:
                kind = type(problem).__name__
                try:
                    refused(record, problem if isinstance(problem, GatehouseError) else Internal("A record cannot be kept.", detail=kind))
                except Exception:
                    logger.exception("call %s: who posted its record could not be told that it is not kept", record.request_id)

    def _write(self, frame: bytes) -> None:
        """Write one frame, or several in one piece: all of it, or nothing."""
        if self._torn:
            self._take_back()
        try:
            written = os.write(self._file, frame)
        except OSError as error:
            self._torn = True
            raise self._refused(error) from error
        if written != len(frame):
            self._torn = True
            self._take_back()
            raise self._refused(OSError(f"only {written} of {len(frame)} bytes were written"))
        self._size += written
        if self._problem:
            self._problem = ""
        if self._size >= self._rotate_at:
            self._rotate()

    async def sync(self) -> None:
        """See `Journal`. Raises Unavailable when the disk refuses; what was appended may then be lost by a power cut."""
        if self._file < 0:
            raise self._refused(OSError("it is closed"))
        if self._synced == self._size and not self._unsafe:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        if not self._flushing:
            self._flush(loop)
        await waiter

    @property
    def problem(self) -> str:
        """ "" when well, else what the disk said last."""
        return self._problem

    @property
    def in_place(self) -> bool:
        """False when the file under our hands is no longer the one in the folder: what is appended then, nobody will ever read."""
        try:
            return os.path.samestat((self._folder / f"{self._number}.log").stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False
        except OSError:
            return True

    async def close(self) -> None:
        """Flush, and let go of the lock: from here on the journal counts as that of a dead process. A second close is a no-op."""
        if self._file < 0:
            return
        if self._posted:
            self._write_posted()
        file, self._file = self._file, -1
        await asyncio.get_running_loop().run_in_executor(self._flusher, self._finish, file)
        self._flusher.shutdown()
        os.close(self._lock)

    def _open_next(self) -> int:
        path = self._folder / f"{self._number + 1}.log"
        file = os.open(path, _FLAGS, 0o600)
        try:
            if os.write(file, HEADER) != len(HEADER):
                raise OSError("the header of a journal file could not be written")
        except OSError:
            os.close(file)
            path.unlink()
            raise
        self._number += 1
        self._size = len(HEADER)
        self._synced = 0
        return file

    def _rotate(self) -> None:
        old, size, synced = self._file, self._size, self._synced
        try:
            self._file = self._open_next()
        except OSError as error:
            # The old file still takes records; trying again at every append would only cost time.
            self._size, self._synced = size, synced
            self._rotate_at = self._size + self._rotate_bytes // 16
            logger.warning("the journal cannot begin a new file: %s", error)
            return
        self._rotate_at = self._rotate_bytes
        self._flusher.submit(self._finish, old)

    def _take_back(self) -> None:
        """Cut off what was written of a frame; until that works nothing more is written behind it."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            raise self._refused(error) from error
        self._torn = False

    def _refused(self, error: OSError) -> Unavailable:
        self._problem = f"the journal cannot be written: {error.strerror or error}"
        return Unavailable("The service cannot record calls at the moment.", code="journal_unavailable", retry_after=5.0, detail=str(error))

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        waiters, self._waiters = self._waiters, []
        self._flushing = True
        flushed = loop.run_in_executor(self._flusher, self._flush_file, self._file, self._number)
        flushed.add_done_callback(partial(self._flushed, loop, waiters, self._number, self._size))

    def _flush_file(self, file: int, number: int) -> None:
        """In the flusher's thread, behind every `_finish` of an older file."""
        if self._unsafe:
            self._unsafe = False
            raise OSError("an earlier flush failed")
        os.fdatasync(file)
        if number == self._named:
            return
        # Once a file: its name in the folder and the folder's in the root must be on disk too.
        for path in (self._folder, self._folder.parent):
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._named = number

    def _finish(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError:
            self._unsafe = True
            logger.exception("a full journal file could not be flushed")
        finally:
            os.close(file)

    def _flushed(
        self, loop: asyncio.AbstractEventLoop, waiters: list[asyncio.Future[None]], number: int, size: int, done: asyncio.Future[None]
    ) -> None:
        self._flushing = False
        error = done.exception()
        if error is None:
            if number == self._number:
                self._synced = max(self._synced, size)
        else:
            # After a failed flush the kernel may call the lost pages clean: only a new file can be trusted again.
            self._rotate()
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(self._refused(error if isinstance(error, OSError) else OSError(str(error))))
        if self._waiters:
            self._flush(loop)
