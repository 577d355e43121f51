"""The audit finds what should never be: each invariant is broken behind the gate's back, and told."""

import pytest

from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, audit, jobs
from scheduler.store.database import Database
from scheduler.store.records import Record
from scheduler.store.transitions import IllegalTransition, move
from tests.store.samples import ends, queued, running


def _populate(db: Database) -> None:
    """Job 1 runs, 2 failed, 3 waits, 4 was cancelled and retried."""
    running(db, queued(db))
    failed = running(db, queued(db))
    attempts.finish(db, failed.id, ends(EndReason.BAD_DATA, exit_code=3), at=5.0)
    queued(db)
    fourth = queued(db)
    jobs.request_cancel(db, fourth.id, by="ada", at=6.0)
    jobs.retry(db, fourth.id, at=7.0)


def test_a_store_used_by_its_functions_is_in_order(db: Database) -> None:
    _populate(db)
    assert audit.violations(db) == []


NEW_EVENT = "INSERT INTO events (job_id, at, kind, from_state, to_state, detail) VALUES "


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE reservations SET reserved_bytes = 1", "live attempt 1 should hold"),
        ("DELETE FROM reservations", "its reservations sum to 0"),
        (
            "INSERT INTO reservations SELECT 2, device_id, 5 FROM reservations",
            "attempt 2 has ended, and still holds",
        ),
        ("UPDATE attempts SET state = 'ended', reason = 'lost', ended_at = 1 WHERE id = 1", "running without a live"),
        ("UPDATE attempts SET state = 'running' WHERE id = 2", "job 2 is failed, and its attempt 2 is alive"),
        ("UPDATE attempts SET reason = NULL WHERE id = 2", "attempt 2 ended without a reason"),
        ("UPDATE jobs SET reason = NULL WHERE id = 2", "job 2 is failed without a reason"),
        ("UPDATE jobs SET ended_at = 1 WHERE id = 3", "job 3 is queued, and carries the reason or time of an end"),
        ("UPDATE jobs SET attempt_id = NULL WHERE id = 1", "job 1 does not name its latest attempt"),
        ("UPDATE jobs SET state = 'held' WHERE id = 3", "job 3: its events end in queued, its state is held"),
        ("DELETE FROM events WHERE job_id = 3", "job 3: its events end in None"),
        (NEW_EVENT + "(3, 1, 'state', 'queued', 'succeeded', '{}')", "job 3: illegal move queued -> succeeded"),
        (NEW_EVENT + "(2, 1, 'state', 'failed', 'queued', '{}')", "job 2: illegal move failed -> queued"),
        (
            NEW_EVENT + "(3, 1, 'cancel_requested', NULL, NULL, '{}'), (3, 2, 'claimed', NULL, NULL, '{}')",
            "job 3: claimed after a cancel was acknowledged",
        ),
        ("INSERT INTO dependencies VALUES (3, 2)", "job 3 is queued, and waits for job 2, which ended badly"),
    ],
)
def test_what_should_never_be_is_told(db: Database, statement: str, told: str) -> None:
    _populate(db)
    with db.transaction() as tx:
        tx.execute(statement)
    assert any(told in line for line in audit.violations(db)), audit.violations(db)


def test_the_schema_itself_forbids_two_live_attempts(db: Database) -> None:
    attempt = running(db, queued(db))
    with pytest.raises(Exception, match=r"(?i)unique"), db.transaction() as tx:
        tx.execute(
            "INSERT INTO attempts (job_id, number, state, host, device, plan, micro_batch, accumulation_steps,"
            " reserved_bytes, admitted_at) VALUES (:job, 2, 'admitted', 'h', 'd', '{}', 1, 1, 1, 1.0)",
            job=attempt.job_id,
        )


def test_records_have_the_fields_of_the_tables() -> None:
    from scheduler.store.schema import Table

    tables = {mapper.class_.__name__: mapper.columns.keys() for mapper in Table.registry.mappers}
    records = {record.__name__: list(record.__struct_fields__) for record in Record.__subclasses__()}
    assert records == {name: columns for name, columns in tables.items() if name != "Dependency"}


def test_moves_out_of_an_end_need_a_retry(db: Database) -> None:
    _populate(db)
    with pytest.raises(IllegalTransition, match=r"job 2 is failed.*failed \(bad_data\)"), db.transaction() as tx:
        move(tx, 2, JobState.QUEUED, at=9.0)
    assert audit.violations(db) == []
