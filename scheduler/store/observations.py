"""Observations of attempts that change no state: peaks that a device shows, the trainer's events, a worker that can't
be reached.
"""

from collections.abc import Sequence
from typing import Any

from scheduler.store.database import Database, Reader
from scheduler.store.records import Attempt
from scheduler.store.transitions import record

NOTES_KEPT = 20  # of a kind and attempt: a long run saves many checkpoints, and the event log is for people


def raise_process_peaks(db: Database, seen: Sequence[tuple[Attempt, int]]) -> None:
    """Raise the measured process peak of attempts, as they ran then, where a device shows more bytes."""
    higher = [(attempt, size) for attempt, size in seen if size > (attempt.measured_process_bytes or 0)]
    if not higher:
        return
    with db.transaction() as tx:
        for attempt, process_bytes in higher:
            tx.execute(
                "UPDATE attempts SET measured_process_bytes = :bytes WHERE id = :attempt_id AND state <> 'ended'"
                " AND micro_batch = :micro_batch AND COALESCE(measured_process_bytes, 0) < :bytes",
                bytes=process_bytes,
                attempt_id=attempt.id,
                micro_batch=attempt.micro_batch,
            )


def explain_admitted(db: Database, job_id: int, why: tuple[str, str] | None) -> None:
    """Say why an admitted job has not started yet, as (code, sentence); None takes it back."""
    code, sentence = why or (None, None)
    with db.transaction() as tx:
        tx.execute(
            "UPDATE jobs SET waiting_code = :code, waiting = :sentence WHERE id = :job_id AND state = 'admitted'",
            code=code,
            sentence=sentence,
            job_id=job_id,
        )


def note(db: Database, attempt: Attempt, kind: str, detail: dict[str, Any], *, at: float) -> None:
    """Put an event of the trainer's into the event log; of each kind the latest are kept."""
    with db.transaction() as tx:
        record(tx, attempt.job_id, kind, at=at, attempt_id=attempt.id, detail=detail)
        tx.execute(
            "DELETE FROM events WHERE job_id = :job_id AND attempt_id = :attempt_id AND kind = :kind AND id NOT IN"
            " (SELECT id FROM events WHERE job_id = :job_id AND attempt_id = :attempt_id AND kind = :kind"
            " ORDER BY id DESC LIMIT :kept)",
            job_id=attempt.job_id,
            attempt_id=attempt.id,
            kind=kind,
            kept=NOTES_KEPT,
        )


def noted_until(db: Reader, attempt: Attempt, kinds: frozenset[str]) -> float | None:
    """When the latest of the trainer's events in the log happened; None if there is none."""
    rows = db.query(
        "SELECT kind, at FROM events WHERE job_id = :job_id AND attempt_id = :attempt_id",
        job_id=attempt.job_id,
        attempt_id=attempt.id,
    )
    return max((float(row["at"]) for row in rows if row["kind"] in kinds), default=None)
