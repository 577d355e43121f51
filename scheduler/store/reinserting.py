"""Reinserting what the store lost: jobs and attempts that only their run directories still know of.

This happens when a backup is restored. Every state goes through the gate; what the store knows is only ever changed
by what came after it.
"""

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store.attempt_rows import live, make_latest
from scheduler.store.attempts import finish
from scheduler.store.database import Database, Reader, Transaction
from scheduler.store.jobs import get as get_job
from scheduler.store.records import Outcome
from scheduler.store.run_records import RecordedAttempt, RecordedEnd, RecordedJob
from scheduler.store.transitions import enter, move, record

LOST = "ended while the store did not know of it"
REINSERTED = "entered again from its run directory"


def reinsert_job(db: Database, recorded: RecordedJob, *, at: float) -> bool:
    """Insert a job under its own id; False if the store knows one with that id.

    It is held: later requests, a cancel perhaps, are lost, so a person decides.
    """
    with db.transaction() as tx:
        if tx.query("SELECT id FROM jobs WHERE id = :id", id=recorded.id):
            return False
        columns = (name for name in RecordedJob.__struct_fields__ if name != "depends_on")
        values: dict[str, object] = {name: getattr(recorded, name) for name in columns}
        if tx.query("SELECT id FROM jobs WHERE submit_key = :key", key=recorded.submit_key):
            values["submit_key"] = None  # submitted again since
        values |= {"state": JobState.QUEUED.value, "out_of_memory_retries": 0, "crash_retries": 0}
        _insert(tx, "jobs", values)
        enter(tx, recorded.id, JobState.QUEUED, at=recorded.submitted_at)
        ended, missing = _insert_dependencies(tx, recorded)
        lost = f"; it came after what is lost: job {', '.join(map(str, missing))}" if missing else ""
        record(tx, recorded.id, "entered_again", at=at, detail={"message": REINSERTED + lost})
        if ended is None:
            move(tx, recorded.id, JobState.HELD, at=at)
        else:
            move(tx, recorded.id, JobState.FAILED, at=at, reason=EndReason.DEPENDENCY_FAILED, message=ended)
        return True


def _insert_dependencies(tx: Transaction, recorded: RecordedJob) -> tuple[str | None, list[int]]:
    """Insert a job's dependencies; return a sentence if one has ended badly, and those that the store doesn't know."""
    ended, missing = None, []
    for parent in recorded.depends_on:
        rows = tx.query("SELECT state FROM jobs WHERE id = :id", id=parent)
        if not rows:
            missing.append(parent)
            continue
        tx.execute("INSERT INTO dependencies (job_id, depends_on) VALUES (:id, :parent)", id=recorded.id, parent=parent)
        if rows[0]["state"] in (JobState.FAILED, JobState.CANCELLED):
            ended = f"job {parent}, which it comes after, is {rows[0]['state']}"
    return ended, missing


def reinsert_attempt(
    db: Database, job_id: int, recorded: RecordedAttempt, end: RecordedEnd | None, *, at: float
) -> int | None:
    """Insert an attempt as ended, or, without an end, as claimed: the next reconcile pass has it adopted.

    None where it is too late: the job has succeeded, or a later attempt.
    """
    with db.transaction() as tx:
        job = get_job(tx, job_id)
        latest = tx.query("SELECT MAX(number) AS number FROM attempts WHERE job_id = :job_id", job_id=job_id)
        if job.state is JobState.SUCCEEDED or (latest[0]["number"] or 0) >= recorded.number:
            return None
        if job.state in (JobState.ADMITTED, JobState.RUNNING):
            return None  # its attempt has to end first
        if job.state is not JobState.QUEUED:
            move(tx, job_id, JobState.QUEUED, at=at, detail={"retry": job.state.ended, "message": REINSERTED})
        attempt_id = _insert_claimed(tx, job_id, recorded, keeps_memory=end is None)
        detail = {"device": recorded.device, "micro_batch": recorded.micro_batch, "message": REINSERTED}
        move(tx, job_id, JobState.ADMITTED, at=at, attempt_id=attempt_id, detail=detail)
    if end is not None:
        finish(db, attempt_id, end.outcome, at=end.ended_at)
    return attempt_id


def close_before(db: Database, job_id: int, number: int, ends: dict[int, RecordedEnd], *, at: float) -> None:
    """End the live attempts of a job before the given one: as their records say, or as lost."""
    for attempt in live(db):
        if attempt.job_id == job_id and attempt.number < number:
            end = ends.get(attempt.number)
            outcome = end.outcome if end else Outcome(reason=EndReason.LOST, message=LOST)
            finish(db, attempt.id, outcome, at=end.ended_at if end else at)


def hold_reinserted(db: Database, job_id: int, *, at: float) -> bool:
    """Hold a reinserted job that would otherwise begin another attempt; False if it would not."""
    with db.transaction() as tx:
        if get_job(tx, job_id).state is not JobState.QUEUED:
            return False
        move(tx, job_id, JobState.HELD, at=at)
        return True


def _insert_claimed(tx: Transaction, job_id: int, recorded: RecordedAttempt, *, keeps_memory: bool) -> int:
    reservations = _on_known_devices(tx, recorded.reservations) if keeps_memory else {}
    fields = {name: getattr(recorded, name) for name in RecordedAttempt.__struct_fields__ if name != "reservations"}
    values = fields | {
        "job_id": job_id,
        "state": AttemptState.CLAIMED.value,
        "reserved_bytes": sum((reservations if keeps_memory else recorded.reservations).values()),
    }
    attempt_id = _insert(tx, "attempts", values)
    make_latest(tx, job_id, attempt_id, reservations)
    return attempt_id


def _on_known_devices(reader: Reader, reservations: dict[str, int]) -> dict[str, int]:
    known = {row["id"] for row in reader.query("SELECT id FROM devices")}
    return {device_id: size for device_id, size in reservations.items() if device_id in known}


def _insert(tx: Transaction, table: str, values: dict[str, object]) -> int:
    columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    rows = tx.query(f"INSERT INTO {table} ({columns}) VALUES ({places}) RETURNING id", **values)  # noqa: S608
    return int(rows[0]["id"])
