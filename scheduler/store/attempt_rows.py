"""Rows of attempts: reads and writes shared by the modules that change attempts. Decides nothing."""

from collections.abc import Mapping
from typing import Any

from scheduler.errors import MmqError
from scheduler.jobs.states import AttemptState, EndReason
from scheduler.store.database import Reader, Transaction
from scheduler.store.records import Attempt

PEAKS = ("measured_allocated_bytes", "measured_reserved_bytes", "measured_process_bytes")


def get(db: Reader, attempt_id: int) -> Attempt:
    rows = db.query("SELECT * FROM attempts WHERE id = :attempt_id", attempt_id=attempt_id)
    if not rows:
        raise MmqError(f"there is no attempt {attempt_id}", hint="mmq status --all")
    return Attempt.from_row(rows[0])


def live(db: Reader, host: str | None = None) -> list[Attempt]:
    """Attempts that have not ended, of one host or of all."""
    rows = db.query("SELECT * FROM attempts WHERE state <> 'ended'")  # sorted by SQL, it would read all that ended
    rows.sort(key=lambda row: int(row["id"]))
    return [Attempt.from_row(row) for row in rows if host is None or row["host"] == host]


def of_job(db: Reader, job_id: int) -> list[Attempt]:
    """A job's attempts, the first one first."""
    rows = db.query("SELECT * FROM attempts WHERE job_id = :job_id ORDER BY number", job_id=job_id)
    return [Attempt.from_row(row) for row in rows]


def same(db: Reader, attempt: Attempt) -> Attempt | None:
    """Find the row of this very attempt by job, number and time of admission: its id may be another's by now."""
    rows = db.query(
        "SELECT * FROM attempts WHERE job_id = :job_id AND number = :number AND admitted_at = :admitted_at",
        job_id=attempt.job_id,
        number=attempt.number,
        admitted_at=attempt.admitted_at,
    )
    return Attempt.from_row(rows[0]) if rows else None


def reserved(db: Reader, attempt_id: int) -> dict[str, int]:
    """What a live attempt was promised, by device id."""
    rows = db.query("SELECT * FROM reservations WHERE attempt_id = :attempt_id", attempt_id=attempt_id)
    return {row["device_id"]: row["reserved_bytes"] for row in rows}


def make_latest(tx: Transaction, job_id: int, attempt_id: int, reservations: Mapping[str, int]) -> None:
    """Make a new attempt its job's latest, with its reservations: device id -> bytes."""
    for device_id, reserved_bytes in reservations.items():
        tx.execute(
            "INSERT INTO reservations (attempt_id, device_id, reserved_bytes)"
            " VALUES (:attempt_id, :device_id, :reserved_bytes)",
            attempt_id=attempt_id,
            device_id=device_id,
            reserved_bytes=reserved_bytes,
        )
    tx.execute("UPDATE jobs SET attempt_id = :attempt_id WHERE id = :job_id", attempt_id=attempt_id, job_id=job_id)


def updates(attempt: Attempt, values: dict[str, Any]) -> dict[str, Any]:
    """The columns to write: those with a value; a peak never falls below the one in the row."""
    columns = {name: value for name, value in values.items() if value is not None}
    for name in PEAKS:
        if name in columns:
            columns[name] = max(columns[name], getattr(attempt, name) or 0)
    return columns


def write(tx: Transaction, attempt_id: int, values: dict[str, Any]) -> None:
    columns = ", ".join(f"{name} = :{name}" for name in values)
    tx.execute(f"UPDATE attempts SET {columns} WHERE id = :attempt_id", attempt_id=attempt_id, **values)  # noqa: S608


def end(tx: Transaction, attempt_id: int, *, reason: EndReason, message: str | None, at: float, **more: object) -> None:
    """Close an attempt, and give back the memory it was promised."""
    values = {"state": AttemptState.ENDED.value, "ended_at": at, "reason": reason.value, "message": message}
    write(tx, attempt_id, more | values)
    tx.execute("DELETE FROM reservations WHERE attempt_id = :attempt_id", attempt_id=attempt_id)
