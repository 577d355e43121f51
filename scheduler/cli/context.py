"""What most commands begin with: the settings, the store, the jobs that were named. Imports nothing heavy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scheduler.config import Settings
from scheduler.errors import NoDatabase
from scheduler.store.database import Database
from scheduler.store.opening import open_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.store.records import Job


def settings() -> Settings:
    return Settings.from_environment()


@contextmanager
def store(of: Settings, *, create: bool = False) -> Iterator[Database]:
    """Open the store by its lean driver; with `create`, make it where there is none yet."""
    try:
        database = open_database(of, lean=True)
    except NoDatabase:
        if not create:
            raise
        from scheduler.store.creation import create_apart

        create_apart(of)
        database = open_database(of, lean=True)
    try:
        yield database
    finally:
        database.close()


def change(refs: Sequence[str], verb: "Callable[[Database, Job], Job]") -> "Iterator[tuple[Job, Job]]":
    """Do something to each of the jobs named, which must be one's own; yields it before and after, then rings.

    Ownership is by the real uid and checked for all before anything is changed.
    """
    from scheduler.broker.doorbell import ring
    from scheduler.cli.ownership import require_owner
    from scheduler.store import jobs

    of = settings()
    with store(of) as database:
        named = [jobs.get(database, job_id) for job_id in jobs.resolve(database, refs)]
        require_owner(named, of)
        try:
            for job in named:
                yield job, verb(database, job)
        finally:
            ring(of)
