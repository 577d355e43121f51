"""The door to the store: what a database offers, and how one is opened and checked. Holds no statement of a table.

Two drivers stand behind one Protocol. The lean one (`sqlite.py`) imports nothing heavy and serves the command line
and the shim; the other (`engine.py`) is SQLAlchemy over SQLite or PostgreSQL. Both give the same promise: one writer
at a time, so what a transaction has read stays true until it commits.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from scheduler.config import Settings
from scheduler.errors import MmqError, NoDatabase, SchemaMismatch, UsageError
from scheduler.store.filesystem import refuse_network_file_system

Row = dict[str, Any]

REVISIONS = ("0001",)  # oldest first; a test holds them against migrations/


class Reader(Protocol):
    """Anything that answers a SELECT: a database, a snapshot of it, or a transaction."""

    def query(self, sql: str, **parameters: object) -> list[Row]: ...


class Transaction(Reader, Protocol):
    """Statements that become true together or not at all."""

    def execute(self, sql: str, **parameters: object) -> int:
        """Run a statement that returns no rows; answer how many rows it touched."""
        ...


class Database(Reader, Protocol):
    """A store of the right revision. The lean kind belongs to the thread that opened it."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin as the only writer; commit at the end, or roll back on any exception."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Several reads of one moment."""
        ...

    def revision(self) -> str | None:
        """The schema's revision; None where there is no schema at all."""
        ...

    def integrity(self) -> list[str]:
        """What the database itself finds wrong with its file; empty when all is well."""
        ...

    def close(self) -> None: ...


def open_database(settings: Settings, *, lean: bool, create: bool = False) -> Database:
    """Open the store and check its revision; with `create`, make the schema where there is none yet.

    Raises NoDatabase where there is no store, SchemaMismatch for one of another revision; MmqError where it can't be
    read.
    """
    if create:
        from scheduler.store.upgrade import create_missing  # Alembic: too heavy for every command

        create_missing(settings)
    path = sqlite_path(settings.database_url)
    if path is not None:
        refuse_network_file_system(path)
        if not path.exists():
            raise _missing(str(path))
    database = connect(settings.database_url, lean=lean)
    try:
        check_revision(database.revision(), settings.database_url)
    except BaseException:
        database.close()
        raise
    return database


def connect(url: str, *, lean: bool) -> Database:
    """Open a store that exists, whatever its revision."""
    path = sqlite_path(url)
    if lean and path is not None:
        from scheduler.store.sqlite import SqliteDatabase

        return SqliteDatabase(path)
    from scheduler.store.engine import (
        EngineDatabase,
    )  # SQLAlchemy: slower to import than a whole `mmq status`

    return EngineDatabase(url)


def head() -> str:
    """The revision that this code speaks."""
    return REVISIONS[-1]


def check_revision(revision: str | None, url: str) -> None:
    """Raise SchemaMismatch, naming the command that mends it, unless the revision is ours."""
    if revision is None:
        raise _missing(without_password(url))
    refuse_newer(revision)
    if revision != head():
        raise SchemaMismatch(f"the database is of revision {revision}, this mmq needs {head()}", hint="mmq db upgrade")


def refuse_newer(revision: str) -> None:
    """Raise SchemaMismatch for a revision that this code has never heard of."""
    if revision not in REVISIONS:
        raise SchemaMismatch(
            f"the database is of revision {revision}, which a newer mmq wrote; this one knows {head()}",
            hint="pip install --upgrade mmq",
        )


def sqlite_path(url: str) -> Path | None:
    """The file behind a SQLite URL; None for any other database."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    name = rest.removeprefix("/").partition("?")[0]
    if not name or name.startswith(":memory:"):
        raise UsageError(f"{url!r} names no file; the store must outlive a process", hint="unset MMQ_DATABASE_URL")
    return Path(name).absolute()


def without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}"


def _missing(place: str) -> MmqError:
    return NoDatabase(f"there is no database at {place} yet", hint="mmq up")


def placeholders(name: str, values: "list[Any] | tuple[Any, ...]") -> tuple[str, Mapping[str, Any]]:
    """Write `:name_0, :name_1` for an IN list, with the parameters to go with it."""
    parameters = {f"{name}_{number}": value for number, value in enumerate(values)}
    return ", ".join(f":{key}" for key in parameters) or "NULL", parameters
