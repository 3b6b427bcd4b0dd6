"""Reading journals: of the living and the dead, whole and torn, and what is made of damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gatehouse.adapters.storage import shelf as shelf_module
from gatehouse.adapters.storage._frames import HEADER
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.storage.shelf import FileJournalShelf
from gatehouse.core.errors import Unavailable
from gatehouse.core.ledger import Damage, JournalInfo, Position, Slice
from gatehouse.core.records import Record
from gatehouse.testing.storage_contract import opened_record

Make = Callable[[int], JournalWriter]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the journals are."""
    return tmp_path / "journals"


@pytest.fixture
def shelf(root: Path) -> FileJournalShelf:
    """On the root."""
    return FileJournalShelf(root)


async def written(root: Path, count: int, name: str = "w1", rotate_bytes: int = 1_000_000) -> list[Record]:
    """The journal of a process that has ended, with `count` records."""
    writer = JournalWriter.open(root, name, rotate_bytes)
    records: list[Record] = [opened_record(f"req_{number}") for number in range(count)]
    for record in records:
        writer.append(record)
    await writer.close()
    return records


async def read_all(shelf: FileJournalShelf, limit: int = 1000) -> tuple[list[Record], list[Slice], JournalInfo]:
    """Everything the only journal gives."""
    (journal,) = await shelf.survey()
    records: list[Record] = []
    slices: list[Slice] = []
    position = Position()
    while not slices or not slices[-1].caught_up:
        read = await shelf.read(journal, position, limit)
        assert read.position > position or read.caught_up
        slices.append(read)
        records += read.records
        position = read.position
    return records, slices, journal


async def test_no_folder_is_no_journal(shelf: FileJournalShelf) -> None:
    """A fresh data directory has none."""
    assert await shelf.survey() == []


async def test_a_journal_is_alive_while_its_process_holds_it(root: Path, shelf: FileJournalShelf) -> None:
    """And dead the moment it lets go."""
    writer = JournalWriter.open(root, "w1")
    writer.append(opened_record())
    (journal,) = await shelf.survey()
    assert (journal.alive, journal.files) == (True, (1,))
    assert journal.end.offset == (root / "w1" / "1.log").stat().st_size
    await writer.close()
    (journal,) = await shelf.survey()
    assert not journal.alive


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_reading_goes_through_every_file(root: Path, shelf: FileJournalShelf, limit: int) -> None:
    """In order, in pieces of at most the limit, each of one file; nothing twice, nothing left."""
    records = await written(root, 40, rotate_bytes=1000)
    found, slices, journal = await read_all(shelf, limit)
    assert found == records
    assert len(journal.files) > 5
    assert all(len(read.records) <= limit for read in slices)
    assert not any(read.damage or read.torn for read in slices)


async def test_reading_stops_where_it_is_told(root: Path, shelf: FileJournalShelf) -> None:
    """`until` is the end of a record that was read before."""
    records = await written(root, 10)
    (journal,) = await shelf.survey()
    first = await shelf.read(journal, Position(), 4)
    again = await shelf.read(journal, Position(), 1000, until=first.position)
    assert (list(again.records), again.position) == (records[:4], first.position)


async def test_half_a_frame_of_a_living_process_is_waited_for(root: Path, shelf: FileJournalShelf) -> None:
    """Somebody is writing it."""
    records = await written(root, 3)
    path = root / "w1" / "1.log"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    (journal,) = await shelf.survey()
    living = JournalInfo("w1", True, journal.files, journal.end)
    read = await shelf.read(living, Position(), 1000)
    assert (list(read.records), read.caught_up, read.damage, read.torn) == (records[:2], True, (), 0)
    path.write_bytes(whole)
    rest = await shelf.read(living, read.position, 1000)
    assert list(rest.records) == records[2:]


async def test_half_a_frame_of_a_dead_process_is_a_torn_tail(root: Path, shelf: FileJournalShelf) -> None:
    """Left out, said how long it is, and not damage: nobody was told that it was kept."""
    records = await written(root, 3)
    path = root / "w1" / "1.log"
    path.write_bytes(path.read_bytes()[:-10])
    found, slices, _ = await read_all(shelf)
    assert found == records[:2]
    assert slices[-1].torn > 10
    assert slices[-1].damage == ()
    assert slices[-1].position.offset == path.stat().st_size


@pytest.mark.parametrize("place", ["middle", "length", "end"])
async def test_bad_bytes_are_reported_and_only_they_are_lost(root: Path, shelf: FileJournalShelf, place: str) -> None:
    """In the middle of a file, in a frame's length, or in its last frame, whose bytes are all there."""
    records = await written(root, 9)
    path = root / "w1" / "1.log"
    content = bytearray(path.read_bytes())
    size = (len(content) - len(HEADER)) // 9
    lost = 8 if place == "end" else 4
    start = len(HEADER) + lost * size
    content[start + (1 if place == "length" else size // 2)] ^= 0xFF
    path.write_bytes(content)
    found, slices, _ = await read_all(shelf)
    assert found == records[:lost] + records[lost + 1 :]
    assert [damage for read in slices for damage in read.damage] == [Damage("w1", 1, start, start + size)]


async def test_a_file_that_ends_badly_before_others_is_damaged(root: Path, shelf: FileJournalShelf) -> None:
    """A torn tail is possible only at the very end."""
    records = await written(root, 12, rotate_bytes=1000)
    path = root / "w1" / "1.log"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    found, slices, _ = await read_all(shelf)
    lost = next(index for index, record in enumerate(records) if record not in found)
    assert found == records[:lost] + records[lost + 1 :]
    (damage,) = [damage for read in slices for damage in read.damage]
    assert (damage.file, damage.end) == (1, whole - 5)


async def test_a_missing_file_is_damage(root: Path, shelf: FileJournalShelf) -> None:
    """All of it."""
    await written(root, 20, rotate_bytes=1000)
    (root / "w1" / "2.log").unlink()
    _, slices, _ = await read_all(shelf)
    assert [damage for read in slices for damage in read.damage] == [Damage("w1", 2, 0, -1)]


async def test_a_damaged_header_costs_no_record(root: Path, shelf: FileJournalShelf) -> None:
    """It is reported like every other bad byte."""
    records = await written(root, 3)
    path = root / "w1" / "1.log"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    found, slices, _ = await read_all(shelf)
    assert found == records
    assert slices[0].damage == (Damage("w1", 1, 0, len(HEADER)),)


async def test_a_later_format_is_left_to_whoever_wrote_it(root: Path, shelf: FileJournalShelf) -> None:
    """An older version that comes back does not guess at the records of a newer one."""
    await written(root, 3)
    path = root / "w1" / "1.log"
    path.write_bytes(HEADER[:-1] + b"\x02" + path.read_bytes()[len(HEADER) :])
    (journal,) = await shelf.survey()
    with pytest.raises(Unavailable) as refused:
        await shelf.read(journal, Position(), 10)
    assert "journal format 2" in refused.value.detail


async def test_a_journal_without_a_header_has_no_records_yet(root: Path, shelf: FileJournalShelf) -> None:
    """Its process died in its first moment, before or after making the file."""
    await written(root, 0)
    path = root / "w1" / "1.log"
    path.write_bytes(HEADER[:3])
    found, slices, _ = await read_all(shelf)
    assert (found, slices[-1].damage, slices[-1].torn) == ([], (), 3)
    path.unlink()
    found, slices, journal = await read_all(shelf)
    assert (found, slices[-1].caught_up, journal.files) == ([], True, ())


async def test_bad_bytes_beyond_any_frame_are_passed_over(root: Path, shelf: FileJournalShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they fill more than is read at a time."""
    records = await written(root, 2)
    path = root / "w1" / "1.log"
    content = path.read_bytes()
    half = (len(content) - len(HEADER)) // 2 + len(HEADER)
    monkeypatch.setattr(shelf_module, "PIECE_BYTES", 1000)
    path.write_bytes(content[:half] + b"\xee" * 5000 + content[half:])
    found, slices, _ = await read_all(shelf)
    assert found == records
    assert [damage for read in slices for damage in read.damage] == [Damage("w1", 1, half, half + 5000)]


async def test_discarding_and_setting_aside(root: Path, shelf: FileJournalShelf) -> None:
    """Files below a number, or all of it; a damaged journal is kept beside the root. What is gone already is no error."""
    await written(root, 20, rotate_bytes=1000)
    await written(root, 1, "w2")
    await shelf.discard("w1", before=3)
    assert min(path.name for path in (root / "w1").glob("*.log")) == "3.log"
    await shelf.set_aside("w2")
    assert (root.parent / "journals-damaged" / "w2" / "1.log").exists()
    for _ in range(2):
        await shelf.discard("w1")
        await shelf.discard("w1", before=9)
        await shelf.set_aside("w2")
    assert await shelf.survey() == []


async def test_folders_that_were_never_finished_are_swept(root: Path, shelf: FileJournalShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never held a record; a young one may belong to a process that is just starting."""
    (root / ".w9.new").mkdir(parents=True)
    assert await shelf.survey() == []
    assert (root / ".w9.new").exists()
    monkeypatch.setattr(shelf_module, "_STALE_SECONDS", -1.0)
    assert await shelf.survey() == []
    assert not (root / ".w9.new").exists()
