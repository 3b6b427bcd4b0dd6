"""A store of keys in memory, and the contract suite of the port: subclass `KeyStoreContract` and give it a `store` fixture."""

from collections.abc import Sequence

import msgspec

from gatehouse.core.audit import AuditEvent
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.keys import KeyStore, Position, StoredKey
from gatehouse.core.limits import Budget, Limits
from gatehouse.core.money import Money


class FakeAuditSink:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Keep them."""
        self.events.extend(events)


class FakeKeyStore:
    """Implements `KeyStore` in memory; `sink` gets the events of what was committed. `races` commits are lost to somebody else first."""

    def __init__(self, sink: FakeAuditSink | None = None) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.sink = sink or FakeAuditSink()
        self.races = 0

    async def find(self, key_id: str) -> StoredKey | None:
        """See `KeyStore`."""
        return self.keys.get(key_id)

    async def get(self, tenant: str, key_id: str) -> StoredKey | None:
        """See `KeyStore`."""
        stored = self.keys.get(key_id)
        return stored if stored is not None and stored.record.principal.tenant == tenant else None

    async def page(self, tenant: str, after: Position | None, limit: int) -> tuple[StoredKey, ...]:
        """See `KeyStore`."""
        mine = [stored for stored in self.keys.values() if stored.record.principal.tenant == tenant]
        mine.sort(key=lambda stored: (stored.created_at, stored.id), reverse=True)
        return tuple(stored for stored in mine if after is None or (stored.created_at, stored.id) < after)[:limit]

    async def commit(self, key: StoredKey, events: Sequence[AuditEvent]) -> bool:
        """See `KeyStore`."""
        if self.races:
            self.races -= 1
            return False
        held = self.keys.get(key.id)
        if key.record.version == 1:
            if held is not None:
                return False
        elif held is None or held.record.version != key.record.version - 1 or held.record.principal.tenant != key.record.principal.tenant:
            return False
        self.keys[key.id] = key
        await self.sink.record(events)
        return True


def stored_key(key_id: str, tenant: str = "default", created_at: float = 1_767_268_800.0) -> StoredKey:
    """A key with everything set."""
    principal = Principal(
        key_id,
        f"key {key_id}",
        frozenset({Role.DEVELOPER, Role.VIEWER}),
        tenant=tenant,
        team="red",
        models=frozenset({"assistant", "tiny*"}),
        limits=Limits(60, 10_000, 4, Budget(Money(12_345_678_901), "day")),
        expires_at=created_at + 1000.25,
    )
    record = KeyRecord(b"d" * 32, principal, previous=b"p" * 32, previous_until=created_at + 5.5)
    return StoredKey(record, f"gh_live_{key_id}_…abcd", created_at, "bootstrap")


def next_version(stored: StoredKey) -> StoredKey:
    """The same key, one version on and revoked."""
    record = msgspec.structs.replace(stored.record, version=stored.record.version + 1, revoked=True)
    return msgspec.structs.replace(stored, record=record, revoked_at=stored.created_at + 2.5)


class KeyStoreContract:
    """What every `KeyStore` promises. The `store` fixture gives an empty one."""

    async def test_a_key_comes_back_as_it_was_stored(self, store: KeyStore) -> None:
        """Every field survives, with and without optional values."""
        full = stored_key("aaaaaaaa")
        principal = Principal("bbbbbbbb", "plain", frozenset({Role.ADMIN}), models=frozenset())
        plain = StoredKey(KeyRecord(b"e" * 32, principal), "hint", 1.5, "system")
        assert await store.commit(full, ())
        assert await store.commit(plain, ())
        assert await store.get("default", "aaaaaaaa") == full
        assert await store.find("bbbbbbbb") == plain

    async def test_an_unknown_key_is_none(self, store: KeyStore) -> None:
        """Absence is not an error."""
        assert await store.find("aaaaaaaa") is None
        assert await store.get("default", "aaaaaaaa") is None

    async def test_a_tenant_sees_only_its_own_keys(self, store: KeyStore) -> None:
        """get and page keep to the tenant; find, which identifies callers, does not."""
        assert await store.commit(stored_key("aaaaaaaa", "acme"), ())
        assert await store.get("default", "aaaaaaaa") is None
        assert await store.page("default", None, 10) == ()
        assert await store.find("aaaaaaaa") is not None

    async def test_the_same_id_is_never_inserted_twice(self, store: KeyStore) -> None:
        """The second insert changes nothing and says so."""
        assert await store.commit(stored_key("aaaaaaaa"), ())
        assert not await store.commit(stored_key("aaaaaaaa", "acme"), ())
        stored = await store.find("aaaaaaaa")
        assert stored is not None
        assert stored.record.principal.tenant == "default"

    async def test_a_version_replaces_the_one_before_it_only(self, store: KeyStore) -> None:
        """Of two writers that read the same version one loses, and nothing of its change is kept."""
        first = stored_key("aaaaaaaa")
        second = next_version(first)
        assert not await store.commit(second, ())
        assert await store.commit(first, ())
        assert await store.commit(second, ())
        assert not await store.commit(second, ())
        assert await store.find("aaaaaaaa") == second

    async def test_a_key_never_changes_its_tenant(self, store: KeyStore) -> None:
        """A replacement under another tenant's name finds nothing to replace."""
        first = stored_key("aaaaaaaa")
        assert await store.commit(first, ())
        principal = msgspec.structs.replace(first.record.principal, tenant="acme")
        stolen = msgspec.structs.replace(first, record=msgspec.structs.replace(first.record, principal=principal, version=2))
        assert not await store.commit(stolen, ())
        assert await store.find("aaaaaaaa") == first

    async def test_pages_are_newest_first_and_whole(self, store: KeyStore) -> None:
        """Walking page by page meets every key once, also those made in the same moment."""
        made = [stored_key(f"{letter}aaaaaaa", created_at=100.0 + (number // 2)) for number, letter in enumerate("edcba")]
        for stored in made:
            assert await store.commit(stored, ())
        seen: list[StoredKey] = []
        after: Position | None = None
        while page := await store.page("default", after, 2):
            seen.extend(page)
            after = (page[-1].created_at, page[-1].id)
        assert [stored.id[0] for stored in seen] == ["a", "c", "b", "e", "d"]
