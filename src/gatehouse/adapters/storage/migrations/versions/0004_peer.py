"""The address that a call came from, where policy keeps it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """To this revision. The column has a default, so that the version before can go on writing meanwhile."""
    op.add_column("ledger", sa.Column("peer", sa.Text(), nullable=False, server_default=""))
