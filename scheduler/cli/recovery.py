"""Run directories held against the store: what they know and it does not, and the entering of that anew.

A store in whose place a backup was put has forgotten jobs, attempts and results that are on disk. Changes the store
alone: of what was trained nothing is moved or removed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler.cli.ids import in_short
from scheduler.config import Settings
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import keepsakes, reentry
from scheduler.store.database import Database
from scheduler.store.keepsakes import ATTEMPT, EXIT, JOB, KeptAttempt, KeptEnd, KeptJob
from scheduler.store.location import sqlite_path
from scheduler.store.numbering import begin_after_on_postgres, run_numbers
from scheduler.store.records import Outcome

FIX = "mmq doctor --fix"
_KNOWN = (
    "SELECT jobs.id, jobs.state, jobs.submitted_at, COALESCE(MAX(attempts.number), 0) AS number,"
    " COALESCE(MAX(attempts.admitted_at), 0) AS admitted_at"
    " FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id GROUP BY jobs.id, jobs.state, jobs.submitted_at"
)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a run directory knows more than the store."""

    job_id: int
    job: KeptJob | None  # of a job that the store does not know
    attempts: tuple[KeptAttempt, ...]  # those it does not know
    sentence: str

    @property
    def mendable(self) -> bool:
        return self.job is not None or bool(self.attempts)


def gaps(database: Database, settings: Settings) -> Iterator[Gap]:
    """Find what the store has lost, and results that are gone."""
    known = {row["id"]: row for row in database.query(_KNOWN)}
    for job_id in run_numbers(settings.jobs_dir):
        root = settings.run_dir(job_id)
        kept, row = keepsakes.read(root / JOB, KeptJob), known.get(job_id)
        if row is None:
            yield _missing(job_id, root, kept)
        elif kept is not None and kept.submitted_at != row["submitted_at"]:
            told = f"{root} belongs to another job that had this number; it is moved aside when job {job_id} starts"
            yield Gap(job_id=job_id, job=None, attempts=(), sentence=told)
        elif row["state"] != JobState.SUCCEEDED and (lost := _later(root, row["number"], row["admitted_at"])):
            which = ", ".join(str(attempt.number) for attempt in lost)
            told = f"the database does not know attempt {which} of job {job_id}, whose directory does"
            yield Gap(job_id=job_id, job=None, attempts=lost, sentence=told + _ended(root, lost[-1]))
        elif row["state"] == JobState.SUCCEEDED and _lacks_result(root):
            told = f"job {job_id} has succeeded, but its result is not in {root / 'final'}"
            yield Gap(job_id=job_id, job=None, attempts=(), sentence=told)


def mend(database: Database, settings: Settings) -> Iterator[str]:
    """Enter anew what the store has lost, and say so; of all the jobs that had never started in one sentence."""
    if sqlite_path(settings.database_url) is None:
        begin_after_on_postgres(settings.jobs_dir, database)  # SQLite counts on from the highest by itself
    now = time.time()
    unstarted: dict[str, list[int]] = {}  # by what they are now
    for gap in list(gaps(database, settings)):
        if not gap.mendable or (gap.job is not None and not reentry.reenter_job(database, gap.job, at=now)):
            continue
        entered = _enter_attempts(database, settings, gap, now)
        if gap.job is None and not entered:
            continue
        if gap.job is not None and entered:
            reentry.hold_entered(database, gap.job_id, at=now)
        state = str(database.query("SELECT state FROM jobs WHERE id = :id", id=gap.job_id)[0]["state"])
        if gap.attempts:
            yield _entered(gap, entered, state)
        else:
            unstarted.setdefault(state, []).append(gap.job_id)
    for state, ids in unstarted.items():
        they = f"job {ids[0]}: it is" if len(ids) == 1 else f"jobs {in_short(ids)}: they are"
        yield f"restored {they} {state}{_released(state, in_short(ids))}"


def _enter_attempts(database: Database, settings: Settings, gap: Gap, now: float) -> list[int]:
    """The numbers of those that it was not too late for."""
    root = settings.run_dir(gap.job_id)
    found = {number: keepsakes.read_end(_attempt(root, number) / EXIT) for number in run_numbers(root / "attempts")}
    ends = {number: end for number, end in found.items() if end}
    entered = []
    for attempt in gap.attempts:
        reentry.close_before(database, gap.job_id, attempt.number, ends, at=now)
        end = _end_of(attempt, ends, is_last=attempt is gap.attempts[-1], now=now)
        if reentry.reenter_attempt(database, gap.job_id, attempt, end, at=now) is not None:
            entered.append(attempt.number)
    return entered


def _entered(gap: Gap, entered: Sequence[int], state: str) -> str:
    what = [f"job {gap.job_id}"] if gap.job is not None else []
    what += [f"attempt {number} of job {gap.job_id}" for number in entered]
    return f"restored {', '.join(what)}: it is {state}{_released(state, str(gap.job_id))}"


def _released(state: str, ids: str) -> str:
    return f"; `mmq release {ids}` lets {'it' if ids.isdecimal() else 'them'} go on" if state == JobState.HELD else ""


def _missing(job_id: int, root: Path, kept: KeptJob | None) -> Gap:
    if kept is None or kept.id != job_id:
        told = f"the database knows no job {job_id}, and {root} does not say enough to restore it"
        return Gap(job_id=job_id, job=None, attempts=(), sentence=told)
    lost = _later(root, 0, 0.0)
    told = f"the database knows no job {job_id} ({kept.name}), but its run directory exists"
    how = _ended(root, lost[-1]) if lost else " (never started)"
    return Gap(job_id=job_id, job=kept, attempts=lost, sentence=told + how)


def _lacks_result(root: Path) -> bool:
    """Whether what was trained here is gone; a job that ran on another host has no attempt here."""
    return (root / "attempts").is_dir() and not (root / "final" / "model.safetensors").is_file()


def _later(root: Path, number: int, admitted_at: float) -> tuple[KeptAttempt, ...]:
    """What came after the last attempt that the store knows; an earlier one is of a past that has been overtaken."""
    later = [one for one in run_numbers(root / "attempts") if one > number]
    read = [keepsakes.read(_attempt(root, one) / ATTEMPT, KeptAttempt) for one in later]
    found = [kept for one, kept in zip(later, read, strict=True) if kept is not None and kept.number == one]
    return tuple(kept for kept in found if kept.admitted_at > admitted_at)


def _end_of(attempt: KeptAttempt, ends: dict[int, KeptEnd], *, is_last: bool, now: float) -> KeptEnd | None:
    """How it ended; None for the last one without a record, which may be alive."""
    end = ends.get(attempt.number)
    if end is not None and end.admitted_at in (None, attempt.admitted_at):
        return end
    return None if is_last else KeptEnd(None, Outcome(reason=EndReason.LOST, message=reentry.LOST), now)


def _ended(root: Path, attempt: KeptAttempt) -> str:
    end = keepsakes.read_end(_attempt(root, attempt.number) / EXIT)
    return f" (ended: {end.outcome.reason.replace('_', ' ')})" if end else " (it may be running)"


def _attempt(root: Path, number: int) -> Path:
    return root / "attempts" / str(number)
