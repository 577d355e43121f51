"""Traced footprints, cached by their key."""

from scheduler.store.database import Database, Reader
from scheduler.store.records import Footprint


def get(db: Reader, key: str) -> Footprint | None:
    rows = db.query("SELECT * FROM footprints WHERE key = :key", key=key)
    return Footprint.from_row(rows[0]) if rows else None


def put(db: Database, key: str, answer: str, *, at: float) -> None:
    """Store the tracer's answer (JSON) for a key; the latest one counts."""
    with db.transaction() as tx:
        tx.execute(
            "INSERT INTO footprints (key, answer, created_at, used_at) VALUES (:key, :answer, :at, :at)"
            " ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, created_at = excluded.created_at,"
            " used_at = excluded.used_at",
            key=key,
            answer=answer,
            at=at,
        )


def used(db: Database, key: str, *, at: float) -> None:
    """Note that a footprint was of use, for whoever clears out old ones."""
    with db.transaction() as tx:
        tx.execute("UPDATE footprints SET used_at = :at WHERE key = :key", key=key, at=at)
