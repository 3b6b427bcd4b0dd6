"""A store of responses in memory, and the contract suite of the port: subclass `ResponseStoreContract` and give it its fixtures.

class TestMyStore(ResponseStoreContract):
    @pytest.fixture
    def clock(self) -> FakeClock: ...
    @pytest.fixture
    def store(self, clock: FakeClock) -> ResponseStore: ...
"""

import asyncio
from typing import Any, Final

import msgspec

from gatehouse.core.errors import Unavailable
from gatehouse.core.ports import Clock
from gatehouse.core.responses import Kept, Owner, ResponseStore
from gatehouse.testing.fakes import NOON, FakeClock

ANN: Final = Owner("north", "key:ann00001")


def kept_response(name: str = "resp_1", owner: Owner = ANN, **changes: Any) -> Kept:
    """A response that was begun at noon and is kept for an hour; `changes` replace fields."""
    return msgspec.structs.replace(Kept(name, owner, NOON, NOON + 3600.0, b"what was said"), **changes)


class FakeResponseStore:
    """Implements `ResponseStore` in memory. While `broken`, nobody can tell anything."""

    def __init__(self, clock: Clock) -> None:
        self.kept: dict[str, Kept] = {}
        self.broken = False
        self._clock = clock

    async def keep(self, kept: Kept) -> None:
        """See `ResponseStore`."""
        self._reach()
        self.kept.setdefault(kept.id, kept)

    async def find(self, owner: Owner, response_id: str) -> Kept | None:
        """See `ResponseStore`."""
        self._reach()
        kept = self.kept.get(response_id)
        return kept if kept is not None and kept.owner == owner and kept.expires_at > self._clock.now() else None

    async def remove(self, owner: Owner, response_id: str) -> bool:
        """See `ResponseStore`."""
        if await self.find(owner, response_id) is None:
            return False
        del self.kept[response_id]
        return True

    def _reach(self) -> None:
        if self.broken:
            raise Unavailable("The database cannot be used at the moment.", code="storage_unavailable")


class ResponseStoreContract:
    """What every store of responses keeps to."""

    async def test_what_was_kept_is_found(self, store: ResponseStore) -> None:
        """Field for field, bytes of every value included."""
        kept = kept_response(content=bytes(range(256)) * 3)
        await store.keep(kept)
        assert await store.find(ANN, "resp_1") == kept

    async def test_what_was_not_kept_is_not_there(self, store: ResponseStore) -> None:
        """Absence is an answer, not an error."""
        assert await store.find(ANN, "resp_1") is None
        assert not await store.remove(ANN, "resp_1")

    async def test_nobody_but_its_owner_has_it(self, store: ResponseStore) -> None:
        """Another key, another team and the same key's id in another tenant neither find nor delete it."""
        await store.keep(kept_response())
        for stranger in (Owner("north", "key:bob00001"), Owner("north", "team:ann00001"), Owner("south", "key:ann00001"), Owner("", "")):
            assert await store.find(stranger, "resp_1") is None
            assert not await store.remove(stranger, "resp_1")
        assert await store.find(ANN, "resp_1") is not None

    async def test_deleted_is_gone(self, store: ResponseStore) -> None:
        """Only what was named, and only once."""
        await store.keep(kept_response())
        await store.keep(kept_response("resp_2"))
        assert await store.remove(ANN, "resp_1")
        assert not await store.remove(ANN, "resp_1")
        assert await store.find(ANN, "resp_1") is None
        assert await store.find(ANN, "resp_2") is not None

    async def test_it_expires_to_the_moment(self, store: ResponseStore, clock: FakeClock) -> None:
        """Whether or not anybody has swept by then: it is neither found nor there to be deleted."""
        await store.keep(kept_response())
        clock.advance(3599.0)
        assert await store.find(ANN, "resp_1") is not None
        clock.advance(1.0)
        assert await store.find(ANN, "resp_1") is None
        assert not await store.remove(ANN, "resp_1")

    async def test_an_id_is_given_once(self, store: ResponseStore) -> None:
        """Whoever comes second, its owner or another, changes nothing."""
        await store.keep(kept_response())
        await store.keep(kept_response(content=b"other"))
        await store.keep(kept_response(owner=Owner("south", "key:eve00001"), content=b"other"))
        assert await store.find(ANN, "resp_1") == kept_response()
        assert await store.find(Owner("south", "key:eve00001"), "resp_1") is None

    async def test_many_at_once(self, store: ResponseStore) -> None:
        """Nothing of what is kept at the same time gets lost or mixed up."""
        many = [kept_response(f"resp_{number}", content=str(number).encode()) for number in range(20)]
        await asyncio.gather(*(store.keep(each) for each in many))
        assert await asyncio.gather(*(store.find(ANN, each.id) for each in many)) == many
