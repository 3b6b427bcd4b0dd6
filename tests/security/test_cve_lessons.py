"""What other gateways' advisories taught: each test is named for the one it keeps from happening here."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import event

from gatehouse.adapters.storage.audit_log import AuditAppender
from gatehouse.adapters.storage.keys import SqlKeyStore
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.vault.root import Purpose, RootKey
from gatehouse.control.audit import AuditAdministration
from gatehouse.control.keys import KeyAdministration, KeySpec, Minted
from gatehouse.core.audit import AuditLog
from gatehouse.core.calls import Call
from gatehouse.core.errors import Forbidden, GatehouseError, NotFound, Unauthenticated, Unavailable
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.keys import KeyChecker, mint, mint_secret
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.key_cache import KeyCache
from gatehouse.pipeline.order import ORDER, in_order
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.identify import Identify, identify
from gatehouse.testing.fakes import FakeClock, FakeKeys, FakeRng, FakeSpawn
from gatehouse.testing.key_store import FakeAuditSink, FakeKeyStore
from gatehouse.wire.admin.app import PUBLIC, build_app, credentials
from gatehouse.wire.admin.endpoints import Services, endpoints
from gatehouse.wire.admin.views import NewKey
from gatehouse.wire.http.head import HeadReader, Refused
from gatehouse.wire.http.limits import HttpLimits

ROOT = RootKey(bytes(range(32)))
CHECKER = KeyChecker(ROOT.derive(Purpose.API_KEY_PEPPER))
ADMIN = Principal("adminkey", "Ada", frozenset({Role.ADMIN}))
STRANGER = Principal("stranger", "Sam", frozenset({Role.ADMIN}), tenant="acme")


class Office:
    """The admin application over fakes, with one key of each role."""

    def __init__(self) -> None:
        self.store = FakeKeyStore()
        self.clock = FakeClock()
        self.keys = KeyAdministration(self.store, CHECKER, self.store.sink, self.tell, self.clock, FakeRng(1))
        services = Services(
            keys=self.keys,
            reports=cast("Any", None),
            audit=AuditAdministration(cast("AuditLog", FakeAuditSink()), self.clock),
            statement=tuple,
            plans=lambda: ("v", ()),
            targets=self.targets,
            metrics=self.metrics,
            readiness=lambda: (True, {}),
            version="0",
        )
        self.table = endpoints(services)
        self.app = build_app(self.table, self.identify, self.refused, FakeRng(2), "0")
        self.minted: dict[str, Minted] = {}

    async def refused(self, principal: Principal, permission: str, asked: str) -> None:
        """Remembered elsewhere."""

    async def start(self) -> "Office":
        for role in Role:
            self.minted[role] = await self.keys.create(ADMIN, KeySpec(name=role, roles=(role,)))
        return self

    def tell(self, key_id: str, *, revoked: bool) -> None:
        """Nobody has a copy."""

    async def targets(self) -> dict[str, Any]:
        return {}

    async def metrics(self) -> bytes:
        return b"gatehouse_up 1\n"

    async def find(self, key_id: str) -> KeyRecord | None:
        stored = await self.store.find(key_id)
        return None if stored is None else stored.record

    async def identify(self, offered: tuple[bytes, ...]) -> Principal:
        return await identify(offered, FakeKeys([stored.record for stored in self.store.keys.values()]), CHECKER, self.clock.now())

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of one request, as the server hands it to the application."""
        sent: list[dict[str, Any]] = []
        raw = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **(headers or {})}.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8081),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
async def office() -> Office:
    """An admin port without a socket."""
    return await Office().start()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh database."""
    opened = await Database.open("sqlite:///gatehouse.db", tmp_path)
    yield opened
    await opened.close()


def a_key(seed: int) -> tuple[bytes, KeyRecord]:
    key_id, key = mint(FakeRng(seed))
    return key.encode(), KeyRecord(CHECKER.digest(key.encode()), Principal(key_id, "k", frozenset({Role.DEVELOPER})))


async def test_cve_2026_42208_what_a_header_says_never_becomes_sql(database: Database) -> None:
    """LiteLLM built SQL from the Authorization value. Here nothing but a checked id reaches the database, and as a bound value."""
    statements: list[tuple[str, str]] = []

    def watch(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.append((statement, repr(parameters)))

    event.listen(database._engine, "before_cursor_execute", watch)
    store = SqlKeyStore(database.run, AuditAppender(b"s" * 32).append)

    async def fetch(key_id: str) -> KeyRecord | None:
        stored = await store.find(key_id)
        return None if stored is None else stored.record

    spawn = FakeSpawn()
    cache = KeyCache(fetch, FakeClock(), spawn)
    for value in (b"' OR '1'='1", b"gh_live_' OR 1=1_" + b"A" * 36, b"'; DROP TABLE api_keys; --", b"\x00\xff", b"x" * 400):
        with pytest.raises(Unauthenticated):
            await identify((value,), cache, CHECKER, 0.0)
    assert statements == []
    unknown, record = a_key(1)
    with pytest.raises(Unauthenticated):
        await identify((unknown,), cache, CHECKER, 0.0)
    looked_up = [(statement, bound) for statement, bound in statements if "api_keys" in statement]
    assert len(looked_up) == 1
    assert record.principal.key_id not in looked_up[0][0]
    assert record.principal.key_id in looked_up[0][1]
    assert unknown[17:].decode() not in repr(statements)
    await spawn.close()


HOSTS = ("x/livez?x=", "x/livez#", "localhost/readyz?", "x@localhost/livez", "localhost:8081/metrics?a=")


@pytest.mark.parametrize("host", HOSTS)
async def test_cve_2026_48710_and_49468_the_host_header_has_no_say_in_what_is_allowed(office: Office, host: str) -> None:
    """Starlette's BadHost made LiteLLM's gate see another path. Here each endpoint carries its permission; paths are not compared."""
    for endpoint in office.table:
        status, body = await office.ask(endpoint.method, endpoint.path.replace("{id}", "aaaaaaaa"), {"host": host})
        assert status == (200 if endpoint.permission == PUBLIC else 401), endpoint.path
        assert endpoint.permission == PUBLIC or b"missing_api_key" in body


@pytest.mark.parametrize("host", HOSTS)
def test_cve_2026_48710_the_data_port_refuses_such_a_host(host: str) -> None:
    """400 before anything looks at the path, which comes from the request line alone."""
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %s\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(Refused):
        HeadReader(HttpLimits()).read(raw % host.encode())
    assert HeadReader(HttpLimits()).read(raw % b"localhost").path == "/v1/chat/completions"


def test_cve_2026_48746_no_path_is_exempt_from_identification() -> None:
    """vLLM's middleware exempted paths. Here every call goes through one tuple that cannot be built without Identify, before Read."""
    names = [stage.__name__ for stage in ORDER]
    assert names.index("Identify") < names.index("Read") < names.index("Authorise") < names.index("Dispatch")
    others = tuple(stage.__new__(stage) for stage in ORDER if stage is not Identify)
    with pytest.raises(ValueError, match="in order"):
        in_order(*others)


async def test_cve_2026_35029_and_2025_59305_being_known_is_not_being_allowed(office: Office) -> None:
    """LiteLLM's config endpoint and Langfuse's migrations asked only for a login. Here every endpoint asks for its permission."""
    for role, minted in office.minted.items():
        principal = minted.stored.record.principal
        for endpoint in office.table:
            if endpoint.permission == PUBLIC or principal.may(endpoint.permission):
                continue
            status, _ = await office.ask(endpoint.method, endpoint.path.replace("{id}", "aaaaaaaa"), {"x-api-key": minted.key})
            assert status == 403, (role, endpoint.path)


@pytest.mark.parametrize("field", ["allowed_routes", "permissions", "tenant", "digest", "id", "user_role"])
async def test_cve_2026_47101_and_47102_nobody_chooses_more_than_the_named_fields(office: Office, field: str) -> None:
    """LiteLLM stored caller-chosen routes and roles. Here an unknown field is a 400 that names it, and no verb edits one's own key."""
    body = msgspec.json.encode({"name": "x", field: "admin"})
    status, answer = await office.ask("POST", "/admin/v1/keys", {"x-api-key": office.minted["admin"].key}, body)
    assert status == 400
    assert field.encode() in answer
    assert len(office.store.keys) == len(Role)
    assert set(NewKey.__struct_fields__) == {"name", "team", "roles", "models", "budget", "limits", "expires_at"}


async def test_cve_2026_47101_a_developer_makes_no_administrator(office: Office) -> None:
    """Neither by asking for the role nor by asking for less."""
    developer = office.minted["developer"].stored.record.principal
    for roles in (("admin",), ("developer",)):
        with pytest.raises(Forbidden):
            await office.keys.create(developer, KeySpec(name="x", roles=roles))


async def test_cve_2026_35030_no_part_of_a_key_stands_for_the_whole() -> None:
    """LiteLLM cached identities under the first 20 characters of a token. Here keys that share all but their end are different keys."""
    good, record = a_key(1)
    spawn, clock = FakeSpawn(), FakeClock()
    cache = KeyCache(FakeKeys((record,)).find, clock, spawn)
    assert await identify((good,), cache, CHECKER, 0.0) == record.principal
    for seed in range(2, 6):
        sibling = mint_secret(record.principal.key_id, FakeRng(seed)).encode()
        assert sibling[:17] == good[:17]
        with pytest.raises(Unauthenticated):
            await identify((sibling,), cache, CHECKER, 0.0)
    await spawn.close()


def test_cve_2026_114612_what_one_secret_made_is_worth_nothing_to_another() -> None:
    """LiteLLM reused its salt key across domains. Here every purpose has its own derived key."""
    key, record = a_key(1)
    for purpose in Purpose:
        digest = KeyChecker(ROOT.derive(purpose)).digest(key)
        assert CHECKER.accepts(record, digest, 0.0) is (purpose is Purpose.API_KEY_PEPPER)
    assert len({ROOT.derive(purpose) for purpose in Purpose}) == len(Purpose)


async def test_cve_2026_59822_a_failed_key_never_becomes_an_empty_identity() -> None:
    """LiteLLM fell through to another path with nobody as the caller. Here an empty identity cannot be built, and None goes no further."""
    for key_id, roles in (("", frozenset({Role.ADMIN})), ("k", frozenset[Role]())):
        with pytest.raises(ValueError, match="a principal needs"):
            Principal(key_id, "", roles)
    x = Exchange("r", Head("POST", "/", {}, (b"nonsense",)), None, cast("Any", None))
    x.call = Call(model="tiny")
    with pytest.raises(Unauthenticated):
        await Identify(FakeKeys(), CHECKER, FakeClock()).admit(x)
    assert x.principal is None
    with pytest.raises(Forbidden):
        await Authorise().admit(x)


async def test_cve_2024_9606_no_log_line_or_representation_holds_any_part_of_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """LiteLLM masked five characters and logged the rest. Here the secret part is in no log, error, cause or repr on any way it can end."""
    caplog.set_level(logging.DEBUG)
    good, record = a_key(1)
    seen: list[str] = []

    async def broken(key_id: str) -> KeyRecord | None:
        raise RuntimeError(f"cannot find {key_id}")

    spawn = FakeSpawn()
    for directory in (FakeKeys((record,)), FakeKeys(), KeyCache(broken, FakeClock(), spawn)):
        for offered in ((good,), (good, b"other"), (good[:-1] + b"x",), (good + b"x",)):
            x = Exchange("r", Head("POST", "/", {b"x-api-key": good}, offered), None, cast("Any", None))
            try:
                await Identify(directory, CHECKER, FakeClock()).admit(x)
            except GatehouseError as error:
                seen += [repr(error), str(error), error.detail, repr(error.__cause__), repr(error.__context__)]
            seen += [repr(x.head), repr(x.principal), repr(directory)]
    await asyncio.gather(*spawn.tasks, return_exceptions=True)
    seen += [repr(record), repr(CHECKER), repr(ROOT), caplog.text]
    everything = "\n".join(seen)
    secret = good[17:].decode()
    assert not any(secret[at : at + 6] in everything for at in range(len(secret) - 5))
    assert record.digest.hex() not in everything
    assert repr(record.digest) not in everything


async def test_cve_2025_11203_health_and_metrics_tell_no_key(office: Office) -> None:
    """LiteLLM's health endpoint returned keys. Here what needs no key holds none, nor ids or hints."""
    for endpoint in office.table:
        if endpoint.permission == PUBLIC:
            _, body = await office.ask("GET", endpoint.path)
            for minted in office.minted.values():
                assert minted.stored.id.encode() not in body
                assert minted.key.encode() not in body
                assert b"gh_live_" not in body


@pytest.mark.parametrize(("header", "value"), [("authorization", "Bearer {}"), ("authorization", "bearer {}"), ("x-api-key", "{}")])
async def test_cve_2026_45339_a_key_is_the_same_key_in_either_header(office: Office, header: str, value: str) -> None:
    """Open WebUI restricted Bearer and forgot x-api-key. Here both become one credential, on both ports, before anything is decided."""
    key = office.minted["developer"].key
    line = value.format(key)
    raw = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{header}: {line}\r\ncontent-length: 0\r\n\r\n"
    offered = HeadReader(HttpLimits()).read(raw.encode()).credentials
    assert offered == credentials([(header.encode(), line.encode())]) == (key.encode(),)
    assert await office.identify(offered) == office.minted["developer"].stored.record.principal
    status, _ = await office.ask("POST", "/admin/v1/keys", {header: line}, b'{"name": "x"}')
    assert status == 403
    await office.keys.revoke(ADMIN, office.minted["developer"].stored.id)
    status, _ = await office.ask("POST", "/admin/v1/keys", {header: line}, b'{"name": "x"}')
    assert status == 401


async def test_cve_2026_45339_two_headers_with_different_keys_are_refused(office: Office) -> None:
    """400 on either port: no header wins silently over the other."""
    headers = {"authorization": f"Bearer {office.minted['admin'].key}", "x-api-key": office.minted["viewer"].key}
    status, body = await office.ask("GET", "/admin/v1/keys", headers)
    assert status == 400
    assert b"two_credentials" in body
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{lines}content-length: 0\r\n\r\n"
    assert len(HeadReader(HttpLimits()).read(raw.encode()).credentials) == 2


async def test_cve_2026_45349_and_45671_an_id_of_another_tenant_opens_nothing(office: Office) -> None:
    """Open WebUI accepted other users' ids. Here every object is fetched through the tenant of who asks."""
    for minted in office.minted.values():
        for verb in (office.keys.get, office.keys.revoke, office.keys.rotate):
            with pytest.raises(NotFound):
                await verb(STRANGER, minted.stored.id)
    assert not any(stored.record.revoked for stored in office.store.keys.values())


async def test_ghsa_a_directory_that_fails_is_never_a_way_in() -> None:
    """No fail-open: an unreachable store is 503 for good and bad keys alike."""
    good, record = a_key(1)
    keys = FakeKeys((record,))
    keys.gone = True
    for offered in (good, a_key(2)[0]):
        with pytest.raises(Unavailable):
            await identify((offered,), keys, CHECKER, 0.0)
