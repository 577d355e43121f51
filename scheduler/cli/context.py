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


@contextmanager
def look(of: Settings, *, again: bool = False) -> Iterator[Database]:
    """Open the store to read it once; `again` and again needs the store itself, and so room on its disk."""
    with closing(open_database(of, lean=True) if again else open_to_read(of)) as database:
        yield database


def change(
    refs: Sequence[str], verb: "Callable[[Writable, Job], Job]", *, last_first: bool = False
) -> "Iterator[tuple[Job, Job]]":
    """Do something to each of the jobs named, which must be one's own; yields it before and after, then rings.

    Ownership is by the real uid and checked for all before anything is changed. Many are changed in one transaction,
    and yielded once it is committed, in the order of their ids, so that what comes after another is changed after it,
    or, `last_first`, before. What can't be done is told when the rest is.
    """
    from scheduler.broker.doorbell import ring
    from scheduler.cli.ownership import require_owner
    from scheduler.store import jobs
    from scheduler.store.database import Joined

    of = settings()
    with store(of) as database:
        named = [jobs.get(database, job_id) for job_id in sorted(jobs.resolve(database, refs), reverse=last_first)]
        require_owner(named, of)
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
            ring(of)
    if refused:
        raise Refusals(refused) if len(refused) > 1 else refused[0]
