"""${message}

Expand only: add tables, columns and indexes; what the previous version reads stays. `_schema.REVISIONS` names every revision.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """To this revision."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Back to the previous one."""
    ${downgrades if downgrades else "pass"}
