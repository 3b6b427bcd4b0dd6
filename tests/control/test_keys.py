"""The verbs on keys: what is checked, what is written down, and what is given out exactly once."""

import math

import msgspec
import pytest

from gatehouse.control.keys import KeyAdministration, KeySpec, Minted, system_principal
from gatehouse.core.errors import Forbidden, GatehouseError, InvalidRequest, NotFound, Unavailable
from gatehouse.core.identity import Principal, Role
from gatehouse.core.keys import KeyChecker, parse
from gatehouse.core.limits import Budget, Limits
from gatehouse.core.money import Money
from gatehouse.testing.fakes import NOON, FakeClock, FakeRng
from gatehouse.testing.key_store import FakeAuditSink, FakeKeyStore

ADMIN = Principal("adminkey", "Ada", frozenset({Role.ADMIN}))
VIEWER = Principal("viewer01", "Vera", frozenset({Role.VIEWER}))
DEVELOPER = Principal("dev00001", "Dan", frozenset({Role.DEVELOPER}))
STRANGER = Principal("stranger", "Sam", frozenset({Role.ADMIN}), tenant="acme")


class House:
    """The verbs over fakes, and what came of them."""

    def __init__(self) -> None:
        self.sink = FakeAuditSink()
        self.store = FakeKeyStore(self.sink)
        self.checker = KeyChecker(bytes(range(32)))
        self.clock = FakeClock()
        self.told: list[tuple[str, bool]] = []
        self.keys = KeyAdministration(self.store, self.checker, self.sink, self.tell, self.clock, FakeRng(1))

    def tell(self, key_id: str, *, revoked: bool) -> None:
        self.told.append((key_id, revoked))

    async def good(self, key: str) -> bool:
        """Whether the data plane would let this key in now."""
        raw = key.encode()
        stored = await self.store.find(parse(raw) or "")
        return self.checker.accepts(stored.record if stored else None, self.checker.digest(raw), self.clock.now())

    @property
    def said(self) -> list[tuple[str, str, str, str]]:
        return [(event.action, event.actor, event.subject, event.outcome) for event in self.sink.events]


@pytest.fixture
def house() -> House:
    """A house without keys."""
    return House()


async def test_a_created_key_works_and_is_stored_as_a_digest_only(house: House) -> None:
    """Its text is in the answer; the store has an HMAC, a hint and who made it."""
    made = await house.keys.create(ADMIN, KeySpec(name="laptop"))
    assert await house.good(made.key)
    assert parse(made.key.encode()) == made.stored.id
    assert made.key not in repr(house.store.keys)
    assert (made.stored.created_by, made.stored.created_at) == ("adminkey", NOON)
    assert house.told == [(made.stored.id, False)]


async def test_a_key_is_by_default_a_developers_without_bounds(house: House) -> None:
    """Role developer, the maker's tenant, every model, no limit, no expiry."""
    principal = (await house.keys.create(STRANGER, KeySpec(name="plain"))).stored.record.principal
    assert principal == Principal(principal.key_id, "plain", frozenset({Role.DEVELOPER}), tenant="acme")


async def test_every_field_of_a_spec_is_taken_as_it_was_meant(house: House) -> None:
    """Money exactly, RFC 3339 with its offset, names and beginnings of names."""
    spec = KeySpec(
        name="everything",
        team="red",
        roles=("viewer", "developer"),
        models=("tiny", "gpt-*"),
        budget_usd="1.0000000001",
        budget_period="day",
        requests_per_minute=1,
        tokens_per_minute=2,
        concurrency=3,
        expires_at="2026-01-02T00:00:00+02:00",
    )
    stored = (await house.keys.create(ADMIN, spec)).stored
    assert stored.record.principal == Principal(
        stored.id,
        "everything",
        frozenset({Role.VIEWER, Role.DEVELOPER}),
        team="red",
        models=frozenset({"tiny", "gpt-*"}),
        limits=Limits(1, 2, 3, Budget(Money(10_000_000_001), "day")),
        expires_at=1_767_304_800.0,
    )
    (event,) = house.sink.events
    assert event.detail == {
        "actor_name": "Ada",
        "name": "everything",
        "team": "red",
        "roles": "developer,viewer",
        "models": "gpt-*,tiny",
        "requests_per_minute": "1",
        "tokens_per_minute": "2",
        "concurrency": "3",
        "budget": "1.0000000001 USD per day",
        "expires_at": "1767304800.0",
    }


async def test_no_models_is_not_all_models(house: House) -> None:
    """An empty list grants nothing."""
    stored = (await house.keys.create(ADMIN, KeySpec(name="none", models=()))).stored
    assert stored.record.principal.models == frozenset()


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": " x"}),
        ("name", {"name": "a\nb"}),
        ("name", {"name": "\x1b[31m"}),
        ("name", {"name": "\u202etxt"}),
        ("name", {"name": "x" * 129}),
        ("team", {"team": ""}),
        ("roles", {"roles": ()}),
        ("roles", {"roles": ("root",)}),
        ("roles", {"roles": ("developer", "Admin")}),
        ("models[1]", {"models": ("ok", "")}),
        ("models[0]", {"models": ("a*b",)}),
        ("models", {"models": ("x",) * 1001}),
        ("budget.usd", {"budget_usd": "one"}),
        ("budget.usd", {"budget_usd": "-1"}),
        ("budget.usd", {"budget_usd": "NaN"}),
        ("budget.usd", {"budget_usd": "1e99"}),
        ("budget.usd", {"budget_usd": "0.00000000001"}),
        ("budget.period", {"budget_usd": "1", "budget_period": "week"}),
        ("limits.requests_per_minute", {"requests_per_minute": 0}),
        ("limits.tokens_per_minute", {"tokens_per_minute": -1}),
        ("limits.concurrency", {"concurrency": 2**53 + 1}),
        ("limits.concurrency", {"concurrency": True}),
        ("expires_at", {"expires_at": NOON}),
        ("expires_at", {"expires_at": NOON - 1}),
        ("expires_at", {"expires_at": math.inf}),
        ("expires_at", {"expires_at": math.nan}),
        ("expires_at", {"expires_at": 1e15}),
        ("expires_at", {"expires_at": "tomorrow"}),
        ("expires_at", {"expires_at": "2027-01-01T00:00:00"}),
        ("expires_at", {"expires_at": "1999-01-01T00:00:00Z"}),
    ],
)
async def test_a_poor_spec_is_refused_and_its_field_named(house: House, param: str, changes: dict[str, object]) -> None:
    """Nothing is stored and nobody is told."""
    with pytest.raises(InvalidRequest) as refused:
        await house.keys.create(ADMIN, msgspec.structs.replace(KeySpec(name="ok"), **changes))
    assert refused.value.param == param
    assert (house.store.keys, house.told) == ({}, [])


@pytest.mark.parametrize(
    "field",
    ["id", "key_id", "key", "digest", "tenant", "role", "created_by", "revoked", "version", "hint", "permissions", "allowed_routes"],
)
def test_nothing_else_of_a_key_can_be_chosen(field: str) -> None:
    """No mass assignment: any other field is refused by name."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({"name": "x", field: "y"}, KeySpec)


WRITES = ("create", "revoke", "rotate")
READS = ("page", "get")


async def attempt(house: House, verb: str, actor: Principal, key_id: str) -> object:
    match verb:
        case "create":
            return await house.keys.create(actor, KeySpec(name="new"))
        case "revoke":
            return await house.keys.revoke(actor, key_id)
        case "rotate":
            return await house.keys.rotate(actor, key_id)
        case "get":
            return await house.keys.get(actor, key_id)
        case _:
            return await house.keys.page(actor)


@pytest.mark.parametrize(
    ("actor", "verb", "allowed"),
    [
        (actor, verb, actor is ADMIN or (actor is VIEWER and verb in READS))
        for actor in (ADMIN, VIEWER, DEVELOPER)
        for verb in WRITES + READS
    ],
    ids=lambda value: value.name if isinstance(value, Principal) else str(value),
)
async def test_the_permission_table_holds_for_every_verb(house: House, actor: Principal, verb: str, allowed: bool) -> None:
    """Administrators do all of it, viewers read, developers nothing. A refusal is written down and changes nothing."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    before = dict(house.store.keys)
    house.sink.events.clear()
    if allowed:
        await attempt(house, verb, actor, made.stored.id)
        return
    with pytest.raises(Forbidden, match="your role does not have"):
        await attempt(house, verb, actor, made.stored.id)
    assert house.store.keys == before
    (event,) = house.sink.events
    assert (event.actor, event.outcome, event.kind) == (actor.key_id, "refused", "admin")


@pytest.mark.parametrize("verb", ["revoke", "rotate", "get"])
async def test_another_tenants_key_does_not_exist(house: House, verb: str) -> None:
    """An administrator of one tenant gets the same answer for another's key as for none, and never lists it."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    with pytest.raises(NotFound) as theirs:
        await attempt(house, verb, STRANGER, made.stored.id)
    with pytest.raises(NotFound) as nobodys:
        await attempt(house, verb, STRANGER, "zzzzzzzz")
    assert theirs.value.message == nobodys.value.message
    assert (await house.keys.page(STRANGER)).keys == ()
    assert await house.good(made.key)


@pytest.mark.parametrize("key_id", ["", "\x00", "a'b", "../x", "٣", "a" * 17, "\ud800"])
async def test_what_cannot_be_an_id_is_not_found(house: House, key_id: str) -> None:
    """And never reaches a database that might choke on it."""
    with pytest.raises(NotFound):
        await house.keys.get(ADMIN, key_id)


async def test_each_change_is_one_event_and_one_notice(house: House) -> None:
    """Create, rotate, revoke: who did it to which key; revoking again changes and says nothing new."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    key_id = made.stored.id
    await house.keys.rotate(ADMIN, key_id)
    await house.keys.revoke(ADMIN, key_id)
    await house.keys.revoke(ADMIN, key_id)
    assert house.said == [
        ("key.create", "adminkey", key_id, "ok"),
        ("key.rotate", "adminkey", key_id, "ok"),
        ("key.revoke", "adminkey", key_id, "ok"),
    ]
    assert house.told == [(key_id, False), (key_id, False), (key_id, True), (key_id, True)]


async def test_no_event_and_no_representation_holds_a_key(house: House) -> None:
    """Whatever was written down or printed on the way, no text of a key is in it."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    rotated = await house.keys.rotate(ADMIN, made.stored.id, grace=60.0)
    everything = f"{house.sink.events!r} {made!r} {rotated!r} {house.store.keys!r} {house.checker!r}"
    for key in (made.key, rotated.key):
        assert key not in everything
        assert key[17:-6] not in everything
    assert made.stored.record.digest.hex() not in everything


async def test_a_revoked_key_is_dead_for_good(house: House) -> None:
    """With its secrets, old and new; it stays in the list, and cannot be rotated back to life."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    rotated = await house.keys.rotate(ADMIN, made.stored.id, grace=3600.0)
    stored = await house.keys.revoke(ADMIN, made.stored.id)
    assert stored.record.revoked
    assert stored.revoked_at == NOON
    assert not await house.good(made.key)
    assert not await house.good(rotated.key)
    assert [key.id for key in (await house.keys.page(ADMIN)).keys] == [made.stored.id]
    with pytest.raises(InvalidRequest, match="revoked key cannot be rotated"):
        await house.keys.rotate(ADMIN, made.stored.id)


async def test_a_rotated_key_keeps_everything_but_its_secret(house: House) -> None:
    """Same id and principal, so limits, budget and history go on; without grace the old secret is dead at once."""
    made = await house.keys.create(ADMIN, KeySpec(name="k", budget_usd="1"))
    rotated = await house.keys.rotate(ADMIN, made.stored.id)
    assert rotated.stored.record.principal == made.stored.record.principal
    assert rotated.stored.record.version == 2
    assert rotated.key != made.key
    assert rotated.stored.hint.endswith(rotated.key[-4:])
    assert await house.good(rotated.key)
    assert not await house.good(made.key)


async def test_two_secrets_work_during_the_grace_of_a_rotation(house: House) -> None:
    """Then only the new one; a second rotation leaves two at most."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    second = await house.keys.rotate(ADMIN, made.stored.id, grace=60.0)
    assert [await house.good(minted.key) for minted in (made, second)] == [True, True]
    house.clock.advance(60.0)
    assert [await house.good(minted.key) for minted in (made, second)] == [False, True]
    third = await house.keys.rotate(ADMIN, made.stored.id, grace=60.0)
    assert [await house.good(minted.key) for minted in (made, second, third)] == [False, True, True]


@pytest.mark.parametrize("grace", [-1.0, math.nan, math.inf, 7 * 86_400.0 + 1])
async def test_a_grace_has_bounds(house: House, grace: float) -> None:
    """Nobody keeps two secrets for ever."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    with pytest.raises(InvalidRequest, match="grace"):
        await house.keys.rotate(ADMIN, made.stored.id, grace=grace)


async def test_lists_page_newest_first(house: House) -> None:
    """Every key once, whatever the page size; the last page has no cursor."""
    made = []
    for number in range(5):
        made.append((await house.keys.create(ADMIN, KeySpec(name=f"k{number}"))).stored.id)
        house.clock.advance(1.0)
    for limit in (1, 2, 5, 200):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await house.keys.page(ADMIN, cursor, limit)
            seen.extend(key.id for key in page.keys)
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == made[::-1]


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "_", "nan_aaaaaaaa", "-1_aaaaaaaa", "1.0_", "1.0_a'b", "1.0_" + "a" * 17, "1e400_aaaaaaaa"]
)
async def test_a_cursor_that_is_not_ours_is_refused(house: House, cursor: str) -> None:
    """Nothing of it reaches the store."""
    with pytest.raises(InvalidRequest, match="cursor"):
        await house.keys.page(ADMIN, cursor)


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_has_bounds(house: House, limit: int) -> None:
    """One to two hundred keys."""
    with pytest.raises(InvalidRequest, match="limit"):
        await house.keys.page(ADMIN, None, limit)


async def test_a_lost_race_is_run_again(house: House) -> None:
    """Somebody else was faster: read again, change again. Again and again is Unavailable, and changes nothing."""
    made = await house.keys.create(ADMIN, KeySpec(name="k"))
    house.store.races = 2
    assert (await house.keys.revoke(ADMIN, made.stored.id)).record.revoked
    house.store.races = 4
    assert isinstance(await house.keys.create(ADMIN, KeySpec(name="other")), Minted)
    house.store.races = 5
    with pytest.raises(Unavailable):
        await house.keys.create(ADMIN, KeySpec(name="third"))
    house.store.races = 5
    with pytest.raises(GatehouseError, match="somebody else"):
        await house.keys.rotate(ADMIN, next(iter(set(house.store.keys) - {made.stored.id})))


async def test_the_first_start_makes_an_administrators_key(house: House) -> None:
    """The system principal may make one that administers and calls models; it may call no model itself."""
    made = await house.keys.create(system_principal(), KeySpec(name="first administrator", roles=("admin", "developer")))
    assert made.stored.record.principal.roles == {Role.ADMIN, Role.DEVELOPER}
    assert made.stored.created_by == "system"
