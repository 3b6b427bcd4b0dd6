"""Cost tags, end users and trace ids of calls, and their sums by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """To this revision. New columns have a default, so that the version before can go on writing meanwhile."""
    for name in ("tags", "end_user", "trace"):
        op.add_column("ledger", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "usage_tag_hours",
        sa.Column("hour", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("end_user", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charge", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "hour", "tenant", "key_id", "team", "model", "target", "outcome", "tags", "end_user", name="pk_usage_tag_hours"
        ),
    )
