"""The journals of a data directory, read by the one who drains them.

A frame that cannot be read is never passed over in silence. Where good frames stand behind it, it is damage: reported, and
only the bad bytes are skipped. At the end of a live journal it is waited for. At the end of a dead one the beginning of a
frame is a torn tail, the record that nobody was told about; anything else is damage again.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gatehouse.adapters.storage._frames import HEADER, MAX_PAYLOAD, FrameReader, State
from gatehouse.core.errors import Unavailable
from gatehouse.core.ledger import Damage, JournalInfo, Position, Slice
from gatehouse.core.records import Record

logger = logging.getLogger("gatehouse.journal")

LOCK_NAME: Final = "owner.lock"
PIECE_BYTES: Final = 4 * MAX_PAYLOAD
ASIDE: Final = "damaged"
"""Beside the root: journals that an operator should look into."""
_STALE_SECONDS: Final = 600.0


class JournalReader:
    """Reads one file of a journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames = FrameReader()

    def read_from(self, offset: int, limit: int, end: int | None = None) -> tuple[list[Record], int, State, list[tuple[int, int]]]:
        """Up to `limit` records from byte `offset` to `end`: the records, where to go on, the state there, and bad bytes passed over.

        The state is that of `_frames.Parsed`.

        Raises:
            FileNotFoundError: no such file.
            OSError: the disk refuses.
        """
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size if end is None else min(end, os.fstat(file).st_size)
            skipped: list[tuple[int, int]] = []
            if offset < len(HEADER):
                head = os.pread(file, len(HEADER), 0)
                if len(head) < len(HEADER):
                    return [], 0, "partial", skipped
                self._check(head, skipped)
                offset = len(HEADER)
            piece = _read(file, offset, min(PIECE_BYTES, size - offset))
            parsed = self._frames.parse(piece, last=offset + len(piece) >= size, limit=limit)
            if not parsed.records and parsed.state == "more":
                # Not one frame in a piece larger than any frame: bad bytes. Only the whole rest tells where good ones begin.
                piece = _read(file, offset, size - offset)
                parsed = self._frames.parse(piece, last=True, limit=limit)
        finally:
            os.close(file)
        skipped += ((offset + start, offset + end) for start, end in parsed.skipped)
        return parsed.records, offset + parsed.stop, parsed.state, skipped

    def _check(self, head: bytes, skipped: list[tuple[int, int]]) -> None:
        if head == HEADER:
            return
        if head.startswith(HEADER[:-1]):
            raise OSError(errno.EINVAL, f"journal format {head[-1]} is not one this version reads; let the version that wrote it drain it")
        skipped.append((0, len(HEADER)))


class FileJournalShelf:
    """Implements `JournalShelf` on `<root>/<incarnation>/<n>.log`. Disk work happens in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def survey(self) -> list[JournalInfo]:
        """See `JournalShelf`."""
        with _disk("survey"):
            return await asyncio.to_thread(self._survey)

    async def read(self, journal: JournalInfo, position: Position, limit: int, until: Position | None = None) -> Slice:
        """See `JournalShelf`."""
        with _disk(journal.incarnation):
            return await asyncio.to_thread(self._read, journal, position, limit, until)

    async def discard(self, incarnation: str, before: int | None = None) -> None:
        """See `JournalShelf`."""
        await asyncio.to_thread(self._discard, incarnation, before)

    async def set_aside(self, incarnation: str) -> None:
        """See `JournalShelf`."""
        await asyncio.to_thread(self._set_aside, incarnation)

    def _survey(self) -> list[JournalInfo]:
        if not self._root.is_dir():
            return []
        journals = []
        for folder in sorted(self._root.iterdir()):
            if folder.name.startswith("."):
                self._sweep(folder)
            elif folder.is_dir():
                # The lock first: when it is free, everything that will ever be written is there already.
                alive = _held(folder / LOCK_NAME)
                numbers = _numbers(folder)
                end = Position()
                if numbers:
                    end = Position(numbers[-1], (folder / f"{numbers[-1]}.log").stat().st_size)
                journals.append(JournalInfo(folder.name, alive, numbers, end))
        return journals

    def _sweep(self, folder: Path) -> None:
        """A folder that was being made when its process died never held a record."""
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS and not _held(folder / LOCK_NAME):
                shutil.rmtree(folder)

    def _read(self, journal: JournalInfo, position: Position, limit: int, until: Position | None) -> Slice:
        path = self._root / journal.incarnation / f"{position.file}.log"
        following = next((number for number in journal.files if number > position.file), None)
        end = until.offset if until is not None and until.file == position.file else None
        damage: list[Damage] = []
        torn = 0
        try:
            records, offset, state, skipped = JournalReader(path).read_from(position.offset, limit, end)
        except FileNotFoundError:
            if following is None:
                return Slice((), position, caught_up=True)
            gone = Damage(journal.incarnation, position.file, position.offset, -1)
            return Slice((), Position(following), caught_up=False, damage=(gone,))
        damage += (Damage(journal.incarnation, position.file, start, stop) for start, stop in skipped)
        if state == "more":
            return Slice(tuple(records), Position(position.file, offset), caught_up=False, damage=tuple(damage))
        if state != "end" and (following is not None or not journal.alive):
            size = path.stat().st_size
            if following is None and state == "partial":
                torn = size - offset
            else:
                damage.append(Damage(journal.incarnation, position.file, offset, size))
            offset = size
        # The next number, also when no such file is there: then that is found out, and told, by the next read.
        place = Position(position.file, offset) if following is None or end is not None else Position(position.file + 1)
        return Slice(tuple(records), place, caught_up=following is None, damage=tuple(damage), torn=torn)

    def _discard(self, incarnation: str, before: int | None) -> None:
        folder = self._root / incarnation
        with _disk(incarnation):
            if before is None:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(folder)
                return
            for number in _numbers(folder):
                if number < before:
                    (folder / f"{number}.log").unlink(missing_ok=True)

    def _set_aside(self, incarnation: str) -> None:
        aside = self._root.parent / f"{self._root.name}-{ASIDE}"
        with _disk(incarnation), contextlib.suppress(FileNotFoundError):
            aside.mkdir(mode=0o700, exist_ok=True)
            (self._root / incarnation).rename(aside / incarnation)


def _read(file: int, offset: int, size: int) -> bytes:
    """All of [offset, offset + size) that is there: one `pread` may return less than it was asked."""
    pieces = []
    while size > 0 and (piece := os.pread(file, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _numbers(folder: Path) -> tuple[int, ...]:
    try:
        return tuple(sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdecimal()))
    except FileNotFoundError:
        return ()


def _held(lock: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextlib.contextmanager
def _disk(incarnation: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "The journals cannot be read at the moment.", code="journal_unavailable", detail=f"{incarnation}: {error}"
        ) from error
