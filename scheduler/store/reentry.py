"""Telling the store again what it lost: jobs and attempts of which the run directories know more than it does.

So it is after a backup was put in its place. Every state goes through the gate; nothing that the store knows is
changed but by what came after it.
"""

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store.attempt_rows import live, make_latest
from scheduler.store.attempts import finish
from scheduler.store.database import Database, Reader, Transaction
from scheduler.store.jobs import get as get_job
from scheduler.store.keepsakes import KeptAttempt, KeptEnd, KeptJob
from scheduler.store.records import Outcome
from scheduler.store.transitions import enter, move, record

LOST = "ended while the store did not know of it"
HOLDS = "entered again from its run directory"


def reenter_job(db: Database, kept: KeptJob, *, at: float) -> bool:
    """Enter a job under its own id; False if the store knows one of that id.

    Held: what was asked of it since, a cancel perhaps, is lost, so a person decides.
    """
    with db.transaction() as tx:
        if tx.query("SELECT id FROM jobs WHERE id = :id", id=kept.id):
            return False
        asked = (name for name in KeptJob.__struct_fields__ if name != "depends_on")
        values: dict[str, object] = {name: getattr(kept, name) for name in asked}
        if tx.query("SELECT id FROM jobs WHERE submit_key = :key", key=kept.submit_key):
            values["submit_key"] = None  # submitted again since
        values |= {"state": JobState.QUEUED.value, "out_of_memory_retries": 0, "crash_retries": 0}
        _insert(tx, "jobs", values)
        enter(tx, kept.id, JobState.QUEUED, at=kept.submitted_at)
        ended, missing = _depend(tx, kept)
        told = f"; it came after what is lost: job {', '.join(map(str, missing))}" if missing else ""
        record(tx, kept.id, "entered_again", at=at, detail={"message": HOLDS + told})
        if ended is None:
            move(tx, kept.id, JobState.HELD, at=at)
        else:
            move(tx, kept.id, JobState.FAILED, at=at, reason=EndReason.DEPENDENCY_FAILED, message=ended)
        return True


def _depend(tx: Transaction, kept: KeptJob) -> tuple[str | None, list[int]]:
    """Have a job come after what it was to come after; which of that ended badly, and which is not there any more."""
    ended, missing = None, []
    for parent in kept.depends_on:
        rows = tx.query("SELECT state FROM jobs WHERE id = :id", id=parent)
        if not rows:
            missing.append(parent)
            continue
        tx.execute("INSERT INTO dependencies (job_id, depends_on) VALUES (:id, :parent)", id=kept.id, parent=parent)
        if rows[0]["state"] in (JobState.FAILED, JobState.CANCELLED):
            ended = f"job {parent}, which it comes after, is {rows[0]['state']}"
    return ended, missing


def reenter_attempt(db: Database, job_id: int, kept: KeptAttempt, end: KeptEnd | None, *, at: float) -> int | None:
    """Enter an attempt as ended, or, without an end, as claimed: the next reconcile pass has it adopted.

    None where it is too late: the job has succeeded, or a later attempt.
    """
    with db.transaction() as tx:
        job = get_job(tx, job_id)
        latest = tx.query("SELECT MAX(number) AS number FROM attempts WHERE job_id = :job_id", job_id=job_id)
        if job.state is JobState.SUCCEEDED or (latest[0]["number"] or 0) >= kept.number:
            return None
        if job.state in (JobState.ADMITTED, JobState.RUNNING):
            return None  # its attempt has to end first
        if job.state is not JobState.QUEUED:
            move(tx, job_id, JobState.QUEUED, at=at, detail={"retry": job.state.ended, "message": HOLDS})
        attempt_id = _claimed(tx, job_id, kept, keeps_memory=end is None)
        detail = {"device": kept.device, "micro_batch": kept.micro_batch, "message": HOLDS}
        move(tx, job_id, JobState.ADMITTED, at=at, attempt_id=attempt_id, detail=detail)
    if end is not None:
        finish(db, attempt_id, end.outcome, at=end.ended_at)
    return attempt_id


def close_before(db: Database, job_id: int, number: int, ends: dict[int, KeptEnd], *, at: float) -> None:
    """End what the store takes for alive of a job, where a later attempt was made: by its record, or as lost."""
    for attempt in live(db):
        if attempt.job_id == job_id and attempt.number < number:
            end = ends.get(attempt.number)
            outcome = end.outcome if end else Outcome(reason=EndReason.LOST, message=LOST)
            finish(db, attempt.id, outcome, at=end.ended_at if end else at)


def hold_entered(db: Database, job_id: int, *, at: float) -> bool:
    """Hold a job that was entered anew and would begin another attempt; False if it would not."""
    with db.transaction() as tx:
        if get_job(tx, job_id).state is not JobState.QUEUED:
            return False
        move(tx, job_id, JobState.HELD, at=at)
        return True


def _claimed(tx: Transaction, job_id: int, kept: KeptAttempt, *, keeps_memory: bool) -> int:
    promised = _known(tx, kept.reservations) if keeps_memory else {}
    own = {name: getattr(kept, name) for name in KeptAttempt.__struct_fields__ if name != "reservations"}
    values = own | {
        "job_id": job_id,
        "state": AttemptState.CLAIMED.value,
        "reserved_bytes": sum((promised if keeps_memory else kept.reservations).values()),
    }
    attempt_id = _insert(tx, "attempts", values)
    make_latest(tx, job_id, attempt_id, promised)
    return attempt_id


def _known(reader: Reader, reservations: dict[str, int]) -> dict[str, int]:
    known = {row["id"] for row in reader.query("SELECT id FROM devices")}
    return {device_id: size for device_id, size in reservations.items() if device_id in known}


def _insert(tx: Transaction, table: str, values: dict[str, object]) -> int:
    columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    rows = tx.query(f"INSERT INTO {table} ({columns}) VALUES ({places}) RETURNING id", **values)  # noqa: S608
    return int(rows[0]["id"])
