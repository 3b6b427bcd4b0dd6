"""API keys in SQL: digests and what they stand for. Every statement binds its values; nothing a caller sent becomes SQL."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    and_,
    insert,
    or_,
    select,
    update,
)

from gatehouse.adapters.storage._metadata import METADATA
from gatehouse.adapters.storage._run import Run
from gatehouse.core.audit import AuditEvent
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.keys import Position, StoredKey
from gatehouse.core.limits import Budget, Limits
from gatehouse.core.money import Money

Append = Callable[[Connection, Sequence[AuditEvent]], None]
"""Adds events to the audit log inside the transaction of what they tell about."""

KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("team", Text),
    Column("name", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("previous_until", BigInteger, nullable=False),
    Column("roles", Text, nullable=False),
    Column("models", Text),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrency", BigInteger),
    Column("budget", BigInteger),
    Column("budget_period", String(8)),
    Column("expires_at", BigInteger),
    Column("revoked", Boolean, nullable=False),
    Column("revoked_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Index(None, "tenant", "created_at", "id"),
)
"""Times are microseconds since the epoch, money units of 10^-10 USD, roles and models sorted JSON arrays; models NULL is every model."""


def find_key(connection: Connection, key_id: str) -> StoredKey | None:
    """The key of that id in any tenant."""
    row = connection.execute(select(KEYS).where(KEYS.c.id == key_id)).one_or_none()
    return None if row is None else _key(row)


def get_key(connection: Connection, tenant: str, key_id: str) -> StoredKey | None:
    """The key of that id, if it belongs to `tenant`."""
    row = connection.execute(select(KEYS).where(KEYS.c.id == key_id, KEYS.c.tenant == tenant)).one_or_none()
    return None if row is None else _key(row)


def page_of_keys(connection: Connection, tenant: str, after: Position | None, limit: int) -> tuple[StoredKey, ...]:
    """At most `limit` keys of `tenant`, newest first, that come after `after`."""
    query = select(KEYS).where(KEYS.c.tenant == tenant)
    if after is not None:
        at, key_id = _micros(after[0]), after[1]
        query = query.where(or_(KEYS.c.created_at < at, and_(KEYS.c.created_at == at, KEYS.c.id < key_id)))
    return tuple(_key(row) for row in connection.execute(query.order_by(KEYS.c.created_at.desc(), KEYS.c.id.desc()).limit(limit)))


def write_key(connection: Connection, key: StoredKey) -> bool:
    """Insert version 1, or replace version n - 1 by n in the same tenant; False when that is not what the table holds."""
    values = _values(key)
    version = key.record.version
    if version == 1:
        if connection.execute(select(KEYS.c.id).where(KEYS.c.id == key.id)).first() is not None:
            return False
        connection.execute(insert(KEYS).values(values))
        return True
    changed = connection.execute(
        update(KEYS).where(KEYS.c.id == key.id, KEYS.c.tenant == values["tenant"], KEYS.c.version == version - 1).values(values)
    )
    return changed.rowcount == 1


class SqlKeyStore:
    """Implements `KeyStore`."""

    def __init__(self, run: Run, append: Append) -> None:
        self._run = run
        self._append = append

    async def find(self, key_id: str) -> StoredKey | None:
        """See `KeyStore`."""
        return await self._run(lambda connection: find_key(connection, key_id))

    async def get(self, tenant: str, key_id: str) -> StoredKey | None:
        """See `KeyStore`."""
        return await self._run(lambda connection: get_key(connection, tenant, key_id))

    async def page(self, tenant: str, after: Position | None, limit: int) -> tuple[StoredKey, ...]:
        """See `KeyStore`."""
        return await self._run(lambda connection: page_of_keys(connection, tenant, after, limit))

    async def commit(self, key: StoredKey, events: Sequence[AuditEvent]) -> bool:
        """See `KeyStore`."""

        def work(connection: Connection) -> bool:
            if not write_key(connection, key):
                return False
            self._append(connection, events)
            return True

        return await self._run(work)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _values(key: StoredKey) -> dict[str, Any]:
    record, principal = key.record, key.record.principal
    limits = principal.limits
    return {
        "id": key.id,
        "version": record.version,
        "tenant": principal.tenant,
        "team": principal.team,
        "name": principal.name,
        "hint": key.hint,
        "digest": record.digest,
        "previous": record.previous,
        "previous_until": _micros(record.previous_until),
        "roles": _array(principal.roles),
        "models": None if principal.models is None else _array(principal.models),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
        "budget": None if limits.budget is None else limits.budget.usd,
        "budget_period": None if limits.budget is None else limits.budget.period,
        "expires_at": None if principal.expires_at is None else _micros(principal.expires_at),
        "revoked": record.revoked,
        "revoked_at": None if key.revoked_at is None else _micros(key.revoked_at),
        "created_at": _micros(key.created_at),
        "created_by": key.created_by,
    }


def _array(words: frozenset[str] | frozenset[Role]) -> str:
    return msgspec.json.encode(sorted(words)).decode()


def _key(row: Row[Any]) -> StoredKey:
    budget = None if row.budget is None else Budget(Money(row.budget), row.budget_period)
    principal = Principal(
        key_id=row.id,
        name=row.name,
        roles=frozenset(msgspec.json.decode(row.roles, type=list[Role])),
        tenant=row.tenant,
        team=row.team,
        models=None if row.models is None else frozenset(msgspec.json.decode(row.models, type=list[str])),
        limits=Limits(row.requests_per_minute, row.tokens_per_minute, row.concurrency, budget),
        expires_at=None if row.expires_at is None else row.expires_at / 1_000_000,
    )
    record = KeyRecord(
        digest=bytes(row.digest),
        principal=principal,
        revoked=row.revoked,
        version=row.version,
        previous=bytes(row.previous),
        previous_until=row.previous_until / 1_000_000,
    )
    return StoredKey(
        record, row.hint, row.created_at / 1_000_000, row.created_by, None if row.revoked_at is None else row.revoked_at / 1_000_000
    )
