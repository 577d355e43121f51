"""The gate: the only code that writes `jobs.state`, and with each write its event row, in the same transaction.

When a job fails or is cancelled, every job that depends on it fails in the same transaction.
"""

import json
from typing import Any, NamedTuple

from scheduler.errors import MmqError
from scheduler.jobs.states import MOVES, EndReason, JobState, WaitCode
from scheduler.store.database import Reader, Row, Transaction

NEW = "not considered yet"
# SQL: the id of the event by which a person queued a job, :job_id, again; 0 if nobody did.
RETRIED = (
    "(SELECT COALESCE(MAX(id), 0) FROM events WHERE job_id = :job_id AND kind = 'state'"
    " AND from_state IN ('failed', 'cancelled'))"
)
HELD = "held; `mmq release` lets it go"


class IllegalTransition(MmqError):
    """A move that no rule allows: always a bug, so the message includes the job's states so far."""


class _Step(NamedTuple):
    job_id: int
    to: JobState
    reason: EndReason | None
    message: str | None


def move(
    tx: Transaction,
    job_id: int,
    to: JobState,
    *,
    at: float,
    reason: EndReason | None = None,
    message: str | None = None,
    attempt_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Change a job's state and write the event; after a bad end, fail the jobs that depend on it, and theirs.

    Raises IllegalTransition; an end without a reason is one.
    """
    _move_one(tx, _Step(job_id, to, reason, message), at=at, attempt_id=attempt_id, detail=detail)
    pending = [job_id] if to in (JobState.FAILED, JobState.CANCELLED) else []
    while pending:
        ended = pending.pop()
        for step in _failing_with(tx, ended):
            _move_one(tx, step, at=at, attempt_id=None, detail={"depends_on": ended})
            pending.append(step.job_id)


def record(
    tx: Transaction,
    job_id: int,
    kind: str,
    *,
    at: float,
    attempt_id: int | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write an event that is no change of state."""
    _write_event(tx, job_id, kind, at=at, attempt_id=attempt_id, states=(None, None), detail=detail)


def enter(tx: Transaction, job_id: int, state: JobState, *, at: float) -> None:
    """Write the first event of a job that has just been inserted in a state."""
    _write_event(tx, job_id, "state", at=at, attempt_id=None, states=(None, state), detail=None)


def _move_one(
    tx: Transaction, step: _Step, *, at: float, attempt_id: int | None, detail: dict[str, Any] | None
) -> None:
    rows = tx.query("SELECT state FROM jobs WHERE id = :job_id", job_id=step.job_id)
    if not rows:
        raise IllegalTransition(f"there is no job {step.job_id} to become {step.to}")
    old = JobState(rows[0]["state"])
    unasked = old.ended and not (detail or {}).get("retry")  # only a person takes a job out of its end
    if step.to not in MOVES[old] or unasked or (step.to.ended and step.reason is None):
        raise IllegalTransition(f"job {step.job_id} is {old}: it can't become {step.to}. {_history(tx, step.job_id)}")
    tx.execute(
        "UPDATE jobs SET state = :state, reason = :reason, message = :message,"
        " waiting_code = :waiting_code, waiting = :waiting WHERE id = :job_id",
        job_id=step.job_id,
        state=step.to.value,
        reason=step.reason.value if step.reason and step.to.ended else None,
        message=step.message if step.to.ended else None,
        **_waiting(step),
    )
    _write_times(tx, step, old, at)
    detail = {**(detail or {})}
    detail |= {"reason": step.reason.value} if step.reason else {}
    detail |= {"message": step.message} if step.message else {}
    _write_event(tx, step.job_id, "state", at=at, attempt_id=attempt_id, states=(old, step.to), detail=detail)


def _waiting(step: _Step) -> dict[str, str | None]:
    if step.to is JobState.QUEUED:
        code = WaitCode.REQUEUED if step.message else WaitCode.NEW
        return {"waiting_code": code.value, "waiting": step.message or NEW}
    if step.to is JobState.HELD:
        return {"waiting_code": WaitCode.HELD.value, "waiting": HELD}
    return {"waiting_code": None, "waiting": None}


def _write_times(tx: Transaction, step: _Step, old: JobState, at: float) -> None:
    if step.to is JobState.RUNNING:
        tx.execute(
            "UPDATE jobs SET started_at = :at WHERE id = :job_id AND started_at IS NULL",
            at=at,
            job_id=step.job_id,
        )
    elif step.to.ended or old.ended:
        ended_at = at if step.to.ended else None
        tx.execute("UPDATE jobs SET ended_at = :ended_at WHERE id = :job_id", ended_at=ended_at, job_id=step.job_id)


def _failing_with(tx: Transaction, ended: int) -> list[_Step]:
    """The jobs that wait for one that has just ended badly."""
    rows = tx.query(
        "SELECT waiting.id, parent.name, parent.state, parent.message"
        " FROM dependencies JOIN jobs waiting ON waiting.id = dependencies.job_id"
        " JOIN jobs parent ON parent.id = dependencies.depends_on"
        " WHERE dependencies.depends_on = :ended AND waiting.state IN ('queued', 'held') ORDER BY waiting.id",
        ended=ended,
    )
    return [_Step(row["id"], JobState.FAILED, EndReason.DEPENDENCY_FAILED, _blame(ended, row)) for row in rows]


def _blame(job_id: int, row: Row) -> str:
    why = f": {row['message']}" if row["message"] else ""
    end = "failed" if row["state"] == JobState.FAILED else "was cancelled"
    return f"job {job_id} ({row['name']}), which it comes after, {end}{why}"[:500]


def _write_event(
    tx: Transaction,
    job_id: int,
    kind: str,
    *,
    at: float,
    attempt_id: int | None,
    states: tuple[JobState | None, JobState | None],
    detail: dict[str, Any] | None,
) -> None:
    old, new = states
    tx.execute(
        "INSERT INTO events (job_id, attempt_id, at, kind, from_state, to_state, detail)"
        " VALUES (:job_id, :attempt_id, :at, :kind, :old, :new, :detail)",
        job_id=job_id,
        attempt_id=attempt_id,
        at=at,
        kind=kind,
        old=old.value if old else None,
        new=new.value if new else None,
        detail=json.dumps(detail or {}),
    )


def _history(reader: Reader, job_id: int) -> str:
    """A job's states so far, in one line."""
    rows = reader.query(
        "SELECT to_state, detail FROM events WHERE job_id = :job_id AND kind = 'state' ORDER BY id",
        job_id=job_id,
    )
    steps = []
    for row in rows:
        reason = json.loads(row["detail"]).get("reason")
        steps.append(f"{row['to_state']} ({reason})" if reason else str(row["to_state"]))
    return "Its story: " + (" -> ".join(steps) or "none")
