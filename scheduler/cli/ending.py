"""Waiting for the end of jobs, cheaply: one small read of the store at a time, ever less often."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from scheduler.cli.jobview import ENDED
from scheduler.cli.terminal import one_line
from scheduler.errors import ExitCode, MmqError, UsageError
from scheduler.store.database import Database, Reader
from scheduler.units import parse_duration

Row = dict[str, Any]

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
_ENDING = (
    "SELECT jobs.id, jobs.state, jobs.reason, jobs.message, attempts.exit_code, attempts.exit_signal"
    " FROM jobs LEFT JOIN attempts ON attempts.id = jobs.attempt_id WHERE jobs.id = :job_id"
)


def parse_timeout(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}", hint="write it like 30s, 5m or 2h") from None


def sentence(row: Row) -> str:
    """How a job ended: `12 failed (out of memory): its smallest plan needs ...`."""
    if row["state"] != "failed":
        return f"{row['id']} {row['state']}"
    reason = f" ({row['reason'].replace('_', ' ')})" if row["reason"] else ""
    return f"{row['id']} failed{reason}" + (f": {one_line(row['message'])}" if row["message"] else "")


def wait_for(
    database: Database, job_ids: Sequence[int], *, tell: Callable[[Row], None], timeout_seconds: float | None = None
) -> list[Row]:
    """Return how each job ended, telling of each as it does; MmqError when the time is over."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    waiting, ended = list(job_ids), []
    pause = FIRST_PAUSE_SECONDS
    while True:
        for row in _ended(database, waiting):
            waiting.remove(row["id"])
            ended.append(row)
            tell(row)
        if not waiting:
            return ended
        if deadline is not None and time.monotonic() >= deadline:
            left = ", ".join(map(str, waiting[:5])) + (", ..." if len(waiting) > 5 else "")
            raise MmqError(f"gave up waiting for jobs that have not ended yet: {left}", hint=f"mmq status {waiting[0]}")
        time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


def all_ended(database: Reader, job_ids: Sequence[int]) -> bool:
    return len(_ended(database, job_ids)) == len(job_ids)


def _ended(database: Reader, job_ids: Sequence[int]) -> list[Row]:
    rows = (row for job_id in job_ids for row in database.query(_ENDING, job_id=job_id))
    return [row for row in rows if row["state"] in ENDED]


def exit_code(ended: Row) -> int:
    """The job's own: 0, its trainer's exit code, 128 + the signal that killed it, else 1."""
    if ended["state"] == "succeeded":
        return int(ExitCode.OK)
    if ended["exit_signal"]:
        return 128 + int(ended["exit_signal"])
    return int(ended["exit_code"] or ExitCode.FAILED)
