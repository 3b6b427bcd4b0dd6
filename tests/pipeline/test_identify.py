"""Identify: from the keys a request offered to who calls, with every way it can go wrong."""

import pytest

from gatehouse.core.errors import GatehouseError, InvalidRequest, Unauthenticated, Unavailable
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.keys import KeyChecker, mint, mint_secret
from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.key_cache import KeyCache
from gatehouse.pipeline.stages.identify import BAD_KEY, Identify, identify
from gatehouse.testing.fakes import NOON, FakeClock, FakeKeys, FakeRng, FakeSpawn

BOOTSTRAP = "an-operator's-bootstrap-key"
PLAIN = KeyChecker(bytes(range(32)))
CHECKER = KeyChecker(bytes(range(32)), PLAIN.bootstrap_digest(BOOTSTRAP))


def made(seed: int, *, revoked: bool = False, expires_at: float | None = None) -> tuple[bytes, KeyRecord]:
    key_id, key = mint(FakeRng(seed))
    principal = Principal(key_id, f"key {seed}", frozenset({Role.DEVELOPER}), expires_at=expires_at)
    return key.encode(), KeyRecord(CHECKER.digest(key.encode()), principal, revoked=revoked)


GOOD, GOOD_RECORD = made(1)
OTHER, OTHER_RECORD = made(2)
REVOKED, REVOKED_RECORD = made(3, revoked=True)
EXPIRED, EXPIRED_RECORD = made(4, expires_at=NOON)
UNKNOWN, _ = made(5)
FORGED = mint_secret(GOOD_RECORD.principal.key_id, FakeRng(6)).encode()


def directory() -> FakeKeys:
    return FakeKeys((GOOD_RECORD, OTHER_RECORD, REVOKED_RECORD, EXPIRED_RECORD))


@pytest.fixture
def exchange() -> Exchange:
    """A call of which nothing is known yet."""
    return Exchange("r", Head("POST", "/v1/chat/completions", {}), None, None)  # type: ignore[arg-type]


async def test_a_good_key_is_its_principal() -> None:
    """Whichever header it came in: the head offers it once."""
    assert await identify((GOOD,), directory(), CHECKER, NOON) == GOOD_RECORD.principal


async def test_the_bootstrap_key_needs_no_directory() -> None:
    """It works while no key can be looked up, and only where one was configured."""
    keys = directory()
    keys.gone = True
    principal = await identify((BOOTSTRAP.encode(),), keys, CHECKER, NOON)
    assert principal.roles == {Role.ADMIN, Role.DEVELOPER}
    with pytest.raises(Unauthenticated):
        await identify((BOOTSTRAP.encode(),), keys, PLAIN, NOON)


NO_GOOD = {
    "unknown": UNKNOWN,
    "wrong secret": FORGED,
    "revoked": REVOKED,
    "expired": EXPIRED,
    "mistyped": GOOD[:-1] + b"!",
    "cut": GOOD[:-1],
    "somebody else's form": b"sk-proj-0123456789abcdef0123456789abcdef",
    "almost the bootstrap key": BOOTSTRAP.encode()[:-1],
    "empty": b"",
    "quote": b"' OR '1'='1",
    "not text": b"\xff\xfe\x00",
    "huge": b"x" * 100_000,
}


@pytest.mark.parametrize("key", NO_GOOD.values(), ids=NO_GOOD.keys())
async def test_every_key_that_is_no_good_gets_the_same_answer(key: bytes) -> None:
    """One message, one code: nobody learns whether a key exists, was revoked or has expired."""
    with pytest.raises(Unauthenticated) as refused:
        await identify((key,), directory(), CHECKER, NOON)
    error = refused.value
    assert (error.message, error.code, error.detail, error.retry_after, error.param) == (BAD_KEY, "invalid_api_key", "", None, None)


async def test_no_key_is_told_how_to_send_one() -> None:
    """401, and never an anonymous principal."""
    with pytest.raises(Unauthenticated, match="No API key was sent"):
        await identify((), directory(), CHECKER, NOON)


async def test_two_different_keys_are_refused_whatever_they_are() -> None:
    """400, also when one of them is good: which one was meant is not for us to guess."""
    for pair in ((GOOD, OTHER), (GOOD, b"nonsense"), (BOOTSTRAP.encode(), GOOD)):
        with pytest.raises(InvalidRequest, match="Two different API keys"):
            await identify(pair, directory(), CHECKER, NOON)


async def test_a_directory_that_cannot_answer_is_503_never_401() -> None:
    """Clients must not throw away a good key because our store is down; and nobody gets in unchecked."""
    keys = directory()
    keys.gone = True
    for key in (GOOD, REVOKED, UNKNOWN):
        with pytest.raises(Unavailable):
            await identify((key,), keys, CHECKER, NOON)


async def test_a_malformed_key_costs_no_look_up() -> None:
    """A wrong checksum is refused while the directory is away."""
    keys = directory()
    keys.gone = True
    for name in ("mistyped", "cut", "somebody else's form", "quote", "huge"):
        with pytest.raises(Unauthenticated):
            await identify((NO_GOOD[name],), keys, CHECKER, NOON)


async def test_the_stage_sets_the_principal_and_nothing_when_it_refuses(exchange: Exchange) -> None:
    """x.principal stays None on every refusal: no later stage can mistake an empty identity for one."""
    clock = FakeClock()
    stage = Identify(directory(), CHECKER, clock)
    exchange.head = Head("POST", "/v1/chat/completions", {}, (GOOD,))
    await stage.admit(exchange)
    assert exchange.principal == GOOD_RECORD.principal
    stage.settle(exchange)
    for credentials in ((), (UNKNOWN,), (GOOD, OTHER)):
        exchange.principal = None
        exchange.head = Head("POST", "/v1/chat/completions", {}, credentials)
        with pytest.raises(GatehouseError):
            await stage.admit(exchange)
        assert exchange.principal is None


async def test_a_key_expires_by_the_clock(exchange: Exchange) -> None:
    """The same record is good before its moment and no good at it."""
    key, record = made(7, expires_at=NOON + 10)
    clock = FakeClock()
    stage = Identify(FakeKeys((record,)), CHECKER, clock)
    exchange.head = Head("POST", "/", {}, (key,))
    await stage.admit(exchange)
    clock.advance(10)
    with pytest.raises(Unauthenticated):
        await stage.admit(exchange)


async def test_scenario_38_a_revoked_key_is_refused_at_once_when_told_and_within_five_seconds_when_not(exchange: Exchange) -> None:
    """With the message lost, a busy key is dead after `fresh` seconds all the same; its running call is ended by the message."""
    store = directory()
    clock, spawn = FakeClock(), FakeSpawn()
    cache = KeyCache(store.find, clock, spawn)
    stage = Identify(cache, CHECKER, clock)
    exchange.head = Head("POST", "/", {}, (GOOD,))
    await stage.admit(exchange)
    key_id = GOOD_RECORD.principal.key_id
    store.records[key_id] = KeyRecord(GOOD_RECORD.digest, GOOD_RECORD.principal, revoked=True, version=2)
    await stage.admit(exchange)
    await clock.run_for(4.9)
    with pytest.raises(Unauthenticated):
        await stage.admit(exchange)
    store.records[key_id] = GOOD_RECORD
    cache.forget(key_id)
    await stage.admit(exchange)
    store.records[key_id] = KeyRecord(GOOD_RECORD.digest, GOOD_RECORD.principal, revoked=True, version=2)
    cache.forget(key_id)
    with pytest.raises(Unauthenticated):
        await stage.admit(exchange)
    exchange.end(Outcome.REVOKED)
    assert exchange.outcome is Outcome.REVOKED
    await spawn.close()
