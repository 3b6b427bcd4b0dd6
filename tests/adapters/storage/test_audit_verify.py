"""Verification on a real SQLite file: whatever was done to a log is found, and its first event named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, text, update

from gatehouse.adapters.storage import _audit_verify
from gatehouse.adapters.storage._audit_tables import AUDIT_CHECKPOINTS, AUDIT_EVENTS, AUDIT_STATE
from gatehouse.adapters.storage.audit_log import SealBroken, page, verify
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.core.audit import AuditEvent, leaf_data
from gatehouse.core.checkpoints import open_checkpoint
from gatehouse.core.merkle import leaf_hash
from tests.adapters.storage.audit_rig import SEAL, SIGNER, Log, event, kinds

STRANGER = AuditSigner(b"x" * 32, "0123456789abcdef")


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


# -- what is found -------------------------------------------------------------------------------------------------

COLUMNS = {
    "at": 1,
    "kind": "admin",
    "action": "embedding",
    "actor": "somebody",
    "tenant": "acme",
    "subject": "req_x",
    "outcome": "failed",
    "detail": '{"n": "13"}',
    "commitment": b"",
    "leaf": b"l" * 32,
}


@pytest.mark.parametrize("column", COLUMNS)
def test_scenario_48_an_edit_of_any_column_is_named(log: Log, column: str) -> None:
    """Every column of the table is covered, white space inside the detail included; the first bad event is named."""
    log.tamper(lambda c: c.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 13).values({column: COLUMNS[column]})))
    report = log.verify()
    assert "edited" in kinds(report)
    assert report.first_bad is not None
    assert next(problem.seq for problem in report.problems if problem.kind == "edited") == 13


def test_the_table_of_columns_above_is_complete() -> None:
    """A column added to audit_events must be covered by its leaf and by the test above."""
    assert set(AUDIT_EVENTS.c.keys()) == {"seq", *COLUMNS}


def test_one_edit_does_not_hide_another(log: Log) -> None:
    """Both events are named, and only they: the stored leaves still lead to the signed roots."""
    log.tamper(lambda c: c.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq.in_([3, 13])).values(subject="x")))
    report = log.verify()
    assert [(problem.kind, problem.seq) for problem in report.problems] == [("edited", 3), ("edited", 13)]
    assert (report.first_bad, report.signed) == (3, 16)


@pytest.mark.parametrize("seq", [0, 5, 12])
def test_scenario_48_a_deleted_event_is_named(log: Log, seq: int) -> None:
    """The gap is where the event was."""
    log.tamper(lambda c: c.execute(delete(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == seq)))
    report = log.verify()
    assert report.first_bad == seq
    assert report.problems[0].kind == "missing"


def test_scenario_48_a_deleted_event_whose_gap_was_closed_is_named(log: Log) -> None:
    """Renumbering those behind it does not help: each leaf knows its number."""

    def close_the_gap(connection: Connection) -> None:
        connection.execute(delete(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 5))
        for seq in range(6, 20):
            connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == seq).values(seq=seq - 1))

    log.tamper(close_the_gap)
    report = log.verify()
    assert report.first_bad == 5
    assert {"edited", "rewritten", "cut"} <= kinds(report)


def test_scenario_48_reordered_events_are_named(log: Log) -> None:
    """Two events that changed places are both not what was logged there; the first one is named first."""

    def swap(connection: Connection) -> None:
        for old, new in ((4, -1), (9, 4), (-1, 9)):
            connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == old).values(seq=new))

    log.tamper(swap)
    report = log.verify()
    assert report.first_bad == 4
    assert [problem.seq for problem in report.problems if problem.kind == "edited"] == [4, 9]


def test_scenario_48_a_cut_tail_is_named(log: Log) -> None:
    """Without its last events the log is shorter than its recorded end and than what was signed."""
    log.tamper(lambda c: c.execute(delete(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq >= 14)))
    report = log.verify()
    assert report.first_bad == 14
    assert kinds(report) == {"cut"}


def test_scenario_48_a_tail_cut_without_a_trace_is_caught_by_a_checkpoint_kept_elsewhere(tmp_path: Path) -> None:
    """The whole database put back to an earlier state is flawless in itself; the file that somebody kept is not fooled."""
    log = Log(tmp_path / "audit.db")
    log.append(8)
    early = log.checkpoint()
    log.engine.dispose()
    backup = (tmp_path / "audit.db").read_bytes()
    log.append(8)
    kept = log.checkpoint()
    log.engine.dispose()
    (tmp_path / "audit.db").write_bytes(backup)
    assert log.verify().ok
    assert log.verify(early).ok
    report = log.verify(kept)
    assert report.first_bad == 8
    assert kinds(report) == {"cut"}
    assert "the checkpoint handed in" in report.problems[0].text
    log.engine.dispose()


def test_scenario_48_history_rewritten_with_matching_hashes_is_caught_by_the_next_checkpoint(log: Log) -> None:
    """Leaves and frontier recomputed: the signed roots do not follow, and say between which checkpoints to look."""
    log.forge({10: "req_forged"})
    report = log.verify()
    assert report.first_bad == 8
    assert next((problem.seq, problem.until) for problem in report.problems if problem.kind == "rewritten") == (8, 15)


def test_scenario_48_rewritten_history_without_its_checkpoints_is_caught_by_one_kept_elsewhere(log: Log) -> None:
    """Somebody who also removed the stored checkpoints still cannot satisfy the one that left the house."""
    kept = log.checkpoint()
    log.forge({10: "req_forged"})
    log.tamper(lambda c: c.execute(delete(AUDIT_CHECKPOINTS)))
    assert "rewritten" not in kinds(log.verify(seal=None))
    report = log.verify(kept)
    assert "rewritten" in kinds(report)
    assert report.first_bad == 0


def test_scenario_48_rewriting_what_is_not_signed_yet_breaks_the_seal(log: Log) -> None:
    """Between two checkpoints the seal stands guard: a changed end is found and never signed."""
    log.forge({18: "req_forged"})
    assert log.verify(seal=None).ok
    report = log.verify()
    assert kinds(report) == {"seal"}
    assert report.first_bad == 16
    with pytest.raises(SealBroken, match="altered outside Gatehouse"):
        log.checkpoint()


def test_a_leaf_edited_along_with_its_event_does_not_match_the_recorded_end(log: Log) -> None:
    """Recomputing the leaf alone leaves the frontier behind."""

    def rewrite(connection: Connection) -> None:
        row = connection.execute(select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 18)).one()
        columns = (*row[:6], "req_forged", *row[7:10])
        leaf = leaf_hash(leaf_data(columns))
        connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 18).values(subject="req_forged", leaf=leaf))

    log.tamper(rewrite)
    report = log.verify(seal=None)
    assert kinds(report) == {"rewritten"}
    assert report.first_bad == 16


def test_events_added_outside_are_named(log: Log) -> None:
    """A row beyond the recorded end was not written by us, neither was one before the beginning."""

    def add(connection: Connection) -> None:
        row = dict(connection.execute(select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 19)).mappings().one())
        connection.execute(insert(AUDIT_EVENTS).values({**row, "seq": -3}))
        columns = (20, row["at"], "call", "chat", "k", "default", "req_forged", "completed", "{}", b"")
        names = [name for name in row if name != "leaf"]
        forged = {**dict(zip(names, columns, strict=True)), "leaf": leaf_hash(leaf_data(columns))}
        connection.execute(insert(AUDIT_EVENTS).values(forged))

    log.tamper(add)
    report = log.verify()
    assert [(problem.kind, problem.seq) for problem in report.problems] == [("foreign", 0), ("foreign", 20)]


@pytest.mark.parametrize("seq", [0, 7, 19])
@pytest.mark.parametrize("value", ["CAST(X'ff' AS TEXT)", "X'00ff'", "3.5", "''"])
def test_what_is_not_even_text_is_named(log: Log, seq: int, value: str) -> None:
    """SQLite stores whatever it is given; text that cannot be read does not stop the verification of all others."""
    log.tamper(lambda c: c.execute(text(f"UPDATE audit_events SET actor = {value} WHERE seq = {seq}")))
    log.tamper(lambda c: c.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 12).values(subject="x")))
    report = log.verify()
    assert report.first_bad == seq if seq < 12 else 12
    assert {problem.seq for problem in report.problems if problem.kind in {"edited", "unreadable"}} == {seq, 12}


@pytest.mark.parametrize("leaf", ["X''", "X'00'", "'text'", "7"])
def test_a_leaf_that_is_no_hash_is_named(log: Log, leaf: str) -> None:
    """Whatever stands in the leaf's place."""
    log.tamper(lambda c: c.execute(text(f"UPDATE audit_events SET leaf = {leaf} WHERE seq = 3")))
    assert log.verify().first_bad == 3


def test_a_forged_checkpoint_is_named(log: Log) -> None:
    """Signed by another key, altered, or filed under another size: it does not count, and that it is there is told."""
    with log.engine.begin() as connection:
        connection.execute(delete(AUDIT_CHECKPOINTS))
        log.appender.checkpoint(connection, STRANGER, 1.0)
    report = log.verify()
    assert kinds(report) == {"checkpoint"}
    assert (report.signed, report.checkpoints) == (0, 0)


def test_a_misfiled_checkpoint_is_named(log: Log) -> None:
    """Size and root columns must be those of the note."""
    log.tamper(lambda c: c.execute(update(AUDIT_CHECKPOINTS).where(AUDIT_CHECKPOINTS.c.size == 16).values(root=b"r" * 32)))
    assert kinds(log.verify()) == {"checkpoint"}
    log.tamper(lambda c: c.execute(update(AUDIT_CHECKPOINTS).where(AUDIT_CHECKPOINTS.c.size == 16).values(size=12)))
    assert "checkpoint" in kinds(log.verify())


@pytest.mark.parametrize("values", [{"size": 21}, {"size": 12}, {"frontier": b""}, {"seal": b""}, {"frontier": b"x" * 64}])
def test_a_changed_end_is_named(log: Log, values: dict[str, object]) -> None:
    """The row that records the end cannot be changed unnoticed."""
    log.tamper(lambda c: c.execute(update(AUDIT_STATE).values(values)))
    assert not log.verify().ok
    assert "seal" in kinds(log.verify())


@pytest.mark.parametrize("column", ["frontier", "seal", "size"])
def test_an_end_that_is_not_even_bytes_is_named(log: Log, column: str) -> None:
    """Text where hashes belong is found like any other change, and no reason to fail."""
    log.tamper(lambda c: c.execute(text(f"UPDATE audit_state SET {column} = 'text'")))
    assert "seal" in kinds(log.verify())


@pytest.mark.parametrize("value", ["CAST(X'ff' AS TEXT)", "X'00ff'", "7", "''"])
def test_a_checkpoint_that_is_not_even_text_is_named(log: Log, value: str) -> None:
    """The events are verified all the same."""
    log.tamper(lambda c: c.execute(text(f"UPDATE audit_checkpoints SET note = {value} WHERE size = 8")))
    report = log.verify()
    assert kinds(report) == {"checkpoint"}
    assert report.size == 20


def test_two_checkpoints_never_contradict_each_other(log: Log) -> None:
    """A log put back behind what was signed, or regrown to the same size, is not signed again."""
    log.tamper(lambda c: c.execute(delete(AUDIT_EVENTS)))
    log.tamper(lambda c: c.execute(delete(AUDIT_STATE)))
    log.append(3)
    with pytest.raises(SealBroken, match="was signed before"):
        log.checkpoint()
    log.append(13)
    with pytest.raises(SealBroken, match="was signed before"):
        log.checkpoint()
    assert "rewritten" in kinds(log.verify())


def test_a_removed_end_is_named(log: Log) -> None:
    """Neither can it be removed; and the log goes on behind what is there, unsigned."""
    log.tamper(lambda c: c.execute(delete(AUDIT_STATE)))
    assert kinds(log.verify()) == {"seal"}
    log.append(1)
    assert log.verify().size == 21
    with pytest.raises(SealBroken):
        log.checkpoint()


def test_a_given_checkpoint_that_is_no_good_is_an_error_not_a_verdict(log: Log) -> None:
    """What is not signed by this log's key says nothing about the log."""
    for note in ("nonsense", log.checkpoint().replace("\n20\n", "\n19\n")):
        with pytest.raises(ValueError, match=r"signed|altered"):
            log.verify(note)


# -- going on after a break ---------------------------------------------------------------------------------------


def test_a_broken_seal_stays_broken_until_somebody_reseals_on_the_record(log: Log) -> None:
    """Appending does not heal it. Resealing does, tells who did it, and unsigns nothing that was signed before."""
    log.tamper(lambda c: c.execute(update(AUDIT_STATE).values(seal=b"x")))
    log.append(2)
    assert kinds(log.verify()) == {"seal"}
    decision = AuditEvent(5.0, "admin", "audit.reseal", "bootstrap", "default", "audit", "ok", {"reason": "restored by hand"})
    with log.engine.begin() as connection:
        log.appender.reseal(connection, decision)
        assert page(connection, "default", None, 1)[0].action == "audit.reseal"
    assert log.verify().ok
    assert open_checkpoint(log.checkpoint(), SIGNER).size == 23
    log.forge({2: "req_forged"})
    with log.engine.begin() as connection:
        log.appender.reseal(connection, decision)
    assert kinds(log.verify()) == {"rewritten"}


def test_a_log_with_holes_is_not_resealed(log: Log) -> None:
    """No tree can be made of events that are not there."""
    log.tamper(lambda c: c.execute(delete(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == 5)))
    with log.engine.begin() as connection, pytest.raises(SealBroken, match="missing at or after 0"):
        log.appender.reseal(connection, event(0))


# -- any history, any tampering ------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_scenario_48_any_single_act_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random batches and checkpoints, then one random edit, deletion or swap: the first event concerned is the first one named."""
    log = Log(tmp_path_factory.mktemp("log") / "audit.db")
    for count in data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=6)):
        log.append(count)
        if data.draw(st.booleans()):
            log.checkpoint()
    assert log.verify().ok
    at = data.draw(st.integers(0, log.size - 1))
    act = data.draw(st.sampled_from(["edit", "delete", "swap"]))

    def tamper(connection: Connection) -> None:
        row = AUDIT_EVENTS.c.seq == at
        if act == "edit":
            connection.execute(update(AUDIT_EVENTS).where(row).values(outcome="lost"))
        elif act == "delete":
            connection.execute(delete(AUDIT_EVENTS).where(row))
        else:
            other = (at + 1) % log.size
            for old, new in ((at, -1), (other, at), (-1, other)):
                connection.execute(update(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == old).values(seq=new))

    log.tamper(tamper)
    report = log.verify()
    if act == "swap" and log.size > 1:
        assert report.first_bad == min(at, (at + 1) % log.size)
    elif act != "swap":
        assert report.first_bad == at
    log.engine.dispose()


def test_verification_reads_page_by_page(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of events and of checkpoints may end anywhere; progress is told on the way."""
    for number in range(10):
        log.append(number % 3)
        log.checkpoint()
    told: list[int] = []
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(_audit_verify, "EVENTS_PAGE", size)
        monkeypatch.setattr(_audit_verify, "NOTES_PAGE", max(size - 1, 1))
        with log.engine.begin() as connection:
            report = verify(connection, SIGNER, seal_key=SEAL, progress=told.append)
        assert report.ok
        assert report.signed == report.size == log.size
    assert told[-1] == log.size
    assert len(told) > log.size
