"""Single facts about an installation that every server on its database must agree on."""

from typing import Final

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from gatehouse.adapters.storage._tables import FACTS

ROOT_FINGERPRINT: Final = "root-fingerprint"
"""Of the root key that everything here was made with."""
FIRST_KEY: Final = "first-key"
"""The id of the administrator's key that a new installation was given."""


def fact(connection: Connection, name: str) -> str | None:
    """What was kept under `name`."""
    return connection.scalar(select(FACTS.c.value).where(FACTS.c.name == name))


def keep_fact(connection: Connection, name: str, value: str) -> str:
    """Keep `value` unless something is kept already; what is kept now. Of two servers that come at once, one is first."""
    kept = fact(connection, name)
    if kept is not None:
        return kept
    try:
        with connection.begin_nested():
            connection.execute(insert(FACTS).values(name=name, value=value))
    except IntegrityError:
        return fact(connection, name) or value
    return value
