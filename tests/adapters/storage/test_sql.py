"""The database: fresh, old, newer or foreign; who waits for whom; what a caller is told when it refuses."""

import ast
import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from gatehouse.adapters.storage import _schema
from gatehouse.adapters.storage._metadata import METADATA
from gatehouse.adapters.storage._schema import REVISIONS, SCHEMA, VERSION, SchemaRefused
from gatehouse.adapters.storage._sole import DatabaseTaken
from gatehouse.adapters.storage.facts import fact, keep_fact
from gatehouse.adapters.storage.sql import Database, engine_for
from gatehouse.core.errors import Unavailable


def shape(connection: Connection) -> dict[str, object]:
    """Every table with its columns, keys and indexes, as the database tells it."""
    inspector = inspect(connection)
    found: dict[str, object] = {}
    for table in inspector.get_table_names():
        columns = [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)]
        keys = inspector.get_pk_constraint(table)
        indexes = sorted((str(index["name"]), tuple(index["column_names"])) for index in inspector.get_indexes(table))
        found[table] = (columns, keys["name"], keys["constrained_columns"], indexes)
    return found


def test_migrations_make_what_the_metadata_says(empty_url: str, tmp_path: Path) -> None:
    """A database that was migrated and one that was created at once cannot be told apart."""
    engine = engine_for(empty_url, tmp_path)
    with engine.connect() as connection:
        with connection.begin() as transaction:
            if empty_url.startswith("postgresql"):
                connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            _schema.upgrade(connection, "head")
            assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []
            migrated = shape(connection)
            transaction.rollback()
        with connection.begin():
            _schema.prepare(connection)
            assert shape(connection) == migrated
    engine.dispose()


def test_every_revision_is_known() -> None:
    """The list that start-up compares with is the chain of migrations, oldest first."""
    script = ScriptDirectory.from_config(_schema.alembic_config())
    assert tuple(revision.revision for revision in script.walk_revisions())[::-1] == REVISIONS


def test_no_upgrade_destroys() -> None:
    """Migrations only expand: no upgrade drops a table or a column, so the previous version can go on serving meanwhile."""
    folder = Path(_schema.__file__).parent / "migrations" / "versions"
    destructive = {"drop_table", "drop_column", "execute"}
    for path in folder.glob("*.py"):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name != "downgrade"]
        used = {node.attr for function in functions for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        assert not used & destructive, path.name


async def test_a_fresh_database_is_made_and_found_again(empty_url: str, tmp_path: Path) -> None:
    """The second opening finds what the first one wrote."""
    for _ in range(2):
        database = await Database.open(empty_url, tmp_path)
        assert await database.run(lambda connection: keep_fact(connection, "first-key", "k1")) == "k1"
        assert await database.read(lambda connection: fact(connection, "nothing")) is None
        assert await database.ping() == ""
        await database.close()


async def test_a_fact_is_kept_once(database: Database) -> None:
    """Who comes second learns what was agreed on."""
    assert await database.run(lambda connection: keep_fact(connection, "root", "a")) == "a"
    assert await database.run(lambda connection: keep_fact(connection, "root", "b")) == "a"


async def test_a_newer_database_is_refused(empty_url: str, tmp_path: Path) -> None:
    """With a sentence that says what happened and what to do; nothing is changed."""
    database = await Database.open(empty_url, tmp_path)
    await database.run(lambda connection: connection.execute(VERSION.update().values(version_num="9999")))
    await database.close()
    with pytest.raises(SchemaRefused, match=r"revision 9999.*newer Gatehouse.*backup"):
        await Database.open(empty_url, tmp_path)


async def test_tables_of_others_are_left_alone(empty_url: str, tmp_path: Path) -> None:
    """In a database that somebody else uses too, ours stand beside theirs; on SQLite a name that is taken is refused."""
    engine = engine_for(empty_url, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS ledger (theirs INTEGER)" if engine.name == "sqlite" else "SELECT 1"))
    engine.dispose()
    if engine.name == "sqlite":
        with pytest.raises(SchemaRefused, match="'ledger'"):
            await Database.open(empty_url, tmp_path)
        return
    plain = create_engine(empty_url.replace("postgresql:", "postgresql+psycopg:"))
    with plain.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS public.ledger (theirs INTEGER)"))
    try:
        database = await Database.open(empty_url, tmp_path)
        await database.close()
        with plain.begin() as connection:
            assert inspect(connection).has_table("ledger", schema=SCHEMA)
            assert [column["name"] for column in inspect(connection).get_columns("ledger", schema="public")] == ["theirs"]
    finally:
        with plain.begin() as connection:
            connection.execute(text("DROP TABLE public.ledger"))
        plain.dispose()


async def test_an_interrupted_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and revision are one transaction: whoever starts next finds an empty database, not half of one."""
    monkeypatch.setattr(_schema, "REVISIONS", ("x" * 3, None))
    with pytest.raises(DBAPIError):
        await Database.open("sqlite:///test.db", tmp_path)
    monkeypatch.undo()
    database = await Database.open("sqlite:///test.db", tmp_path)
    await database.close()


@pytest.mark.parametrize("url", ["", "nonsense", "secret", "mysql://u:secret@h/db", "sqlite://", "sqlite:///:memory:"])
async def test_an_unknown_url_is_refused_without_repeating_it(url: str, tmp_path: Path) -> None:
    """It may hold a password."""
    with pytest.raises(ValueError) as refused:
        await Database.open(url, tmp_path)
    assert "secret" not in str(refused.value)


async def test_an_unreachable_database_is_unavailable(tmp_path: Path) -> None:
    """And the password is nowhere in what is said."""
    with pytest.raises(Unavailable) as refused:
        await Database.open(f"postgresql://u:secret@/db?host={tmp_path}", tmp_path)
    assert refused.value.code == "storage_unavailable"
    assert "secret" not in f"{refused.value} {refused.value.detail}"


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """Garbage where the database should be is told in words, not as a fault of the driver, and is left as it is."""
    garbage = b"garbage " * 1000
    (tmp_path / "gatehouse.db").write_bytes(garbage)
    with pytest.raises(Unavailable) as refused:
        await Database.open("sqlite:///gatehouse.db", tmp_path)
    assert "not a database" in refused.value.detail
    assert (tmp_path / "gatehouse.db").read_bytes() == garbage


async def test_a_sqlite_file_is_private_and_durable(tmp_path: Path) -> None:
    """Mode 0600, write-ahead log, and a commit waits for the disk."""
    database = await Database.open("sqlite:///data/test.db", tmp_path)
    pragmas = await database.run(
        lambda connection: [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert pragmas == ["wal", 2, 1]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}
    await database.close()


async def test_what_raises_is_taken_back(database: Database) -> None:
    """The whole of it, and the exception comes out as it was."""

    def work(connection: Connection) -> None:
        keep_fact(connection, "a", "1")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await database.run(work)
    assert await database.read(lambda connection: fact(connection, "a")) is None


async def test_reading_cannot_write(database: Database) -> None:
    """A report that tries is refused by the database; the next writer is not."""
    with pytest.raises((Unavailable, DBAPIError)):
        await database.read(lambda connection: keep_fact(connection, "a", "1"))
    assert await database.run(lambda connection: keep_fact(connection, "a", "2")) == "2"


async def test_a_long_report_stands_in_nobodys_way_and_sees_one_moment(database: Database) -> None:
    """While it reads, others commit, and it sees none of that."""
    reading, written = threading.Event(), threading.Event()

    def report(connection: Connection) -> tuple[str | None, str | None]:
        before = fact(connection, "a")
        reading.set()
        assert written.wait(10)
        return before, fact(connection, "a")

    pending = asyncio.ensure_future(database.read(report))
    await asyncio.to_thread(reading.wait, 10)
    await database.run(lambda connection: keep_fact(connection, "a", "1"))
    written.set()
    assert await pending == (None, None)
    assert await database.read(lambda connection: fact(connection, "a")) == "1"


async def test_waiting_for_a_turn_is_bounded(tmp_path: Path) -> None:
    """Who finds the writer busy for too long is told so, and its work is not done later behind its back."""
    database = await Database.open("sqlite:///test.db", tmp_path, patience=0.05)
    begun, release = threading.Event(), threading.Event()

    def hog(_: Connection) -> str:
        begun.set()
        assert release.wait(10)
        return "done"

    slow = asyncio.ensure_future(database.run(hog))
    await asyncio.to_thread(begun.wait, 10)
    with pytest.raises(Unavailable) as refused:
        await database.run(lambda connection: keep_fact(connection, "late", "1"))
    assert "no turn" in refused.value.detail
    release.set()
    assert await slow == "done"
    assert await database.read(lambda connection: fact(connection, "late")) is None
    await database.close()


async def test_a_caller_that_leaves_does_not_stop_work_that_has_begun(tmp_path: Path) -> None:
    """A cancelled caller's transaction is committed or never started, not torn."""
    database = await Database.open("sqlite:///test.db", tmp_path)
    begun, release = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        begun.set()
        assert release.wait(10)
        keep_fact(connection, "a", "1")

    caller = asyncio.ensure_future(database.run(work))
    await asyncio.to_thread(begun.wait, 10)
    waiting = asyncio.ensure_future(database.run(lambda connection: keep_fact(connection, "b", "1")))
    await asyncio.sleep(0)
    for task in (caller, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    release.set()
    assert await database.run(lambda connection: (fact(connection, "a"), fact(connection, "b"))) == ("1", None)
    await database.close()


async def test_a_lock_held_by_another_program_is_unavailable(tmp_path: Path) -> None:
    """Not an error of ours, and the next try works."""
    database = await Database.open("sqlite:///test.db", tmp_path)
    await database.run(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 20"))
    intruder = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as refused:
        await database.run(lambda connection: keep_fact(connection, "a", "1"))
    assert "locked" in refused.value.detail
    intruder.execute("ROLLBACK")
    intruder.close()
    assert await database.run(lambda connection: keep_fact(connection, "a", "1")) == "1"
    await database.close()


async def test_a_database_that_was_restarted_is_found_again(empty_postgres: str, tmp_path: Path) -> None:
    """A connection that the server has cut is replaced before work is given to it."""
    database = await Database.open(empty_postgres, tmp_path)
    engine = engine_for(empty_postgres, tmp_path)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    engine.dispose()
    assert await database.run(lambda connection: keep_fact(connection, "a", "1")) == "1"
    await database.close()


async def test_a_closed_database_is_unavailable(tmp_path: Path) -> None:
    """Closing twice is once."""
    database = await Database.open("sqlite:///test.db", tmp_path)
    await database.close()
    await database.close()
    with pytest.raises(Unavailable):
        await database.run(lambda connection: None)
    assert "closed" in await database.ping()


async def test_a_server_has_the_database_to_itself(empty_url: str, tmp_path: Path) -> None:
    """A second server is refused with what to do, before it migrates anything; who only looks is not; when the first is closed there is
    room for another."""
    first = await Database.open(empty_url, tmp_path, sole=True)
    with pytest.raises(DatabaseTaken, match=r"another Gatehouse server runs on this database; .*storage\.url"):
        await Database.open(empty_url, tmp_path, sole=True)
    onlooker = await Database.open(empty_url, tmp_path)
    assert await onlooker.ping() == ""
    await onlooker.close()
    await first.close()
    second = await Database.open(empty_url, tmp_path, sole=True)
    assert await second.run(lambda connection: keep_fact(connection, "a", "1")) == "1"
    await second.close()


async def test_a_server_whose_database_was_restarted_takes_it_again(empty_postgres: str, tmp_path: Path) -> None:
    """All its sessions were cut, the lock's too: with the next write it has the lock again. When another server was quicker nothing is
    written until that one is gone."""
    database = await Database.open(empty_postgres, tmp_path, sole=True)
    other = engine_for(empty_postgres, tmp_path)

    def cut() -> None:
        with other.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))

    await asyncio.to_thread(cut)
    assert await database.run(lambda connection: keep_fact(connection, "a", "1")) == "1"
    with pytest.raises(DatabaseTaken):
        await Database.open(empty_postgres, tmp_path, sole=True)
    await asyncio.to_thread(cut)
    rival = await Database.open(empty_postgres, tmp_path, sole=True)
    with pytest.raises(Unavailable) as refused:
        await database.run(lambda connection: keep_fact(connection, "b", "1"))
    assert "another Gatehouse server" in refused.value.detail
    await rival.close()
    assert await database.run(lambda connection: keep_fact(connection, "b", "1")) == "1"
    await database.close()
    other.dispose()
