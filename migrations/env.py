"""Alembic's entry: migrates the connection it is handed, in that connection's transaction."""

from alembic import context

from scheduler.store.schema import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    transactional_ddl=True,
    compare_server_default=True,
)
context.run_migrations()
