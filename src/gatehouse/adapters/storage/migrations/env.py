"""What Alembic runs: on the connection it is handed, in the transaction that is open there."""

from alembic import context

from gatehouse.adapters.storage._metadata import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    compare_type=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
