"""The queue as an admission cycle reads it: bounded, whatever the number of jobs in it.

Writes only the estimate of each job's remaining time, by which it sorts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from scheduler.jobs.states import WaitCode
from scheduler.store.database import Database, Reader, Row
from scheduler.store.records import Job

_WAITS_FOR_ANOTHER = (
    "EXISTS (SELECT 1 FROM dependencies JOIN jobs parent ON parent.id = dependencies.depends_on"
    " WHERE dependencies.job_id = jobs.id AND parent.state <> 'succeeded')"
)

_FIRST = "priority DESC, id"
_SHORTEST = "priority DESC, remaining_seconds, id"
_LEAST_SHARE = 8  # of each user
_OLDEST_PART = 4  # of the limit, of each priority
_ABOVE_ALL = 1 << 30


class Damaged(NamedTuple):
    """A queued job whose row can't be read as one: the queue goes on without it."""

    id: int
    why: str
    waiting_code: str | None
    waiting: str | None


Queued = Job | Damaged


def heads(db: Reader, *, limit: int) -> list[Queued]:
    """Queued jobs that wait for no other job, among them all that a cycle would look at first.

    A cycle orders by priority and remaining time, discounted for long waits and for users who had little: so these are
    the shortest jobs of each user and the oldest of each priority. At least `limit`, where there are as many.
    """
    users = list(_each(db, "SELECT MIN(user_name) AS next FROM jobs WHERE state = 'queued' AND user_name > :last", ""))
    share = max(_LEAST_SHARE, 2 * limit // max(1, len(users)))
    jobs = [
        job
        for user in users
        for job in _jobs(db, f"AND user_name = :user AND NOT {_WAITS_FOR_ANOTHER}", share, by=_SHORTEST, user=user)
    ]
    priorities = _each(
        db, "SELECT MAX(priority) AS next FROM jobs WHERE state = 'queued' AND priority < :last", _ABOVE_ALL
    )
    for priority in priorities:
        oldest = f"AND priority = :priority AND NOT {_WAITS_FOR_ANOTHER}"
        jobs += _jobs(db, oldest, limit // _OLDEST_PART, priority=priority)
    return list({job.id: job for job in jobs}.values())


def blocked(db: Reader, *, limit: int) -> list[Queued]:
    """The first queued jobs that wait for another job."""
    return _jobs(db, f"AND {_WAITS_FOR_ANOTHER}", limit)


def unexplained(db: Reader, *, limit: int) -> list[Queued]:
    """The first queued jobs whose waiting has no reason yet but "new" or "requeued"."""
    return _jobs(db, f"AND waiting_code IN ('{WaitCode.NEW}', '{WaitCode.REQUEUED}')", limit)


def remaining(db: Reader) -> float:
    """How many seconds of work are queued, as far as they have been estimated."""
    return float(
        db.query("SELECT SUM(remaining_seconds) AS seconds FROM jobs WHERE state = 'queued'")[0]["seconds"] or 0
    )


def write_remaining(db: Database, remaining_seconds: Mapping[int, float]) -> None:
    """Write how long these jobs are thought to take still."""
    if not remaining_seconds:
        return
    with db.transaction() as tx:
        for job_id, seconds in remaining_seconds.items():
            tx.execute("UPDATE jobs SET remaining_seconds = :seconds WHERE id = :id", seconds=seconds, id=job_id)


def _jobs(db: Reader, condition: str, limit: int, *, by: str = _FIRST, **parameters: Any) -> list[Queued]:
    # Sorted by id alone first: the rows are large, and most of a long queue is not wanted.
    rows = db.query(
        f"SELECT * FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state = 'queued' {condition}"  # noqa: S608
        f" ORDER BY {by} LIMIT :limit) ORDER BY {by}",
        limit=limit,
        **parameters,
    )
    return [_read(row) for row in rows]


def _each(db: Reader, next_after: str, last: Any) -> Iterator[Any]:
    """Step through the values of a column by its index, whatever the number of rows that have them."""
    while (last := db.query(next_after, last=last)[0]["next"]) is not None:
        yield last


def _read(row: Row) -> Queued:
    try:
        return Job.from_row(row)
    except msgspec.ValidationError as error:
        return Damaged(row["id"], str(error), row["waiting_code"], row["waiting"])
