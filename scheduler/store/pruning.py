"""Which ended jobs may be cleaned up after, which may not and why, and the deletion of a job's records.

Files are removed within `claimed`, so that no job starts again while its files are being removed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scheduler.config import Settings
from scheduler.jobs.states import JobState
from scheduler.processes.locks import TRAINER_LOCK, lock_held
from scheduler.store.database import Database, Reader, Row, Transaction

ENDED = "state IN ('succeeded', 'failed', 'cancelled')"


class Candidate(NamedTuple):
    id: int
    name: str
    state: str


class Policy(NamedTuple):
    ended_before: float
    keep_last: int  # of the user's ended jobs, however old


def candidates(db: Reader, user: str, policy: Policy) -> list[Candidate]:
    """A user's jobs that ended long enough ago, the newest first."""
    rows = db.query(
        f"SELECT id, name, state, ended_at FROM jobs WHERE user_name = :user AND {ENDED}"  # noqa: S608
        " ORDER BY ended_at DESC, id DESC",
        user=user,
    )
    old = [row for row in rows[policy.keep_last :] if row["ended_at"] < policy.ended_before]
    return [Candidate(row["id"], row["name"], row["state"]) for row in sorted(old, key=lambda row: -row["id"])]


def needed(db: Reader, settings: Settings, chosen: Sequence[Candidate], *, forgetting: bool) -> dict[int, str]:
    """The chosen jobs that must stay as they are, each with the reason.

    A job needs another if it comes after it, or starts from its weights, and has not succeeded: also one that failed
    may be retried. Where jobs are forgotten, those that are forgotten with it do not count.
    """
    needs = _needs(db, settings)
    kept: dict[int, str] = {}
    forgotten: set[int] = set()
    for job in chosen:  # the newest first: the jobs that need this one have been decided about
        child = next((row for row in needs.get(job.id, ()) if row["id"] not in forgotten), None)
        if child is not None:
            kept[job.id] = f"job {child['id']} ({child['state']}) comes after it"
        elif lock_held(settings.run_dir(job.id) / TRAINER_LOCK):
            kept[job.id] = "one of its processes is still alive"
        elif forgetting:
            forgotten.add(job.id)
    return kept


@contextmanager
def claimed(db: Database, job_id: int) -> Iterator[Transaction | None]:
    """Keep an ended job from being retried while its files are removed; None if it has not ended."""
    with db.transaction() as tx:
        rows = tx.query(f"SELECT id FROM jobs WHERE id = :id AND {ENDED}", id=job_id)  # noqa: S608
        yield tx if rows else None


def forget(tx: Transaction, job_id: int) -> None:
    """Remove all that the store knows of a job. Its id is never given again."""
    for statement in (
        "DELETE FROM events WHERE job_id = :id",
        "DELETE FROM dependencies WHERE job_id = :id OR depends_on = :id",
        "DELETE FROM reservations WHERE attempt_id IN (SELECT id FROM attempts WHERE job_id = :id)",
        "UPDATE jobs SET attempt_id = NULL WHERE id = :id",
        "DELETE FROM attempts WHERE job_id = :id",
        "DELETE FROM jobs WHERE id = :id",
    ):
        tx.execute(statement, id=job_id)


def forget_footprints(db: Database, *, before: float) -> int:
    """Delete footprints traced before then; one that is needed again is traced again."""
    with db.transaction() as tx:
        return tx.execute("DELETE FROM footprints WHERE created_at < :before", before=before)


def _needs(db: Reader, settings: Settings) -> dict[int, list[Row]]:
    """Map each job to the jobs that need it and have not succeeded."""
    rows = db.query(
        "SELECT dependencies.depends_on AS parent, jobs.id, jobs.state FROM dependencies"
        " JOIN jobs ON jobs.id = dependencies.job_id WHERE jobs.state <> 'succeeded' ORDER BY jobs.id"
    )
    needs: dict[int, list[Row]] = {}
    for row in rows:
        needs.setdefault(row["parent"], []).append(row)
    for row in db.query("SELECT id, state, spec FROM jobs WHERE state <> :done", done=JobState.SUCCEEDED.value):
        for parent in _reads_from(row["spec"], settings):
            needs.setdefault(parent, []).append(row)
    return needs


def _reads_from(spec: str, settings: Settings) -> set[int]:
    """The jobs in whose run directories a job's first weights, tokenizer or data lie."""
    document = json.loads(spec)
    start, data = document.get("init_from") or {}, document.get("data") or {}
    paths = (start.get("path"), data.get("tokenizer"), data.get("path"), data.get("validation"))
    owners = [_owner(Path(path), settings.jobs_dir) for path in paths if isinstance(path, str)]
    return {int(job_id) for job_id in (start.get("job"), *owners) if job_id is not None}


def _owner(path: Path, jobs_dir: Path) -> int | None:
    """The job in whose run directory a path lies."""
    for base in {jobs_dir, jobs_dir.resolve()}:
        if path.is_relative_to(base) and path != base:
            name = path.relative_to(base).parts[0]
            return int(name) if name.isdecimal() else None
    return None
