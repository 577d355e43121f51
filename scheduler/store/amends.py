"""What of a broken invariant can be put right without deciding anything: memory of the dead, a wrong pointer."""

from scheduler.store.audit import LATEST, NAMES_ANOTHER
from scheduler.store.database import Database

_AMENDS = (
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


def amend(db: Database) -> list[str]:
    """Put right what can be; what was done, a sentence each."""
    with db.transaction() as tx:
        return [sentence.format(**row) for statement, sentence in _AMENDS for row in tx.query(statement)]
