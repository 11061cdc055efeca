"""What Alembic runs to migrate: on the connection, and within the transaction, that it is given."""

from alembic import context

from vault.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
