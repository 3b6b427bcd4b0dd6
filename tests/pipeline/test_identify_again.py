"""A key that is said again on its connection is known without its digest, for as long as nothing about it has changed."""

import pytest
from msgspec.structs import replace

from gatehouse.core.errors import GatehouseError, Unauthenticated
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.keys import KeyChecker, mint, mint_secret
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.key_cache import KeyCache
from gatehouse.pipeline.stages.identify import BAD_KEY, Identify
from gatehouse.testing.fakes import NOON, FakeClock, FakeKeys, FakeRng, FakeSpawn
from gatehouse.wire.http.head import HeadReader, KnownHead, RequestHead
from gatehouse.wire.http.limits import HttpLimits


class Counted(KeyChecker):
    """Counts digests."""

    digests = 0

    def digest(self, key: bytes) -> bytes:
        """See `KeyChecker`."""
        self.digests += 1
        return super().digest(key)


class Line:
    """One kept connection that says heads, known again by their bytes as the data plane knows them, and Identify behind it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.checker = Counted(bytes(range(32)))
        self.keys = FakeKeys()
        self.cache = KeyCache(self.keys.find, self.clock, FakeSpawn())
        self.stage = Identify(self.cache, self.checker, self.clock)
        self.reader = HeadReader(HttpLimits())
        self.known: KnownHead | None = None

    def key(self, seed: int, **fields: float) -> str:
        """A new key that the store knows."""
        key_id, key = mint(FakeRng(seed))
        principal = Principal(key_id, f"key {seed}", frozenset({Role.DEVELOPER}), expires_at=fields.get("expires_at"))
        self.keep(KeyRecord(self.checker.digest(key.encode()), principal, version=1))
        return key

    def keep(self, record: KeyRecord) -> None:
        """The store has this now, and says so."""
        self.keys.records[record.principal.key_id] = record
        self.cache.forget(record.principal.key_id)

    def record(self, key: str) -> KeyRecord:
        return self.keys.records[key.split("_")[2]]

    def hear(self, key: str, length: int) -> RequestHead:
        raw = f"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n".encode()
        if self.known is not None and (head := self.known.again(raw)) is not None:
            return head
        head = self.reader.read(raw)
        self.known = KnownHead.of(raw, head)
        return head

    async def say(self, key: str, length: int = 2) -> tuple[Principal | None, int]:
        """One request; who it is from, and how many digests that took. Raises what Identify raises."""
        heard = self.hear(key, length)
        head = Head(heard.method, heard.path, heard.headers, heard.credentials, "10.0.0.1", heard.seen)
        x = Exchange("r", head, None, None)  # type: ignore[arg-type]
        x.started_at = self.clock.now()
        before = self.checker.digests
        if self.stage.clear([x]) and not self.stage.at_once(x):
            await self.stage.admit(x)
        return x.principal, self.checker.digests - before

    async def refused(self, key: str) -> None:
        """The same as any key that is no good."""
        with pytest.raises(GatehouseError) as caught:
            await self.say(key)
        assert isinstance(caught.value, Unauthenticated)
        assert (caught.value.message, caught.value.code) == (BAD_KEY, "invalid_api_key")


@pytest.fixture
def line() -> Line:
    """A kept connection."""
    return Line()


async def test_a_key_that_is_said_again_costs_no_digest(line: Line) -> None:
    """The first time it is looked up, the second checked, and from then on known; whatever the length of the body is."""
    key = line.key(1)
    principal = line.record(key).principal
    assert (await line.say(key))[0] is principal
    assert await line.say(key) == (principal, 1)
    for length in (2, 2, 345, 2):
        assert await line.say(key, length) == (principal, 0)


async def test_a_revoked_key(line: Line) -> None:
    """Refused with the next request after the news, on the very connection that knew it."""
    key = line.key(1)
    for _ in range(3):
        await line.say(key)
    line.keep(replace(line.record(key), revoked=True, version=2))
    await line.refused(key)
    await line.refused(key)


async def test_a_revoked_key_of_which_nobody_was_told(line: Line) -> None:
    """The record at hand goes stale, and with it what the connection knew."""
    key = line.key(1)
    for _ in range(3):
        await line.say(key)
    key_id = line.record(key).principal.key_id
    line.keys.records[key_id] = replace(line.record(key), revoked=True, version=2)
    line.clock.advance(5.0)
    await line.refused(key)


async def test_a_key_that_expires(line: Line) -> None:
    """At its moment, and not a second later; no news is needed."""
    key = line.key(1, expires_at=NOON + 1.5)
    for _ in range(3):
        await line.say(key)
    line.clock.advance(1.25)
    assert (await line.say(key))[1] == 0
    line.clock.advance(0.25)
    await line.refused(key)


async def test_a_key_that_was_deleted(line: Line) -> None:
    """A key that the store does not know any more is no key."""
    key = line.key(1)
    for _ in range(3):
        await line.say(key)
    record = line.record(key)
    del line.keys.records[record.principal.key_id]
    line.cache.forget(record.principal.key_id)
    await line.refused(key)


async def test_a_rotated_key(line: Line) -> None:
    """The secret before is good until its time, looked at each time; then it is refused, and the new one goes on."""
    old = line.key(1)
    for _ in range(3):
        await line.say(old)
    record = line.record(old)
    new = mint_secret(record.principal.key_id, FakeRng(9))
    digest = line.checker.digest(new.encode())
    line.keep(replace(record, digest=digest, previous=record.digest, previous_until=NOON + 1.0, version=2))
    for _ in range(3):
        assert (await line.say(old))[1] >= 1
    for _ in range(3):
        assert (await line.say(new))[1] >= 1
    line.clock.advance(1.0)
    await line.refused(old)
    await line.say(new)
    await line.say(new)
    assert (await line.say(new))[1] == 0
    await line.refused(old)


async def test_what_a_key_may_changes_at_once(line: Line) -> None:
    """A key whose limits or roles were changed is the new principal with the next request."""
    key = line.key(1)
    for _ in range(3):
        await line.say(key)
    record = line.record(key)
    changed = replace(record, principal=replace(record.principal, name="renamed"), version=2)
    line.keep(changed)
    await line.say(key)
    principal, _ = await line.say(key)
    assert principal is changed.principal


async def test_another_key_on_the_same_connection(line: Line) -> None:
    """Each request is from whom its own key says, in any order; a wrong one is refused between two good ones."""
    one, two = line.key(1), line.key(2)
    forged = mint_secret(line.record(one).principal.key_id, FakeRng(7))
    for _ in range(2):
        await line.say(one)
        await line.say(two)
    for key in (one, one, two, one, two, two):
        assert (await line.say(key))[0] is line.record(key).principal
    await line.refused(forged)
    assert (await line.say(one))[0] is line.record(one).principal
    await line.refused(forged)
    await line.refused(one[:-1] + ("a" if one[-1] != "a" else "b"))


async def test_what_is_known_is_the_checkers(line: Line) -> None:
    """A stage that was made anew, with other secrets, believes nothing that another found out."""
    key = line.key(1)
    for _ in range(3):
        await line.say(key)
    line.checker = Counted(bytes(range(1, 33)))
    line.stage = Identify(line.cache, line.checker, line.clock)
    await line.refused(key)
