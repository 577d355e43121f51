"""What most commands begin with: the settings, the store, the jobs that were named. Imports nothing heavy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scheduler.config import Settings
from scheduler.errors import MmqError, NoDatabase
from scheduler.store.database import Database, open_database

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
        _create(of)
        database = open_database(of, lean=True)
    try:
        yield database
    finally:
        database.close()


def _create(of: Settings) -> None:
    """Make the store in a process of its own, so that migrations' heavy imports stay out of this one."""
    import os
    import subprocess

    from scheduler.processes.interpreter import python_command, with_source

    command = python_command("scheduler", "db", "upgrade")
    made = subprocess.run(command, env=with_source(os.environ), capture_output=True, text=True, check=False)
    if made.returncode:
        told, _, hint = made.stderr.strip().removeprefix("error: ").partition("\n  hint: ")
        raise MmqError(f"the database could not be made: {told or 'no reason given'}", hint=hint or "mmq db upgrade")


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
