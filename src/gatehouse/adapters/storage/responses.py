"""Kept responses in SQL. What was said is there only as ciphertext; whose it is and until when stand beside it, to be searched by."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Index, LargeBinary, String, Table, Text, delete, insert, select
from sqlalchemy.exc import IntegrityError

from gatehouse.adapters.storage._metadata import METADATA
from gatehouse.adapters.storage._run import Run
from gatehouse.core.errors import Unavailable
from gatehouse.core.ports import Clock
from gatehouse.core.responses import Kept, Owner, Sealing

RESPONSES: Final = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index(None, "expires_at"),
)
"""Times are microseconds since the epoch; `content` is sealed with everything else of the row as associated data."""

MOST_AT_ONCE: Final = 500
"""Rows that one sweep deletes in one transaction: nobody waits long behind it."""
_MICROS: Final = 1_000_000


class SqlResponseStore:
    """Implements `ResponseStore`. Runs on the writer and a reader of the database; sealing too is done there, off the loop."""

    def __init__(self, run: Run, read: Run, sealing: Sealing, clock: Clock) -> None:
        self._run = run
        self._read = read
        self._sealing = sealing
        self._clock = clock

    async def keep(self, kept: Kept) -> None:
        """See `ResponseStore`."""
        await self._run(lambda connection: self._insert(connection, kept))

    async def find(self, owner: Owner, response_id: str) -> Kept | None:
        """See `ResponseStore`."""
        return await self._read(lambda connection: self._select(connection, owner, response_id))

    async def remove(self, owner: Owner, response_id: str) -> bool:
        """See `ResponseStore`."""
        mine = (RESPONSES.c.id == response_id, RESPONSES.c.tenant == owner.tenant, RESPONSES.c.owner == owner.scope)
        gone = delete(RESPONSES).where(*mine, RESPONSES.c.expires_at > self._now())
        return await self._run(lambda connection: connection.execute(gone).rowcount) > 0

    async def sweep(self) -> int:
        """Delete what has expired, at most MOST_AT_ONCE; how many there were."""
        expired = select(RESPONSES.c.id).where(RESPONSES.c.expires_at <= self._now()).limit(MOST_AT_ONCE)
        if not await self._read(lambda connection: connection.execute(expired.limit(1)).first()):
            return 0
        return await self._run(lambda connection: connection.execute(delete(RESPONSES).where(RESPONSES.c.id.in_(expired))).rowcount)

    def _now(self) -> int:
        return round(self._clock.now() * _MICROS)

    def _insert(self, connection: Connection, kept: Kept) -> None:
        created, expires = round(kept.created_at * _MICROS), round(kept.expires_at * _MICROS)
        content = self._sealing.seal(kept.content, _about(kept.id, kept.owner, created, expires))
        row = insert(RESPONSES).values(
            id=kept.id, tenant=kept.owner.tenant, owner=kept.owner.scope, created_at=created, expires_at=expires, content=content
        )
        try:
            with connection.begin_nested():
                connection.execute(row)
        except IntegrityError:
            return

    def _select(self, connection: Connection, owner: Owner, response_id: str) -> Kept | None:
        mine = (RESPONSES.c.id == response_id, RESPONSES.c.tenant == owner.tenant, RESPONSES.c.owner == owner.scope)
        row = connection.execute(select(RESPONSES).where(*mine, RESPONSES.c.expires_at > self._now())).one_or_none()
        if row is None:
            return None
        try:
            content = self._sealing.unseal(bytes(row.content), _about(row.id, owner, row.created_at, row.expires_at))
        except ValueError as fault:
            raise Unavailable("This response cannot be read.", code="response_damaged", detail=f"response {row.id}: {fault}") from None
        return Kept(row.id, owner, row.created_at / _MICROS, row.expires_at / _MICROS, content)


def _about(response_id: str, owner: Owner, created: int, expires: int) -> Sequence[str]:
    return (response_id, owner.tenant, owner.scope, str(created), str(expires))
