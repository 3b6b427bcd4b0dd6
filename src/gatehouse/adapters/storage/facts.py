"""What all servers on a database must agree on: small named values, written once."""

from sqlalchemy import Connection, insert, select

from gatehouse.adapters.storage._tables import FACTS

ROOT_FINGERPRINT = "root-fingerprint"
FIRST_KEY = "first-key"


def fact(connection: Connection, name: str) -> str | None:
    """The value, or None when it was never written."""
    value = connection.execute(select(FACTS.c.value).where(FACTS.c.name == name)).scalar()
    return None if value is None else str(value)


def keep_fact(connection: Connection, name: str, value: str) -> str:
    """Write the value unless there is one; returns the one that holds."""
    kept = fact(connection, name)
    if kept is not None:
        return kept
    connection.execute(insert(FACTS).values(name=name, value=value))
    return value
