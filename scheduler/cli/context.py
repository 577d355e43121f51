"""What most commands begin with: the settings, the store, the jobs that were named. Imports nothing heavy."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from scheduler.config import Settings
from scheduler.errors import NoDatabase, NotNow, Refusals
from scheduler.store.database import Database
from scheduler.store.opening import open_database, open_to_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.store.database import Writable
    from scheduler.store.records import Job

AT_ONCE = 500  # jobs changed in one transaction: nobody else writes meanwhile


def settings() -> Settings:
    return Settings.from_environment()


@contextmanager
def store(settings: Settings, *, create: bool = False) -> Iterator[Database]:
    """Open the store by its lean driver; with `create`, make it where there is none yet."""
    try:
        database = open_database(settings, lean=True)
    except NoDatabase:
        if not create:
            raise
        from scheduler.store.creation import create_apart

        create_apart(settings)
        database = open_database(settings, lean=True)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def read_store(settings: Settings, *, repeatedly: bool = False) -> Iterator[Database]:
    """Open the store to read it once; reading it repeatedly needs the store itself, and so room on its disk."""
    with closing(open_database(settings, lean=True) if repeatedly else open_to_read(settings)) as database:
        yield database


def change(
    refs: Sequence[str], verb: "Callable[[Writable, Job], Job]", *, last_first: bool = False
) -> "Iterator[tuple[Job, Job]]":
    """Apply the verb to each of the user's own jobs named; yield each job before and after, then ring the controller.

    Ownership is by the real uid, and checked for all jobs before any is changed. Jobs are changed in batches of one
    transaction each, in the order of their ids, so that a job comes after those it depends on; or, `last_first`, before
    them. They are yielded once committed. What was refused is raised at the end.
    """
    from scheduler.broker.doorbell import ring
    from scheduler.cli.ownership import require_owner
    from scheduler.store import jobs
    from scheduler.store.database import Joined

    current = settings()
    with store(current) as database:
        named = [jobs.get(database, job_id) for job_id in sorted(jobs.resolve(database, refs), reverse=last_first)]
        require_owner(named, current)
        refused: list[NotNow] = []
        try:
            for start in range(0, len(named), AT_ONCE):
                changed: list[tuple[Job, Job]] = []
                with database.transaction() as tx:
                    for job in named[start : start + AT_ONCE]:
                        try:
                            changed.append((job, verb(Joined(tx), job)))
                        except NotNow as error:
                            refused.append(error)
                yield from sorted(changed, key=lambda pair: pair[0].id)
        finally:
            ring(current)
    if refused:
        raise Refusals(refused) if len(refused) > 1 else refused[0]
