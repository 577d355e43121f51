"""Counts over the whole store, for monitoring. Reads only."""

from typing import NamedTuple

from scheduler.store.database import Reader


class Figures(NamedTuple):
    jobs: dict[str, int]  # by state
    waiting: dict[str, int]  # queued jobs, by why they wait
    oldest_queued_at: float | None
    live: dict[str, int]  # attempts that have not ended, by state
    ended: dict[str, int]  # attempts, by their end's reason
    retries: int  # attempts after their job's first
    out_of_memory: int  # events of trainers that ran out, and went on with less


def figures(db: Reader) -> Figures:
    """Count jobs, attempts and out-of-memory events."""
    oldest = db.query("SELECT MIN(submitted_at) AS at FROM jobs WHERE state = 'queued'")
    retried = db.query("SELECT COUNT(*) AS count FROM attempts WHERE number > 1")
    ran_out = db.query("SELECT COUNT(*) AS count FROM events WHERE kind = 'out_of_memory'")
    return Figures(
        jobs=_by(db, "SELECT state AS name, COUNT(*) AS count FROM jobs GROUP BY state"),
        waiting=_by(
            db,
            "SELECT COALESCE(waiting_code, 'new') AS name, COUNT(*) AS count FROM jobs"
            " WHERE state = 'queued' GROUP BY COALESCE(waiting_code, 'new')",
        ),
        oldest_queued_at=oldest[0]["at"],
        live=_by(db, "SELECT state AS name, COUNT(*) AS count FROM attempts WHERE state <> 'ended' GROUP BY state"),
        ended=_by(db, "SELECT reason AS name, COUNT(*) AS count FROM attempts WHERE state = 'ended' GROUP BY reason"),
        retries=int(retried[0]["count"]),
        out_of_memory=int(ran_out[0]["count"]),
    )


def _by(db: Reader, statement: str) -> dict[str, int]:
    return {str(row["name"]): int(row["count"]) for row in db.query(statement)}
