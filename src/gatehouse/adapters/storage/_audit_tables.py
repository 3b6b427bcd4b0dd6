"""The audit log's tables. Every column of `audit_events` is part of what its leaf hashes (see `gatehouse.core.audit`).

Whole numbers for time, text for text, bytes for hashes: nothing whose form a database may change behind our back.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from gatehouse.adapters.storage._metadata import METADATA

# On SQLite an INTEGER primary key is the row's own address; a BIGINT one would be a second tree beside it.
_SEQUENCE: Final = BigInteger().with_variant(Integer, "sqlite")

AUDIT_EVENTS: Final = Table(
    "audit_events",
    METADATA,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("commitment", LargeBinary, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
)

AUDIT_CHECKPOINTS: Final = Table(
    "audit_checkpoints",
    METADATA,
    Column("size", _SEQUENCE, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

AUDIT_STATE: Final = Table(
    "audit_state",
    METADATA,
    Column("name", String(16), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("seal", LargeBinary, nullable=False),
)
"""One row, named "log": the tree's right edge, and a MAC over it under a key that is not in the database."""
