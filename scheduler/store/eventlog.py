"""The event log in the order things happened, over all jobs or some. Reads only."""

from collections.abc import Sequence

from scheduler.store.database import Reader, Row, placeholders

_EVENT = (
    "SELECT events.*, jobs.name, attempts.number AS attempt FROM events JOIN jobs ON jobs.id = events.job_id"
    " LEFT JOIN attempts ON attempts.id = events.attempt_id WHERE {} ORDER BY events.id {} LIMIT :most"
)


def latest(db: Reader, job_ids: Sequence[int] | None, *, most: int) -> list[Row]:
    """Read the last events of these jobs, or of all, the oldest first; with job names and attempt numbers."""
    condition, parameters = _of(job_ids)
    return db.query(_EVENT.format(condition, "DESC"), most=most, **parameters)[::-1]


def after(db: Reader, event_id: int, job_ids: Sequence[int] | None, *, most: int) -> list[Row]:
    """Read what was written after an event. One writes at a time, so none appears later with an earlier id."""
    condition, parameters = _of(job_ids)
    return db.query(
        _EVENT.format(f"events.id > :event_id AND {condition}", ""), event_id=event_id, most=most, **parameters
    )


def newest(db: Reader) -> int:
    """The id of the last event, 0 where there is none."""
    return int(db.query("SELECT COALESCE(MAX(id), 0) AS id FROM events")[0]["id"])


def _of(job_ids: Sequence[int] | None) -> tuple[str, dict[str, object]]:
    if job_ids is None:
        return "1 = 1", {}
    names, parameters = placeholders("job", list(job_ids))
    return f"events.job_id IN ({names})", dict(parameters)
