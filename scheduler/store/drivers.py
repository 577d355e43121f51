"""The two drivers: the lean one for the command line and the shim, SQLAlchemy's for the rest and other databases."""

from scheduler.store.database import Database
from scheduler.store.location import sqlite_path


def connect(url: str, *, lean: bool) -> Database:
    """Open a store that exists, whatever its revision."""
    path = sqlite_path(url)
    if lean and path is not None:
        from scheduler.store.sqlite import SqliteDatabase

        return SqliteDatabase(path)
    from scheduler.store.engine import EngineDatabase  # SQLAlchemy: slower to import than a whole `mmq status`

    return EngineDatabase(url)
