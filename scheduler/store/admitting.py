"""Admission's effect: memory reserved and the next attempt made, in one transaction, or nothing at all."""

import json

from scheduler.failpoints import failpoint
from scheduler.jobs.means import in_words
from scheduler.jobs.states import JobState
from scheduler.store.attempt_rows import get, make_latest
from scheduler.store.database import Database, Transaction
from scheduler.store.records import Attempt, NewAttempt
from scheduler.store.transitions import move


def admit(db: Database, job_id: int, new: NewAttempt, *, at: float) -> Attempt | None:
    """Reserve memory and make the job's next attempt; None if the job or the memory is no longer to be had."""
    with db.transaction() as tx:
        if not _admissible(tx, job_id) or not _there_is_room(tx, new):
            return None
        attempt_id = _insert(tx, job_id, new, at)
        make_latest(tx, job_id, attempt_id, new.reservations)
        detail = {
            "device": new.device,
            "micro_batch": new.micro_batch,
            "accumulation_steps": new.accumulation_steps,
            "reserved_bytes": sum(new.reservations.values()),
            "means": ", ".join(in_words(json.loads(new.plan) | {"chunked_loss": False})) or None,
        }
        move(tx, job_id, JobState.ADMITTED, at=at, attempt_id=attempt_id, detail=detail)
        failpoint("admission.reserved")
        return get(tx, attempt_id)


def _admissible(tx: Transaction, job_id: int) -> bool:
    return bool(
        tx.query(
            "SELECT id FROM jobs WHERE id = :job_id AND state = 'queued' AND cancel_requested_at IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM dependencies JOIN jobs parent ON parent.id = dependencies.depends_on"
            " WHERE dependencies.job_id = jobs.id AND parent.state <> 'succeeded')",
            job_id=job_id,
        )
    )


def _there_is_room(tx: Transaction, new: NewAttempt) -> bool:
    for device_id, reserved_bytes in new.reservations.items():
        if promised_bytes(tx, device_id) + reserved_bytes > new.device_limits[device_id]:
            return False
    return True


def promised_bytes(tx: Transaction, device_id: str) -> int:
    """Sum what all live attempts were promised of a device."""
    rows = tx.query(
        "SELECT CAST(COALESCE(SUM(reserved_bytes), 0) AS BIGINT) AS promised"
        " FROM reservations WHERE device_id = :device_id",
        device_id=device_id,
    )
    return int(rows[0]["promised"])


def _insert(tx: Transaction, job_id: int, new: NewAttempt, at: float) -> int:
    rows = tx.query(
        "INSERT INTO attempts (job_id, number, state, host, device, plan, micro_batch, accumulation_steps,"
        " reserved_bytes, predicted_allocated_bytes, predicted_reserved_bytes, predicted_process_bytes, admitted_at)"
        " VALUES (:job_id, (SELECT COALESCE(MAX(number), 0) + 1 FROM attempts WHERE job_id = :job_id), 'admitted',"
        " :host, :device, :plan, :micro_batch, :accumulation_steps,"
        " :reserved_bytes, :allocated, :reserved, :process, :at) RETURNING id",
        job_id=job_id,
        host=new.host,
        device=new.device,
        plan=new.plan,
        micro_batch=new.micro_batch,
        accumulation_steps=new.accumulation_steps,
        reserved_bytes=sum(new.reservations.values()),
        allocated=new.predicted_allocated_bytes,
        reserved=new.predicted_reserved_bytes,
        process=new.predicted_process_bytes,
        at=at,
    )
    return int(rows[0]["id"])
