"""Broken invariants that can be repaired without a decision: memory held by ended attempts, a wrong pointer."""

from scheduler.store.audit import LATEST, NAMES_ANOTHER
from scheduler.store.database import Database

_REPAIRS = (
    (
        "DELETE FROM reservations WHERE attempt_id IN (SELECT id FROM attempts WHERE state = 'ended')"
        " RETURNING attempt_id, device_id",
        "released the memory that attempt {attempt_id}, which has ended, held on {device_id}",
    ),
    (
        f"UPDATE jobs SET attempt_id = {LATEST} WHERE {NAMES_ANOTHER} RETURNING id",  # noqa: S608  ours
        "pointed job {id} to its latest attempt",
    ),
)


def repair(db: Database) -> list[str]:
    """Repair what can be repaired; return a sentence for each repair."""
    with db.transaction() as tx:
        return [sentence.format(**row) for statement, sentence in _REPAIRS for row in tx.query(statement)]
