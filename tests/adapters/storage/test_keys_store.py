"""The SQL store of keys: the port's contract, one transaction with the audit log, and nothing but digests on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from gatehouse.adapters.storage._audit_tables import AUDIT_EVENTS
from gatehouse.adapters.storage.audit_log import AuditAppender
from gatehouse.adapters.storage.keys import KEYS, SqlKeyStore
from gatehouse.adapters.storage.sql import Database
from gatehouse.core.audit import AuditEvent
from gatehouse.core.keys import KeyChecker, mint
from gatehouse.testing.fakes import FakeRng
from gatehouse.testing.key_store import FakeKeyStore, KeyStoreContract, next_version, stored_key

EVENT = AuditEvent(1.0, "admin", "key.create", "bootstrap", "default", "aaaaaaaa", "ok")


def store_on(database: Database) -> SqlKeyStore:
    return SqlKeyStore(database.run, AuditAppender(b"s" * 32).append)


class TestSqlKeyStore(KeyStoreContract):
    """SQLite and PostgreSQL keep the contract."""

    @pytest.fixture
    def store(self, database: Database) -> SqlKeyStore:
        """An empty store."""
        return store_on(database)


class TestFakeKeyStore(KeyStoreContract):
    """The fake that other tests rely on keeps it too."""

    @pytest.fixture
    def store(self) -> FakeKeyStore:
        """An empty store."""
        return FakeKeyStore()


async def events_in(database: Database) -> Sequence[str]:
    return await database.run(lambda connection: connection.scalars(select(AUDIT_EVENTS.c.action)).all())


async def test_a_change_and_its_event_are_one_transaction(database: Database) -> None:
    """A change that is not made leaves no event; an event that cannot be written takes the change back."""
    store = store_on(database)
    assert await store.commit(stored_key("aaaaaaaa"), (EVENT,))
    assert not await store.commit(stored_key("aaaaaaaa"), (EVENT,))
    assert await events_in(database) == ["key.create"]

    def fail(connection: Connection, events: Sequence[AuditEvent]) -> None:
        raise RuntimeError("the log refuses")

    with pytest.raises(RuntimeError, match="the log refuses"):
        await SqlKeyStore(database.run, fail).commit(next_version(stored_key("aaaaaaaa")), (EVENT,))
    assert await store.find("aaaaaaaa") == stored_key("aaaaaaaa")
    assert await events_in(database) == ["key.create"]


async def test_the_database_never_holds_a_key(database: Database, tmp_path: Path) -> None:
    """What lies in the table, and with SQLite on the disk, after a key was stored contains neither the key nor its secret part."""
    from gatehouse.core.identity import KeyRecord, Principal, Role
    from gatehouse.core.keys import StoredKey, hint

    key_id, key = mint(FakeRng(5))
    record = KeyRecord(KeyChecker(b"p" * 32).digest(key.encode()), Principal(key_id, "n", frozenset({Role.DEVELOPER})))
    assert await store_on(database).commit(StoredKey(record, hint(key), 1.0, "bootstrap"), ())
    row = await database.run(lambda connection: connection.execute(select(KEYS)).one())
    for raw in (repr(row).encode(), *(path.read_bytes() for path in tmp_path.iterdir())):
        assert key.encode() not in raw
        assert key[17:40].encode() not in raw


async def test_hostile_words_are_only_words(database: Database) -> None:
    """Quotes, wildcards and statements in ids, tenants, names and cursors are values, never SQL."""
    store = store_on(database)
    assert await store.commit(stored_key("aaaaaaaa"), ())
    for word in ("' OR '1'='1", "aaaaaaaa' --", "%", "_" * 8, "'; DROP TABLE api_keys; --"):
        assert await store.find(word) is None
        assert await store.get(word, "aaaaaaaa") is None
        assert await store.page(word, None, 10) == ()
        assert await store.page("default", (0.0, word), 10) == ()
    assert await store.commit(stored_key("bbbbbbbb", tenant="x'); DELETE FROM api_keys; --"), ())
    assert await database.run(lambda connection: connection.execute(text("SELECT count(*) FROM api_keys")).scalar()) == 2


async def test_times_and_money_are_whole_numbers_in_the_table(database: Database) -> None:
    """Microseconds and 10^-10 USD: no database rounds them."""
    assert await store_on(database).commit(stored_key("aaaaaaaa"), ())
    row = await database.run(lambda connection: connection.execute(select(KEYS)).one())
    assert (row.budget, row.expires_at, row.previous_until) == (12_345_678_901, 1_767_269_800_250_000, 1_767_268_805_500_000)
