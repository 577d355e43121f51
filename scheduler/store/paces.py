"""How fast each configuration was last seen to go, alone and beside one other."""

from collections.abc import Iterable

from scheduler.admission.colocation import ALONE, StepTime
from scheduler.store.database import Database, Reader

ALONE_SECONDS = 7 * 86400.0  # for which it counts
TOGETHER_SECONDS = 86400.0  # then the two may be tried again


def seen(db: Reader, *, now: float) -> list[StepTime]:
    """Read the paces that have not expired."""
    rows = db.query(
        "SELECT configuration, beside, seconds_per_step FROM paces"
        " WHERE at >= CASE WHEN beside = :alone THEN :alone_since ELSE :together_since END",
        alone=ALONE,
        alone_since=now - ALONE_SECONDS,
        together_since=now - TOGETHER_SECONDS,
    )
    return [StepTime(**row) for row in rows]


def note(db: Database, observed: Iterable[StepTime], *, at: float) -> None:
    """Write the paces observed over those before, and delete those that have expired."""
    with db.transaction() as tx:
        for pace in observed:
            tx.execute(
                "INSERT INTO paces (configuration, beside, seconds_per_step, at)"
                " VALUES (:configuration, :beside, :seconds, :at) ON CONFLICT (configuration, beside)"
                " DO UPDATE SET seconds_per_step = excluded.seconds_per_step, at = excluded.at",
                configuration=pace.configuration,
                beside=pace.beside,
                seconds=pace.seconds_per_step,
                at=at,
            )
        tx.execute("DELETE FROM paces WHERE at < :since", since=at - ALONE_SECONDS)
