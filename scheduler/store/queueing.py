"""The queue as an admission cycle reads it: bounded, whatever the number of jobs in it. Reads only."""

from typing import NamedTuple

import msgspec

from scheduler.jobs.states import WaitCode
from scheduler.store.database import Reader, Row
from scheduler.store.records import Job

_WAITS_FOR_ANOTHER = (
    "EXISTS (SELECT 1 FROM dependencies JOIN jobs parent ON parent.id = dependencies.depends_on"
    " WHERE dependencies.job_id = jobs.id AND parent.state <> 'succeeded')"
)


class Damaged(NamedTuple):
    """A queued job whose row can't be read as one: the queue goes on without it."""

    id: int
    why: str


Queued = Job | Damaged


def heads(db: Reader, *, limit: int) -> list[Queued]:
    """The first queued jobs that wait for no other job, the next one first."""
    return _jobs(db, f"AND NOT {_WAITS_FOR_ANOTHER}", limit)


def blocked(db: Reader, *, limit: int) -> list[Queued]:
    """The first queued jobs that wait for another job."""
    return _jobs(db, f"AND {_WAITS_FOR_ANOTHER}", limit)


def unexplained(db: Reader, *, limit: int) -> list[Queued]:
    """The first queued jobs that nothing but "new" or "requeued" has been said of."""
    return _jobs(db, f"AND waiting_code IN ('{WaitCode.NEW}', '{WaitCode.REQUEUED}')", limit)


def _jobs(db: Reader, condition: str, limit: int) -> list[Queued]:
    # Sorted by id alone first: the rows are large, and most of a long queue is not wanted.
    rows = db.query(
        f"SELECT * FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' {condition}"  # noqa: S608
        " ORDER BY priority DESC, id ASC LIMIT :limit) ORDER BY priority DESC, id ASC",
        limit=limit,
    )
    return [_read(row) for row in rows]


def _read(row: Row) -> Queued:
    try:
        return Job.from_row(row)
    except msgspec.ValidationError as error:
        return Damaged(row["id"], str(error))
