"""Run directories compared with the store: what it has lost, and restoring that from them.

A store that was restored from a backup has forgotten jobs, attempts and results that are on disk. Changes the store
alone: no file of a job is moved or removed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.cli.ids import in_short
from scheduler.config import Settings
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import reinserting, run_records
from scheduler.store.database import Database
from scheduler.store.location import sqlite_path
from scheduler.store.numbering import begin_after_on_postgres, run_numbers
from scheduler.store.records import Outcome
from scheduler.store.run_records import ATTEMPT, EXIT, JOB, RecordedAttempt, RecordedEnd, RecordedJob

FIX = "mmq doctor --fix"
_KNOWN = (
    "SELECT jobs.id, jobs.state, jobs.submitted_at, COALESCE(MAX(attempts.number), 0) AS number,"
    " COALESCE(MAX(attempts.admitted_at), 0) AS admitted_at"
    " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id GROUP BY jobs.id, jobs.state, jobs.submitted_at"
)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a run directory records and the store does not know."""

    job_id: int
    job: RecordedJob | None  # of a job that the store does not know
    attempts: tuple[RecordedAttempt, ...]  # those it does not know
    sentence: str

    @property
    def restorable(self) -> bool:
        return self.job is not None or bool(self.attempts)


def gaps(database: Database, settings: Settings) -> Iterator[Gap]:
    """Find what the store has lost, and results that are missing on disk."""
    known = {row["id"]: row for row in database.query(_KNOWN)}
    for job_id in run_numbers(settings.jobs_dir):
        root = settings.run_dir(job_id)
        job, row = run_records.read(root / JOB, RecordedJob), known.get(job_id)
        if row is None:
            yield _unknown_job(job_id, root, job)
        elif job is not None and job.submitted_at != row["submitted_at"]:
            sentence = f"{root} belongs to another job that had this number; it is moved aside when job {job_id} starts"
            yield Gap(job_id=job_id, job=None, attempts=(), sentence=sentence)
        elif row["state"] != JobState.SUCCEEDED and (lost := _later(root, row["number"], row["admitted_at"])):
            numbers = ", ".join(str(attempt.number) for attempt in lost)
            sentence = f"the database does not know attempt {numbers} of job {job_id}, whose directory does"
            yield Gap(job_id=job_id, job=None, attempts=lost, sentence=sentence + _how_ended(root, lost[-1]))
        elif row["state"] == JobState.SUCCEEDED and _lacks_result(root):
            sentence = f"job {job_id} has succeeded, but its result is not in {root / 'final'}"
            yield Gap(job_id=job_id, job=None, attempts=(), sentence=sentence)


def restore(database: Database, settings: Settings) -> Iterator[str]:
    """Reinsert what the store has lost, and say so; jobs that had never started share one sentence."""
    if sqlite_path(settings.database_url) is None:
        begin_after_on_postgres(settings.jobs_dir, database)  # SQLite counts on from the highest by itself
    now = time.time()
    unstarted: dict[str, list[int]] = {}  # ids by state
    for gap in list(gaps(database, settings)):
        if not gap.restorable or (gap.job is not None and not reinserting.reinsert_job(database, gap.job, at=now)):
            continue
        reinserted = _reinsert_attempts(database, settings, gap, now)
        if gap.job is None and not reinserted:
            continue
        if gap.job is not None and reinserted:
            reinserting.hold_reinserted(database, gap.job_id, at=now)
        state = str(database.query("SELECT state FROM jobs WHERE id = :id", id=gap.job_id)[0]["state"])
        if gap.attempts:
            yield _restored(gap, reinserted, state)
        else:
            unstarted.setdefault(state, []).append(gap.job_id)
    for state, ids in unstarted.items():
        they = f"job {ids[0]}: it is" if len(ids) == 1 else f"jobs {in_short(ids)}: they are"
        yield f"restored {they} {state}{_release_hint(state, in_short(ids))}"


def _reinsert_attempts(database: Database, settings: Settings, gap: Gap, now: float) -> list[int]:
    """Return the numbers of those for which it was not too late."""
    root = settings.run_dir(gap.job_id)
    numbers = run_numbers(root / "attempts")
    ends = {n: end for n in numbers if (end := run_records.read_end(_attempt_dir(root, n) / EXIT))}
    reinserted = []
    for attempt in gap.attempts:
        reinserting.close_before(database, gap.job_id, attempt.number, ends, at=now)
        end = _end_of(attempt, ends, is_last=attempt is gap.attempts[-1], now=now)
        if reinserting.reinsert_attempt(database, gap.job_id, attempt, end, at=now) is not None:
            reinserted.append(attempt.number)
    return reinserted


def _restored(gap: Gap, numbers: Sequence[int], state: str) -> str:
    what = [f"job {gap.job_id}"] if gap.job is not None else []
    what += [f"attempt {number} of job {gap.job_id}" for number in numbers]
    return f"restored {', '.join(what)}: it is {state}{_release_hint(state, str(gap.job_id))}"


def _release_hint(state: str, ids: str) -> str:
    return f"; `mmq release {ids}` lets {'it' if ids.isdecimal() else 'them'} go on" if state == JobState.HELD else ""


def _unknown_job(job_id: int, root: Path, job: RecordedJob | None) -> Gap:
    if job is None or job.id != job_id:
        sentence = f"the database knows no job {job_id}, and {root} does not say enough to restore it"
        return Gap(job_id=job_id, job=None, attempts=(), sentence=sentence)
    attempts = _later(root, 0, 0.0)
    sentence = f"the database knows no job {job_id} ({job.name}), but its run directory exists"
    how = _how_ended(root, attempts[-1]) if attempts else " (never started)"
    return Gap(job_id=job_id, job=job, attempts=attempts, sentence=sentence + how)


def _lacks_result(root: Path) -> bool:
    """Whether what was trained here is gone; a job that ran on another host has no attempt here."""
    return (root / "attempts").is_dir() and not (root / "final" / "model.safetensors").is_file()


def _later(root: Path, number: int, admitted_at: float) -> tuple[RecordedAttempt, ...]:
    """The attempts after the last one that the store knows; one admitted earlier than that is obsolete."""
    later = [later for later in run_numbers(root / "attempts") if later > number]
    records = [run_records.read(_attempt_dir(root, later) / ATTEMPT, RecordedAttempt) for later in later]
    return tuple(
        attempt
        for number, attempt in zip(later, records, strict=True)
        if attempt is not None and attempt.number == number and attempt.admitted_at > admitted_at
    )


def _end_of(attempt: RecordedAttempt, ends: dict[int, RecordedEnd], *, is_last: bool, now: float) -> RecordedEnd | None:
    """How it ended; None for the last attempt if it has no record, since it may be alive."""
    end = ends.get(attempt.number)
    if end is not None and end.admitted_at in (None, attempt.admitted_at):
        return end
    return None if is_last else RecordedEnd(None, Outcome(reason=EndReason.LOST, message=reinserting.LOST), now)


def _how_ended(root: Path, attempt: RecordedAttempt) -> str:
    end = run_records.read_end(_attempt_dir(root, attempt.number) / EXIT)
    return f" (ended: {end.outcome.reason.replace('_', ' ')})" if end else " (it may be running)"


def _attempt_dir(root: Path, number: int) -> Path:
    return root / "attempts" / str(number)
