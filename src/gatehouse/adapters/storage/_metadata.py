"""The one MetaData that every table of ours belongs to, with names that migrations on SQLite and PostgreSQL can rely on."""

from sqlalchemy import MetaData


def new_metadata() -> MetaData:
    """A MetaData with the naming convention for constraints."""
    return MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


METADATA = new_metadata()
"""Tables register themselves here when their module is imported; it holds no connection and no state."""
