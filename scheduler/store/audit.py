"""The store's invariants, checked from outside. For tests and `mmq doctor`; reads only."""

import json
from collections import defaultdict

from scheduler.jobs.states import MOVES, JobState
from scheduler.store.database import Database, Reader, Row

LATEST = "(SELECT MAX(attempts.id) FROM attempts WHERE attempts.job_id = jobs.id)"
NAMES_ANOTHER = f"COALESCE(attempt_id, 0) <> COALESCE({LATEST}, 0)"  # of a job

# Queries that must return nothing, and what to say of each row that one returns.
QUERIES = (
    (
        "SELECT attempts.id, attempts.reserved_bytes AS said,"
        " CAST(COALESCE(SUM(r.reserved_bytes), 0) AS BIGINT) AS held"
        " FROM attempts LEFT JOIN reservations r ON r.attempt_id = attempts.id WHERE attempts.state <> 'ended'"
        " GROUP BY attempts.id, attempts.reserved_bytes"
        " HAVING attempts.reserved_bytes <> COALESCE(SUM(r.reserved_bytes), 0)",
        "live attempt {id} should hold {said} bytes, and its reservations sum to {held}",
    ),
    (
        "SELECT r.attempt_id, r.device_id FROM reservations r JOIN attempts ON attempts.id = r.attempt_id"
        " WHERE attempts.state = 'ended'",
        "attempt {attempt_id} has ended, and still holds memory of {device_id}",
    ),
    (
        "SELECT job_id, COUNT(*) AS live FROM attempts WHERE state <> 'ended' GROUP BY job_id HAVING COUNT(*) > 1",
        "job {job_id} has {live} live attempts",
    ),
    (
        "SELECT id, state FROM jobs WHERE state IN ('admitted', 'running') AND NOT EXISTS"
        " (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND attempts.state <> 'ended')",
        "job {id} is {state} without a live attempt",
    ),
    (
        "SELECT jobs.id, jobs.state, attempts.id AS attempt_id FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE attempts.state <> 'ended' AND jobs.state NOT IN ('admitted', 'running')",
        "job {id} is {state}, and its attempt {attempt_id} is alive",
    ),
    (
        "SELECT id, state FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled')"
        " AND (reason IS NULL OR ended_at IS NULL)",
        "job {id} is {state} without a reason or a time",
    ),
    (
        "SELECT id, state FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
        " AND (reason IS NOT NULL OR ended_at IS NOT NULL)",
        "job {id} is {state}, and carries the reason or time of an end",
    ),
    (
        "SELECT id FROM attempts WHERE state = 'ended' AND (reason IS NULL OR ended_at IS NULL)",
        "attempt {id} ended without a reason or a time",
    ),
    (
        f"SELECT id FROM jobs WHERE {NAMES_ANOTHER}",  # noqa: S608  ours
        "job {id} does not name its latest attempt",
    ),
    (
        "SELECT jobs.id, jobs.state, d.depends_on FROM dependencies d JOIN jobs ON jobs.id = d.job_id"
        " JOIN jobs parent ON parent.id = d.depends_on"
        " WHERE parent.state IN ('failed', 'cancelled') AND jobs.state NOT IN ('failed', 'cancelled')",
        "job {id} is {state}, and waits for job {depends_on}, which ended badly",
    ),
)


def violations(db: Database) -> list[str]:
    """Everything in the store that should never be; empty when all is well."""
    with db.snapshot() as reader:
        broken = [sentence.format(**row) for statement, sentence in QUERIES for row in reader.query(statement)]
        broken += _illegal_paths(reader)
    return broken + [f"integrity: {line}" for line in db.integrity()]


def _illegal_paths(reader: Reader) -> list[str]:
    events: dict[int, list[Row]] = defaultdict(list)
    for event in reader.query(
        "SELECT job_id, kind, from_state, to_state, detail FROM events"
        " WHERE kind IN ('state', 'cancel_requested', 'claimed') ORDER BY id"
    ):
        events[event["job_id"]].append(event)
    illegal = []
    for job in reader.query("SELECT id, state FROM jobs ORDER BY id"):
        wrong = _first_illegal(events.pop(job["id"], []), job["state"])
        if wrong:
            illegal.append(f"job {job['id']}: {wrong}")
    return illegal + [f"events of a job {job_id} that is not there" for job_id in events]


def _first_illegal(events: list[Row], state: str) -> str | None:
    """Walk a job's events; return what is wrong with the first that no rule allows."""
    now: str | None = None
    cancelling = False
    for event in events:
        if event["kind"] == "cancel_requested":
            cancelling = True
            continue
        if cancelling and (event["kind"] == "claimed" or event["to_state"] == JobState.ADMITTED):
            return f"{event['to_state'] or event['kind']} after a cancel was acknowledged"
        if event["kind"] == "state":
            if not _legal(now, event):
                return f"illegal move {event['from_state']} -> {event['to_state']} while {now}"
            cancelling = cancelling and not _is_retry(event)
            now = event["to_state"]
    return None if now == state else f"its events end in {now}, its state is {state}"


def _legal(now: str | None, event: Row) -> bool:
    if event["from_state"] != now:
        return False
    if now is None:
        return event["to_state"] in (JobState.QUEUED, JobState.HELD)
    if JobState(now).ended and not _is_retry(event):
        return False
    return event["to_state"] in MOVES[JobState(now)]


def _is_retry(event: Row) -> bool:
    return bool(json.loads(event["detail"]).get("retry"))
