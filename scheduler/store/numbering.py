"""Ids of jobs that no run directory has, for a store that is made anew or restored from an older copy."""

from contextlib import closing
from pathlib import Path

from scheduler.store import sqlite
from scheduler.store.database import Database

RAISE_ON_SQLITE = (
    "UPDATE sqlite_sequence SET seq = MAX(seq, :highest) WHERE name = 'jobs'",
    "INSERT INTO sqlite_sequence (name, seq) SELECT 'jobs', :highest"
    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'jobs')",
)
_RAISE = (
    "SELECT setval(pg_get_serial_sequence('jobs', 'id'), GREATEST(:highest,"
    " COALESCE(pg_sequence_last_value(CAST(pg_get_serial_sequence('jobs', 'id') AS regclass)), 1)))"
)


def begin_after(jobs_dir: Path, path: Path) -> None:
    """Have a store that nobody uses give ids only above those of all run directories."""
    highest = max(run_numbers(jobs_dir), default=0)
    with closing(sqlite.SqliteDatabase(path)) as database, database.transaction() as tx:
        for statement in RAISE_ON_SQLITE:
            tx.execute(statement, highest=highest)


def begin_after_on_postgres(jobs_dir: Path, database: Database) -> None:
    """Do the same for a PostgreSQL store, which may be in use."""
    highest = max(run_numbers(jobs_dir), default=0)
    if highest:
        with database.transaction() as tx:
            tx.query(_RAISE, highest=highest)


def run_numbers(folder: Path) -> list[int]:
    """The numbers that name entries of a folder, in order; none if there is no such folder."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal() and len(entry.name) < 16]
    return sorted(int(name) for name in names if name == str(int(name)))
