"""Traced footprints, cached by their key."""

from scheduler.store.database import Database, Reader
from scheduler.store.records import Footprint

KEPT = 1000  # each is some ten kilobytes; one that was put aside is traced again


def get(db: Reader, key: str) -> Footprint | None:
    rows = db.query("SELECT * FROM footprints WHERE key = :key", key=key)
    return Footprint.from_row(rows[0]) if rows else None


def put(db: Database, key: str, answer: str, *, at: float) -> None:
    """Store the tracer's answer (JSON) for a key; the latest one counts, and the latest keys are kept."""
    with db.transaction() as tx:
        tx.execute(
            "INSERT INTO footprints (key, answer, created_at) VALUES (:key, :answer, :at)"
            " ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, created_at = excluded.created_at",
            key=key,
            answer=answer,
            at=at,
        )
        tx.execute(
            "DELETE FROM footprints WHERE key NOT IN"
            " (SELECT key FROM footprints ORDER BY created_at DESC, key LIMIT :kept)",
            kept=KEPT,
        )
