"""Ids of jobs that no run directory has: where a store is made anew, or an older copy put in its place.

SQLite alone; a PostgreSQL store is restored with its sequences.
"""

from contextlib import closing
from pathlib import Path

from scheduler.store import sqlite


def begin_after(jobs_dir: Path, path: Path) -> None:
    """Have a store, which nobody uses, give ids only above those of all run directories that are there."""
    highest = max(run_numbers(jobs_dir), default=0)
    with closing(sqlite.SqliteDatabase(path)) as database, database.transaction() as tx:
        if not tx.execute("UPDATE sqlite_sequence SET seq = MAX(seq, :highest) WHERE name = 'jobs'", highest=highest):
            tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', :highest)", highest=highest)


def run_numbers(folder: Path) -> list[int]:
    """The numbers that name entries of a folder, in order; of a folder that is not there none."""
    if not folder.is_dir():
        return []
    names = [one.name for one in folder.iterdir() if one.name.isdecimal() and len(one.name) < 16]
    return sorted(int(name) for name in names if name == str(int(name)))
