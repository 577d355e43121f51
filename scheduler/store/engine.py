"""The SQLAlchemy driver: SQLite or PostgreSQL by URL, with the same promises as the lean one.

Holds no statement of a table. PostgreSQL's writers take one advisory lock, as SQLite's take its only one: the rate is
a few transactions a second, and one rule for both is worth more than parallel writes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError

from scheduler.errors import Unreachable, UsageError
from scheduler.store import sqlite
from scheduler.store.database import Row
from scheduler.store.location import sqlite_path, without_password

WRITER_LOCK = 0x6D6D71  # "mmq"
_EXAMPLE = "export MMQ_DATABASE_URL=postgresql://user@host/name"


def create(url: str) -> Engine:
    """An engine set up as the lean driver sets up its connection; UsageError for a database we don't speak."""
    path = sqlite_path(url)
    if path is not None:
        return _create_sqlite(str(path))
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() != "postgresql":
            reason = f"mmq keeps its store in SQLite or PostgreSQL, not in {parsed.get_backend_name()}"
            raise UsageError(reason, hint=_EXAMPLE)
        return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(
            f"MMQ_DATABASE_URL, {without_password(url)!r}, is not a database URL", hint=_EXAMPLE
        ) from error
    except ModuleNotFoundError as error:
        raise UsageError(f"no driver for PostgreSQL: {error}", hint="pip install 'mmq[postgres]'") from error


def _create_sqlite(path: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", module=sqlite.library(), connect_args={"timeout": sqlite.BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        sqlite.set_up(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("mmq_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Translate operational errors into MmqError; a mistake in our own statements stays as it is."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except DBAPIError as error:
        path = sqlite_path(url)
        if path is not None and isinstance(error.orig, Exception):
            raise sqlite.explain(error.orig, path) from error
        reason = f"the database at {without_password(url)} failed: {error.orig}"
        raise Unreachable(reason, hint="mmq doctor") from error


class EngineTransaction:
    """A SQLAlchemy connection in a transaction, spoken to in plain SQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, **parameters: object) -> int:
        return int(self._connection.execute(text(sql), parameters).rowcount)

    def query(self, sql: str, **parameters: object) -> list[Row]:
        return [dict(row) for row in self._connection.execute(text(sql), parameters).mappings()]


class EngineDatabase:
    """The store over a pool of connections; any thread may use it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = create(url)

    @property
    def _on_postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def query(self, sql: str, **parameters: object) -> list[Row]:
        with self.snapshot() as reader:
            return reader.query(sql, **parameters)

    @contextmanager
    def transaction(self) -> Iterator[EngineTransaction]:
        with self._explained(), self._engine.connect() as plain:
            connection = plain.execution_options(mmq_write=True)
            with connection.begin():
                if self._on_postgres:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITER_LOCK})
                yield EngineTransaction(connection)

    @contextmanager
    def snapshot(self) -> Iterator[EngineTransaction]:
        with self._explained(), self._engine.connect() as plain:
            level = {"isolation_level": "REPEATABLE READ"} if self._on_postgres else {}
            connection = plain.execution_options(mmq_write=False, **level)
            with connection.begin():
                yield EngineTransaction(connection)

    def revision(self) -> str | None:
        with self._explained():
            has_revision = inspect(self._engine).has_table("alembic_version")
        rows = self.query("SELECT version_num FROM alembic_version") if has_revision else []
        return str(rows[0]["version_num"]) if rows else None

    def integrity(self) -> list[str]:
        return [] if self._on_postgres else sqlite.broken_pages(self)

    def close(self) -> None:
        self._engine.dispose()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._url)
