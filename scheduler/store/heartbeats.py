"""Signs of life of the service's long-lived processes: one row each, replaced."""

import json
from typing import Any

from scheduler.store.database import Database, Reader
from scheduler.store.records import Heartbeat


def beat(
    db: Database,
    component: str,
    pid: int,
    pid_started: int,
    detail: dict[str, Any] | None = None,
    *,
    at: float,
) -> None:
    """Say that a component ("controller@host") lives, and what it has to say."""
    with db.transaction() as tx:
        tx.execute(
            "INSERT INTO heartbeats (component, pid, pid_started, at, detail)"
            " VALUES (:component, :pid, :pid_started, :at, :detail)"
            " ON CONFLICT (component) DO UPDATE SET pid = excluded.pid, pid_started = excluded.pid_started,"
            " at = excluded.at, detail = excluded.detail",
            component=component,
            pid=pid,
            pid_started=pid_started,
            at=at,
            detail=json.dumps(detail or {}),
        )


def all(db: Reader) -> list[Heartbeat]:  # noqa: A001  read as heartbeats.all
    return [Heartbeat.from_row(row) for row in db.query("SELECT * FROM heartbeats ORDER BY component")]
