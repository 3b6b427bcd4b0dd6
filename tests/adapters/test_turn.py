"""What leaves at the end of a turn: first what has to be done before, in one write what is recorded, then what is sent."""

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.storage.shelf import JournalReader
from gatehouse.adapters.system import LoopTurn
from gatehouse.core.errors import GatehouseError, Internal, Unavailable
from gatehouse.core.records import Record
from gatehouse.testing.storage_contract import closed_record, opened_record


@pytest.fixture
async def turn() -> LoopTurn:
    """The turns of the test's own loop."""
    return LoopTurn()


@pytest.fixture
def log() -> list[str]:
    """What happened, in order."""
    return []


def noting(log: list[str], what: str, *then: Callable[[], object]) -> Callable[[], None]:
    """Notes `what`, and goes on with the rest."""

    def work() -> None:
        log.append(what)
        for each in then:
            each()

    return work


def sending(log: list[str], *then: Callable[[], object]) -> Callable[[bytes], None]:
    """Notes what is sent, and goes on with the rest."""

    def write(data: bytes) -> None:
        log.append(f"sent {data.decode()}")
        for each in then:
            each()

    return write


def fail() -> None:
    raise ZeroDivisionError


def cancelled() -> None:
    raise asyncio.CancelledError


# --- the turn ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_done_until_the_turn_is_over(turn: LoopTurn, log: list[str]) -> None:
    """What was asked for first is done first, and everything that is to be done before is done before anything is sent."""
    turn.send(sending(log), b"1")
    turn.before(noting(log, "a"))
    turn.send(sending(log), b"2")
    turn.before(noting(log, "b"))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["a", "b", "sent 1", "sent 2"]
    await asyncio.sleep(0)
    assert len(log) == 4


async def test_each_turn_ends_by_itself(turn: LoopTurn, log: list[str]) -> None:
    """What is asked for in the next turn leaves at its end."""
    for number in range(3):
        turn.before(noting(log, f"{number}"))
        turn.send(sending(log), b"%d" % number)
        await asyncio.sleep(0)
    assert log == ["0", "sent 0", "1", "sent 1", "2", "sent 2"]


async def test_what_is_asked_for_while_it_ends(turn: LoopTurn, log: list[str]) -> None:
    """Work that asks for more work, or has something to send, has it in this turn; what sending asks for has the next."""
    later = noting(log, "later")
    turn.before(noting(log, "a", lambda: turn.before(noting(log, "of a")), lambda: turn.send(sending(log), b"of a")))
    turn.before(noting(log, "b"))
    turn.send(sending(log, lambda: turn.before(later), lambda: turn.send(sending(log), b"later")), b"1")
    turn.send(sending(log), b"2")
    await asyncio.sleep(0)
    assert log == ["a", "b", "of a", "sent 1", "sent 2", "sent of a"]
    await asyncio.sleep(0)
    assert log[6:] == ["later", "sent later"]


async def test_what_comes_last_comes_once_for_all(turn: LoopTurn, log: list[str]) -> None:
    """It is done when nothing is left to be done before it, however that came to be asked for, and still before anything is sent."""
    turn.last(noting(log, "last"))
    turn.send(sending(log), b"1")
    turn.before(noting(log, "a", lambda: turn.before(noting(log, "of a"))))
    await asyncio.sleep(0)
    assert log == ["a", "of a", "last", "sent 1"]


async def test_what_comes_last_may_lead_to_more(turn: LoopTurn, log: list[str]) -> None:
    """That is done too, and what comes last of it."""
    turn.last(noting(log, "last", lambda: turn.before(noting(log, "more", lambda: turn.last(noting(log, "at last"))))))
    turn.last(noting(log, "another", fail))
    turn.send(sending(log), b"1")
    await asyncio.sleep(0)
    assert log == ["last", "more", "another", "at last", "sent 1"]
    turn.last(noting(log, "alone"))
    await asyncio.sleep(0)
    assert log[5:] == ["alone"]


async def test_what_is_for_the_next_turn(turn: LoopTurn, log: list[str]) -> None:
    """It is done after what this turn sends and before what the next one does, whoever asks for it, in a turn or outside; and once."""
    turn.before(noting(log, "first", lambda: turn.later(noting(log, "next", lambda: turn.send(sending(log), b"b")))))
    turn.send(sending(log), b"a")
    await asyncio.sleep(0)
    assert log == ["first", "sent a"]
    for _ in range(3):
        await asyncio.sleep(0)
    assert log == ["first", "sent a", "next", "sent b"]
    turn.later(noting(log, "asked from outside"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert log[4:] == ["asked from outside"]


async def test_a_fault_of_one_is_nobody_elses(turn: LoopTurn, log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the others are done and sent; so is what comes in later turns."""
    with caplog.at_level(logging.ERROR):
        turn.before(noting(log, "a", fail))
        turn.before(noting(log, "b"))
        turn.send(sending(log, fail), b"1")
        turn.send(sending(log), b"2")
        await asyncio.sleep(0)
    assert log == ["a", "b", "sent 1", "sent 2"]
    assert len(caplog.records) == 2
    turn.before(noting(log, "next"))
    await asyncio.sleep(0)
    assert log[4:] == ["next"]


async def test_a_turn_ended_by_hand(turn: LoopTurn, log: list[str]) -> None:
    """Everything is done and sent at once; when the loop comes to it there is nothing left, and the next turn is whole again."""
    turn.before(noting(log, "a"))
    turn.send(sending(log), b"1")
    turn.end()
    assert log == ["a", "sent 1"]
    turn.send(sending(log), b"2")
    turn.before(noting(log, "b"))
    assert len(log) == 2
    await asyncio.sleep(0)
    assert log == ["a", "sent 1", "b", "sent 2"]
    turn.end()
    await asyncio.sleep(0)
    assert len(log) == 4


async def test_a_turn_ended_by_what_it_does(turn: LoopTurn, log: list[str]) -> None:
    """Whoever has to send at once, in the middle of the end, sends nothing before what was still to be done."""
    turn.before(noting(log, "a", lambda: turn.send(sending(log), b"of a"), turn.end, lambda: log.append("a ended it")))
    turn.before(noting(log, "b", lambda: turn.before(noting(log, "of b"))))
    turn.send(sending(log), b"1")
    await asyncio.sleep(0)
    assert log == ["a", "b", "of b", "sent 1", "sent of a", "a ended it"]
    await asyncio.sleep(0)
    assert len(log) == 6


async def test_a_cancellation_in_the_middle_wedges_nothing(turn: LoopTurn, log: list[str]) -> None:
    """What no handler of faults catches ends this step of the loop; the rest of the turn comes in the next."""

    turn.before(noting(log, "a", cancelled))
    turn.before(noting(log, "b"))
    turn.send(sending(log), b"1")
    with pytest.raises(asyncio.CancelledError):
        turn.end()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log == ["a", "b", "sent 1"]
    turn.before(noting(log, "next"))
    await asyncio.sleep(0)
    assert log[3:] == ["next"]


async def test_what_is_to_be_sent_leaves_after_a_cancellation(turn: LoopTurn, log: list[str]) -> None:
    """Also when nothing else is left for which anybody would come."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: log.append(type(context["exception"]).__name__))

    turn.before(noting(log, "a", cancelled))
    turn.send(sending(log), b"1")
    for _ in range(3):
        await asyncio.sleep(0)
    assert log == ["a", "CancelledError", "sent 1"]


# --- the journal's part ------------------------------------------------------------------------------------------------


@pytest.fixture
async def journal(tmp_path: Path, turn: LoopTurn) -> AsyncIterator[JournalWriter]:
    """A journal whose records leave with the turn."""
    writer = JournalWriter.open(tmp_path / "journals", "w1")
    writer.turn = turn
    yield writer
    await writer.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the journal's first file is."""
    return tmp_path / "journals" / "w1" / "1.log"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each write had."""
    sizes: list[int] = []
    write = os.write

    def noted(file: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(file, data)

    monkeypatch.setattr(os, "write", noted)
    return sizes


class Refusals:
    """Who was told that a record could not be written."""

    def __init__(self) -> None:
        self.told: list[tuple[Record, GatehouseError]] = []

    def __call__(self, record: Record, error: GatehouseError) -> None:
        self.told.append((record, error))

    @property
    def records(self) -> list[Record]:
        return [record for record, _ in self.told]


def read(path: Path) -> list[Record]:
    """Every record of a file, which must hold nothing else."""
    records, _, state, skipped = JournalReader(path).read_from(0, 10_000_000)
    assert (state, skipped) == ("end", [])
    return records


def opened(number: int, size: int = 0) -> Record:
    """A record with a name of its own, and some weight."""
    return msgspec.structs.replace(opened_record(), request_id=f"req_{number}", commitment=bytes(size))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: a write across the bound is cut short, the next one refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_one_write_for_all_that_is_posted(journal: JournalWriter, file: Path, writes: list[int]) -> None:
    """Records of one turn are one write, in the order of posting; none before the turn ends, none in the next."""
    refused = Refusals()
    records: list[Record] = [opened(1), closed_record(), opened(2)]
    for record in records:
        journal.post_all([record], refused)
    assert (writes, read(file)) == ([], [])
    await asyncio.sleep(0)
    assert (len(writes), read(file), refused.told) == (1, records, [])
    await asyncio.sleep(0)
    assert len(writes) == 1


async def test_one_write_for_what_a_turn_leads_to(journal: JournalWriter, file: Path, turn: LoopTurn, writes: list[int]) -> None:
    """Work that is still to be done posts too: its records are in the same write."""
    journal.post_all([opened(1)], Refusals())
    turn.before(lambda: journal.post_all([closed_record(), opened(2)], Refusals()))
    await asyncio.sleep(0)
    assert (len(writes), read(file)) == (1, [opened(1), closed_record(), opened(2)])


async def test_several_are_posted_as_each_is(journal: JournalWriter, file: Path) -> None:
    """Who posted them is told of each that is not kept, at the end of the turn, or where there are none at once; it raises nothing."""
    refused = Refusals()
    journal.post_all([opened(1), opened(2, 2_000_000), opened(3)], refused)
    assert (read(file), refused.told) == ([], [])
    await asyncio.sleep(0)
    assert (read(file), refused.records) == ([opened(1), opened(3)], [opened(2, 2_000_000)])
    journal.turn = None
    with files_no_larger_than(file.stat().st_size):
        journal.post_all([opened(4), opened(5)], refused)
    assert refused.records[1:] == [opened(4), opened(5)]
    assert read(file) == [opened(1), opened(3)]


async def test_nothing_that_is_posted_is_not_written(journal: JournalWriter, file: Path, writes: list[int]) -> None:
    """Nothing can be written to a full disk too: it is no sign that the disk is well again."""
    with files_no_larger_than(file.stat().st_size):
        with pytest.raises(Unavailable):
            journal.append(opened(1))
        journal.post_all([], Refusals())
        await asyncio.sleep(0)
        assert "cannot be written" in journal.problem
    assert len(writes) == 1


async def test_what_is_recorded_is_written_before_anything_is_sent(journal: JournalWriter, file: Path, turn: LoopTurn) -> None:
    """Also when the sending was asked for first, and when the end of the turn is what records."""
    seen: list[int] = []
    turn.send(lambda data: seen.append(len(read(file))), b"")
    journal.post_all([opened(1)], Refusals())
    turn.before(lambda: journal.post_all([opened(2)], Refusals()))
    await asyncio.sleep(0)
    assert seen == [2]


async def test_who_ends_the_turn_in_its_middle_sends_nothing_that_is_not_written(
    journal: JournalWriter, file: Path, turn: LoopTurn
) -> None:
    """Work that answers and closes, before the turn has come to the writing of what was posted in it, writes that first."""
    seen: list[int] = []

    def answer_and_close() -> None:
        journal.post_all([opened(2)], Refusals())
        turn.send(lambda data: seen.append(len(read(file))), b"")
        turn.end()

    turn.before(answer_and_close)
    journal.post_all([opened(1)], Refusals())
    await asyncio.sleep(0)
    assert seen == [2]


async def test_what_is_appended_is_written_at_once(journal: JournalWriter, file: Path) -> None:
    """It does not wait for the turn, so it stands before what was posted earlier in it and is still to be written."""
    journal.post_all([opened(1)], Refusals())
    journal.append(opened(2))
    assert read(file) == [opened(2)]
    journal.post_all([opened(3)], Refusals())
    await asyncio.sleep(0)
    assert read(file) == [opened(2), opened(1), opened(3)]


async def test_without_turns_posting_is_appending(journal: JournalWriter, file: Path) -> None:
    """At once; what cannot be written is told, once, and raises nothing."""
    journal.turn = None
    refused = Refusals()
    journal.post_all([opened(1)], refused)
    assert read(file) == [opened(1)]
    with files_no_larger_than(file.stat().st_size):
        journal.post_all([opened(2)], refused)
    assert [(record, type(error)) for record, error in refused.told] == [(opened(2), Unavailable)]
    assert read(file) == [opened(1)]


async def test_a_disk_that_refuses_some(journal: JournalWriter, file: Path) -> None:
    """Each whose record is not written is told, with the record and why; the others are kept, and not written twice."""
    refused = Refusals()
    records = [opened(1), opened(2, 4000), opened(3), opened(4, 4000), opened(5)]
    for record in records:
        journal.post_all([record], refused)
    with files_no_larger_than(file.stat().st_size + 2500):
        await asyncio.sleep(0)
    assert refused.records == [records[1], records[3]]
    assert all(isinstance(error, Unavailable) and error.code == "journal_unavailable" for _, error in refused.told)
    assert read(file) == [records[0], records[2], records[4]]
    journal.post_all([opened(6)], refused)
    await asyncio.sleep(0)
    assert read(file)[3:] == [opened(6)]
    assert journal.problem == ""


async def test_a_torn_write_of_several_is_taken_back(journal: JournalWriter, file: Path) -> None:
    """A disk that takes a part of what is written together leaves no torn frame; none that was told is in the file."""
    refused = Refusals()
    for number in range(8):
        journal.post_all([opened(number, 300)], refused)
    with files_no_larger_than(file.stat().st_size + 200):
        await asyncio.sleep(0)
    assert refused.records == [opened(number, 300) for number in range(8)]
    assert read(file) == []
    assert "journal" in journal.problem
    journal.append(opened(9))
    assert read(file) == [opened(9)]


@pytest.mark.parametrize("bad", ["too large", "not to be encoded"])
async def test_a_record_that_cannot_be_kept_takes_no_other_with_it(journal: JournalWriter, file: Path, bad: str) -> None:
    """Whoever posted it is told; what others posted in the same turn is written."""
    broken = opened(2, 2_000_000) if bad == "too large" else msgspec.structs.replace(opened_record(), request_id="\ud800")
    refused = Refusals()
    journal.post_all([opened(1)], refused)
    journal.post_all([broken], refused)
    journal.post_all([opened(3)], refused)
    await asyncio.sleep(0)
    assert refused.records == [broken]
    assert isinstance(refused.told[0][1], Internal)
    assert read(file) == [opened(1), opened(3)]


async def test_who_is_told_may_break_its_promise(journal: JournalWriter, file: Path) -> None:
    """A fault of who hears of a refusal keeps no other from being written, or told."""

    def broken(record: Record, error: GatehouseError) -> None:
        raise ZeroDivisionError

    refused = Refusals()
    journal.post_all([opened(1, 4000)], broken)
    journal.post_all([opened(2)], refused)
    journal.post_all([opened(3, 4000)], refused)
    with files_no_larger_than(file.stat().st_size + 1000):
        await asyncio.sleep(0)
    assert refused.records == [opened(3, 4000)]
    assert read(file) == [opened(2)]


async def test_closing_writes_what_is_posted(journal: JournalWriter, file: Path) -> None:
    """A record of the very last turn is not lost; what is posted after is told that it is."""
    refused = Refusals()
    journal.post_all([opened(1)], refused)
    await journal.close()
    assert read(file) == [opened(1)]
    journal.post_all([opened(2)], refused)
    await asyncio.sleep(0)
    assert refused.records == [opened(2)]
    assert read(file) == [opened(1)]
