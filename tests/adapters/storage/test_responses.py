"""Kept responses in SQL: the port's contract on both databases, nothing readable at rest, and expiry that deletes."""

from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from gatehouse.adapters.storage.responses import MOST_AT_ONCE, RESPONSES, SqlResponseStore
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.vault.sealing import Sealer
from gatehouse.core.errors import Unavailable
from gatehouse.core.responses import Owner
from gatehouse.testing.fakes import FakeClock
from gatehouse.testing.response_store import ANN, FakeResponseStore, ResponseStoreContract, kept_response


def store_on(database: Database, clock: FakeClock, key: bytes = b"k" * 32) -> SqlResponseStore:
    return SqlResponseStore(database.run, database.read, Sealer(key), clock)


class TestSqlResponseStore(ResponseStoreContract):
    """SQLite and PostgreSQL keep the contract."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Noon."""
        return FakeClock()

    @pytest.fixture
    def store(self, database: Database, clock: FakeClock) -> SqlResponseStore:
        """An empty store."""
        return store_on(database, clock)


class TestFakeResponseStore(ResponseStoreContract):
    """The fake that other tests rely on keeps it too."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Noon."""
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> FakeResponseStore:
        """An empty store."""
        return FakeResponseStore(clock)


async def test_nothing_that_was_said_is_readable_at_rest(database: Database, tmp_path: Path) -> None:
    """What lies in the row, and with SQLite on the disk, does not hold what was said."""
    await store_on(database, FakeClock()).keep(kept_response(content=b"the launch is on Friday"))
    row = await database.run(lambda connection: connection.execute(select(RESPONSES)).one())
    for raw in (bytes(row.content), repr(row).encode(), *(path.read_bytes() for path in tmp_path.iterdir())):
        assert b"Friday" not in raw


@pytest.mark.parametrize(
    "change", [{"owner": "key:eve00001"}, {"tenant": "south"}, {"id": "resp_2"}, {"expires_at": 2**60}, {"content": b"\x01" * 60}]
)
async def test_a_row_that_was_altered_is_not_read(database: Database, change: dict[str, object]) -> None:
    """Whoever can write to the database cannot give a response to somebody else, make it live longer, or change it."""
    store = store_on(database, FakeClock())
    await store.keep(kept_response())
    await database.run(lambda connection: connection.execute(update(RESPONSES).values(**change)))
    owner = Owner(str(change.get("tenant", ANN.tenant)), str(change.get("owner", ANN.scope)))
    with pytest.raises(Unavailable) as caught:
        await store.find(owner, str(change.get("id", "resp_1")))
    assert caught.value.code == "response_damaged"


async def test_another_installations_key_opens_nothing(database: Database) -> None:
    """The key derives from the root: without it the rows are noise."""
    await store_on(database, FakeClock()).keep(kept_response())
    with pytest.raises(Unavailable):
        await store_on(database, FakeClock(), b"x" * 32).find(ANN, "resp_1")


async def test_sweeping_deletes_what_has_expired_and_nothing_else(database: Database) -> None:
    """In pieces, so that nobody waits long behind it."""
    clock = FakeClock()
    store = store_on(database, clock)
    await store.keep(kept_response("resp_living", expires_at=clock.now() + 10.0))
    assert await store.sweep() == 0
    row = {"tenant": "t", "owner": "o", "created_at": 0, "expires_at": 1, "content": b"x"}
    rows = [{"id": f"resp_{number}", **row} for number in range(MOST_AT_ONCE + 1)]
    await database.run(lambda connection: connection.execute(RESPONSES.insert(), rows))
    assert [await store.sweep(), await store.sweep(), await store.sweep()] == [MOST_AT_ONCE, 1, 0]
    assert await store.find(ANN, "resp_living") is not None
    clock.advance(10.0)
    assert await store.sweep() == 1
    assert await database.read(lambda connection: connection.scalar(select(func.count()).select_from(RESPONSES))) == 0


async def test_hostile_words_are_only_words(database: Database) -> None:
    """Quotes, wildcards and statements in ids and owners are values, never SQL."""
    store = store_on(database, FakeClock())
    await store.keep(kept_response())
    for word in ("' OR '1'='1", "resp_1' --", "%", "'; DROP TABLE responses; --"):
        assert await store.find(ANN, word) is None
        assert await store.find(Owner(word, word), "resp_1") is None
        assert not await store.remove(Owner(word, word), word)
    assert await database.read(lambda connection: connection.execute(text("SELECT count(*) FROM responses")).scalar()) == 1
