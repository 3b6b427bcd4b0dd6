"""The schema's revision: made at once where nothing is, migrated where it is old, refused where it is not ours to touch.

Alembic is imported only when there is something to migrate: a fresh database is created from the metadata, which a test
proves equal to what the migrations make.
"""

import logging
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, select
from sqlalchemy.schema import CreateSchema

from gatehouse.adapters.storage import _audit_tables, _tables, keys, responses
from gatehouse.adapters.storage._metadata import METADATA

logger = logging.getLogger("gatehouse.storage")

SCHEMA: Final = "gatehouse"
"""Where our tables live on PostgreSQL: beside whatever else is in that database, never among it."""
REVISIONS: Final = ("0001", "0002", "0003", "0004")
"""Every revision this version knows, oldest first; the last one is its own."""
VERSION: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it would make it."""
_LOCK: Final = 0x6761746568  # "gateh"
TABLE_MODULES: Final = (_audit_tables, keys, responses, _tables)
"""Importing them is what fills the metadata."""


class SchemaRefused(Exception):
    """The database is not one this version may use; the text says why and what to do."""


def prepare(connection: Connection) -> None:
    """Bring the database to our revision, in the transaction that is open on `connection`.

    Raises:
        SchemaRefused: tables that are not ours, or a revision we do not know.
    """
    if connection.dialect.name == "postgresql":
        # Several servers may start at once; one prepares, the others find it done.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        if not inspect(connection).has_schema(SCHEMA):
            connection.execute(CreateSchema(SCHEMA))
    tables = set(inspect(connection).get_table_names())
    if VERSION.name not in tables:
        _create(connection, tables)
        return
    revision = connection.execute(select(VERSION.c.version_num)).scalar()
    if revision == REVISIONS[-1]:
        return
    if revision not in REVISIONS:
        raise SchemaRefused(
            f"the database has revision {revision}, and this version knows only up to {REVISIONS[-1]}: "
            "it was used by a newer Gatehouse. Start that version, or restore a backup made before the upgrade"
        )
    logger.info("migrating the database from revision %s to %s", revision, REVISIONS[-1])
    upgrade(connection, REVISIONS[-1])


def _create(connection: Connection, tables: set[str]) -> None:
    ours = tables & set(METADATA.tables)
    if ours:
        raise SchemaRefused(
            f"the database has a table {min(ours)!r} but no revision: it was not made by Gatehouse, or not completely. "
            "Give Gatehouse a database of its own, or restore a backup"
        )
    METADATA.create_all(connection)
    VERSION.create(connection)
    connection.execute(VERSION.insert().values(version_num=REVISIONS[-1]))


def upgrade(connection: Connection, revision: str) -> None:
    """Run the migrations up to `revision` in the transaction that is open on `connection`."""
    from alembic import command  # noqa: PLC0415 - half a second that only an upgrade needs

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def alembic_config() -> Any:
    """Alembic's configuration, without a file."""
    from alembic.config import Config  # noqa: PLC0415 - see upgrade

    config = Config()
    config.set_main_option("script_location", "gatehouse.adapters.storage:migrations")
    return config
