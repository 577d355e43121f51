"""What the controller sees of live attempts from outside: memory that a device shows, a worker that can't be told."""

from collections.abc import Mapping

from scheduler.store.database import Database


def raise_process_peaks(db: Database, peaks: Mapping[int, int]) -> None:
    """Raise the measured process peak of attempts (id to bytes) where a device shows more than is known."""
    if not peaks:
        return
    with db.transaction() as tx:
        for attempt_id, process_bytes in peaks.items():
            tx.execute(
                "UPDATE attempts SET measured_process_bytes = :bytes WHERE id = :attempt_id AND state <> 'ended'"
                " AND COALESCE(measured_process_bytes, 0) < :bytes",
                bytes=process_bytes,
                attempt_id=attempt_id,
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
