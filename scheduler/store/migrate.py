"""Alembic, configured in code: runs `migrations/` over one connection, in one transaction."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, text

import migrations
from scheduler.errors import MmqError
from scheduler.store import engine as engines
from scheduler.store.numbering import RAISE_ON_SQLITE
from scheduler.store.revisions import refuse_newer


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings, which need no file beside the installed package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(url: str, to: str = "head", *, ids_above: int = 0) -> None:
    """Bring a database to a revision, all or nothing; a no-op where it is there already.

    With `ids_above`, which SQLite alone takes, a new job's id will be above it.
    """
    engine = engines.create(url)
    if engine.dialect.name == "sqlite":
        # Batch mode copies tables and drops the old ones: with foreign keys on, rows that refer to them go too.
        event.listen(engine, "connect", _foreign_keys_off)
    try:
        with engines.explained(url), engine.connect() as plain:
            connection = plain.execution_options(mmq_write=True)
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": engines.WRITER_LOCK})
                _refuse_newer(connection)
                command.upgrade(configuration(connection), to)
                for statement in RAISE_ON_SQLITE if ids_above else ():
                    connection.execute(text(statement), {"highest": ids_above})
                _check_foreign_keys(connection)
    finally:
        engine.dispose()


def _foreign_keys_off(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")


def _refuse_newer(connection: Connection) -> None:
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None:
        refuse_newer(revision)


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise MmqError(
                f"the upgrade would leave {len(broken)} rows that refer to rows that do not exist; nothing was changed"
            )
