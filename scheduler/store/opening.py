"""Opening the store: its revision is checked; it is made where there is none, if that is asked for."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from scheduler.config import Settings
from scheduler.errors import DiskFull, MmqError, NoDatabase, SchemaMismatch, UsageError
from scheduler.store.database import Database
from scheduler.store.drivers import connect
from scheduler.store.filesystem import refuse_network_file_system
from scheduler.store.location import sqlite_path
from scheduler.store.revisions import check_revision, missing
from scheduler.store.sqlite import SqliteDatabase

T = TypeVar("T")


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
            raise missing(str(path))
    return _checked(connect(settings.database_url, lean=lean), settings)


def open_to_read(settings: Settings) -> Database:
    """Open the store by its lean driver for a look; on a full disk, where it can't be opened, a copy in memory."""
    try:
        return open_database(settings, lean=True)
    except DiskFull as full:
        path = sqlite_path(settings.database_url)
        if path is None:
            raise
        try:
            database = SqliteDatabase.copied(path)
        except MmqError:
            raise full from None
    return _checked(database, settings)


def _checked(database: Database, settings: Settings) -> Database:
    try:
        check_revision(database.revision(), settings.database_url)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def open_if_any(settings: Settings) -> Iterator[Database | None]:
    """Open the store by its lean driver; None where there is none: for callers that can do without."""
    try:
        database = open_database(settings, lean=True)
    except NoDatabase:
        yield None
        return
    with closing(database):
        yield database


def read_if_possible(settings: Settings, read: Callable[[Database], T]) -> T | None:
    """Read from the store; None where there is none, or it can't be read: for callers that can do without.

    Raises UsageError for a URL that is none, SchemaMismatch for a store of another revision.
    """
    try:
        with open_if_any(settings) as database:
            return None if database is None else read(database)
    except (UsageError, SchemaMismatch):
        raise
    except MmqError:
        return None
