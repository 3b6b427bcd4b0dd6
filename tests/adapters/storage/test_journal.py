"""The journal on a real disk: what is appended is there, what the disk refuses leaves no trace, and flushing is shared."""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gatehouse.adapters.storage._frames import HEADER
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.storage.shelf import JournalReader
from gatehouse.core.errors import Internal, Unavailable
from gatehouse.core.records import Record
from gatehouse.testing.storage_contract import closed_record, opened_record


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[JournalWriter]:
    """A journal in its own folder."""
    journal = JournalWriter.open(tmp_path / "journals", "w1")
    yield journal
    await journal.close()


def read(path: Path) -> list[Record]:
    """Every record of a file, which must hold nothing else."""
    records, _, state, skipped = JournalReader(path).read_from(0, 1_000_000)
    assert (state, skipped) == ("end", [])
    return records


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: a write across the bound is cut short, the next one refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_was_appended_can_be_read_at_once(writer: JournalWriter, tmp_path: Path) -> None:
    """By anybody, without flushing or closing; the files are the owner's alone."""
    records: list[Record] = [opened_record(), closed_record()]
    for record in records:
        writer.append(record)
    path = tmp_path / "journals" / "w1" / "1.log"
    assert read(path) == records
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
async def test_a_journal_knows_when_it_is_no_longer_in_place(writer: JournalWriter, tmp_path: Path, how: str) -> None:
    """What is appended to a file that left its folder will never be drained; the writer can tell."""
    assert writer.in_place
    file = tmp_path / "journals" / "w1" / "1.log"
    if how == "removed":
        file.unlink()
    else:
        file.rename(tmp_path / "elsewhere.log")
        if how == "replaced":
            file.write_bytes(b"")
    assert not writer.in_place


async def test_files_rotate_by_size(tmp_path: Path) -> None:
    """Each holds whole frames behind its header; together they hold everything, in order."""
    writer = JournalWriter.open(tmp_path, "w1", rotate_bytes=1000)
    records = [opened_record(f"req_{number}") for number in range(40)]
    for record in records:
        writer.append(record)
    files = sorted(tmp_path.glob("w1/*.log"), key=lambda path: int(path.stem))
    assert len(files) > 5
    assert all(path.read_bytes().startswith(HEADER) for path in files)
    assert all(path.stat().st_size < 1500 for path in files)
    assert [record for path in files for record in read(path)] == records
    await writer.sync()
    await writer.close()


async def test_a_full_disk_is_unavailable_and_leaves_no_torn_frame(writer: JournalWriter, tmp_path: Path) -> None:
    """Half a frame is taken back; once there is room again, records follow as if nothing had been."""
    path = tmp_path / "journals" / "w1" / "1.log"
    writer.append(opened_record("before"))
    with files_no_larger_than(path.stat().st_size + 50):
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                writer.append(opened_record("refused"))
            assert refused.value.code == "journal_unavailable"
            assert writer.problem != ""
    writer.append(opened_record("after"))
    assert writer.problem == ""
    assert [record.request_id for record in read(path)] == ["before", "after"]


async def test_nothing_is_written_behind_a_frame_that_could_not_be_taken_back(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it can be; a good frame behind a torn one would look like damage."""
    path = tmp_path / "journals" / "w1" / "1.log"
    writer.append(opened_record("before"))

    def refuse(_file: int, _size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with files_no_larger_than(path.stat().st_size + 50), pytest.raises(Unavailable):
            writer.append(opened_record("torn"))
        size = path.stat().st_size
        with pytest.raises(Unavailable):
            writer.append(opened_record("refused"))
        assert path.stat().st_size == size
    writer.append(opened_record("after"))
    assert [record.request_id for record in read(path)] == ["before", "after"]


async def test_a_new_file_that_cannot_be_made_does_not_stop_the_journal(tmp_path: Path) -> None:
    """The old one takes records beyond its size, and a new one is begun as soon as that is possible."""
    writer = JournalWriter.open(tmp_path, "w1", rotate_bytes=1600)
    (tmp_path / "w1" / "2.log").mkdir()
    for number in range(12):
        writer.append(opened_record(f"req_{number}"))
    (tmp_path / "w1" / "2.log").rmdir()
    for number in range(12, 24):
        writer.append(opened_record(f"req_{number}"))
    await writer.close()
    first, second = read(tmp_path / "w1" / "1.log"), read(tmp_path / "w1" / "2.log")
    assert len(first) > 12
    assert [record.request_id for record in (*first, *second)][:24] == [f"req_{number}" for number in range(len(first) + len(second))]


async def test_sync_waits_for_the_disk_and_is_shared(writer: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred who wait together cost at most two flushes: the one that was running and the next."""
    flushed: list[int] = []
    flush = os.fdatasync

    def counted(file: int) -> None:
        flushed.append(file)
        flush(file)

    monkeypatch.setattr(os, "fdatasync", counted)

    async def call(number: int) -> None:
        writer.append(opened_record(f"req_{number}"))
        await writer.sync()

    await asyncio.gather(*(call(number) for number in range(100)))
    assert 1 <= len(flushed) <= 2
    await writer.sync()
    assert len(flushed) <= 2


async def test_sync_covers_files_that_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that holds something appended before is flushed before sync returns."""
    flushed: set[int] = set()
    flush = os.fdatasync

    def noted(file: int) -> None:
        flush(file)
        flushed.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fdatasync", noted)
    writer = JournalWriter.open(tmp_path, "w1", rotate_bytes=700)
    for number in range(12):
        writer.append(opened_record(f"req_{number}"))
    await writer.sync()
    assert {path.stat().st_ino for path in tmp_path.glob("w1/*.log")} <= flushed
    await writer.close()


async def test_a_flush_that_fails_is_told_and_a_new_file_begun(
    writer: JournalWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed flush the kernel may call lost pages clean: only what is written to a new file can be trusted again."""

    def refuse(_file: int) -> None:
        raise OSError(5, "Input/output error")

    writer.append(opened_record("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        answers = await asyncio.gather(writer.sync(), writer.sync(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        writer.append(opened_record("b"))
        with pytest.raises(Unavailable):
            await writer.sync()
    # What a full file may have lost is told to whoever asks next; from then on all is well.
    with suppress(Unavailable):
        await writer.sync()
    writer.append(opened_record("c"))
    await writer.sync()
    files = sorted(tmp_path.glob("journals/w1/*.log"))
    assert [record.request_id for path in files for record in read(path)] == ["a", "b", "c"]
    assert [record.request_id for record in read(files[0])] == ["a"]


async def test_a_waiter_that_leaves_takes_nobody_with_it(writer: JournalWriter) -> None:
    """Cancelling one sync leaves the others and the journal alone."""
    writer.append(opened_record())
    first, second = asyncio.ensure_future(writer.sync()), asyncio.ensure_future(writer.sync())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()


async def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    """It never writes into a descriptor that belongs to somebody else by now; closing twice is once."""
    writer = JournalWriter.open(tmp_path, "w1")
    await writer.close()
    await writer.close()
    with (tmp_path / "other").open("wb") as other:
        with pytest.raises(Unavailable):
            writer.append(opened_record())
        with pytest.raises(Unavailable):
            await writer.sync()
        assert other.tell() == 0
    assert (tmp_path / "other").read_bytes() == b""


async def test_a_record_too_large_to_be_one_is_refused(writer: JournalWriter, tmp_path: Path) -> None:
    """Before a byte of it is written."""
    with pytest.raises(Internal):
        writer.append(closed_record(flags=("x" * 2_000_000,)))
    writer.append(opened_record())
    assert read(tmp_path / "journals" / "w1" / "1.log") == [opened_record()]


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "x" * 81, "a\x00b", "ü"])
def test_names_are_plain(name: str, tmp_path: Path) -> None:
    """A journal stays in its folder."""
    with pytest.raises(ValueError, match="not the name"):
        JournalWriter.open(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


async def test_an_incarnation_lives_once(writer: JournalWriter, tmp_path: Path) -> None:
    """A second journal of the same name would mix two lives."""
    with pytest.raises(ValueError, match="exists"):
        JournalWriter.open(tmp_path / "journals", "w1")


def test_a_worker_that_writes_a_journal_loads_no_database() -> None:
    """The journal needs the standard library and msgspec."""
    code = "import json, sys; import gatehouse.adapters.storage.journal; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "cryptography"}
