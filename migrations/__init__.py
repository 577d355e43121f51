"""The schema's history, as Alembic scripts. Configured in code by `scheduler.store.migrate`."""
