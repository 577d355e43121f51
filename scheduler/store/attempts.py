"""Attempts: admitted with their memory reserved, claimed by one worker, started, watched, and ended once.

A race is decided by compare-and-swap on the attempt's state, in the transaction that also moves the job.
"""

import msgspec

from scheduler.errors import MmqError
from scheduler.failpoints import failpoint
from scheduler.jobs.states import AttemptState, JobState
from scheduler.store.admitting import admit as admit
from scheduler.store.attempt_rows import get as get
from scheduler.store.attempt_rows import live as live
from scheduler.store.attempt_rows import of_job as of_job
from scheduler.store.attempt_rows import reserved as reserved
from scheduler.store.attempt_rows import same as same
from scheduler.store.attempt_rows import updates, write
from scheduler.store.database import Database, Transaction
from scheduler.store.finishing import finish as finish
from scheduler.store.jobs import get as get_job
from scheduler.store.plans import change_plan
from scheduler.store.records import Attempt, Orders, Progress
from scheduler.store.resizing import Resize as Resize
from scheduler.store.resizing import acknowledge, resizing
from scheduler.store.resizing import request_resize as request_resize
from scheduler.store.transitions import move, record


def claim(db: Database, attempt_id: int, *, at: float, boot_id: str | None = None) -> Attempt | None:
    """Win an admitted attempt; None if another worker has, or it must not be started any more.

    The boot id reveals a reboot that happens before the attempt's shim has registered.
    """
    with db.transaction() as tx:
        rows = tx.query(
            "UPDATE attempts SET state = 'claimed', claimed_at = :at, boot_id = :boot_id"
            " WHERE id = :attempt_id AND state = 'admitted' AND stop_requested_at IS NULL AND EXISTS"
            " (SELECT 1 FROM jobs WHERE jobs.id = attempts.job_id AND jobs.cancel_requested_at IS NULL) RETURNING *",
            at=at,
            boot_id=boot_id,
            attempt_id=attempt_id,
        )
        if not rows:
            return None
        attempt = Attempt.from_row(rows[0])
        record(tx, attempt.job_id, "claimed", at=at, attempt_id=attempt_id)
        failpoint("claim.updated")
        return attempt


def shim_alive(db: Database, attempt_id: int, *, shim_pid: int, shim_started: int, boot_id: str, at: float) -> Orders:
    """Register the shim of an attempt; return its orders, which it reads before it starts the trainer."""
    with db.transaction() as tx:
        tx.execute(
            "UPDATE attempts SET shim_pid = :pid, shim_started = :started, boot_id = :boot_id, heartbeat_at = :at"
            " WHERE id = :attempt_id AND state <> 'ended'",
            pid=shim_pid,
            started=shim_started,
            boot_id=boot_id,
            at=at,
            attempt_id=attempt_id,
        )
        return _orders(tx, attempt_id)


def started(
    db: Database,
    attempt_id: int,
    *,
    pid: int,
    pid_started: int,
    shim_pid: int,
    shim_started: int,
    boot_id: str,
    at: float,
) -> Orders:
    """Record that the trainer has started. Idempotent; an attempt that has ended is left alone."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is AttemptState.ADMITTED:
            raise MmqError(f"attempt {attempt_id} was started by a shim that never claimed it", hint="mmq doctor")
        if attempt.state is not AttemptState.ENDED:
            tx.execute(
                "UPDATE attempts SET state = 'running', pid = :pid, pid_started = :pid_started, shim_pid = :shim_pid,"
                " shim_started = :shim_started, boot_id = :boot_id, heartbeat_at = :at,"
                " started_at = COALESCE(started_at, :at) WHERE id = :attempt_id",
                pid=pid,
                pid_started=pid_started,
                shim_pid=shim_pid,
                shim_started=shim_started,
                boot_id=boot_id,
                at=at,
                attempt_id=attempt_id,
            )
            if get_job(tx, attempt.job_id).state is JobState.ADMITTED:
                move(tx, attempt.job_id, JobState.RUNNING, at=at, attempt_id=attempt_id, detail={"pid": pid})
            failpoint("start.updated")
        return _orders(tx, attempt_id)


def heartbeat(db: Database, attempt_id: int, progress: Progress, *, at: float) -> Orders:
    """Write an attempt's progress; return what the store asks of it."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is not AttemptState.ENDED:
            acknowledge(tx, attempt, progress.heeded_number)
            reset = change_plan(tx, attempt, progress.micro_batch, at=at)
            reported = updates(msgspec.structs.replace(attempt, **reset), msgspec.structs.asdict(progress))
            write(tx, attempt_id, reset | reported | {"heartbeat_at": at})
        return _orders(tx, attempt_id)


def request_stop(db: Database, attempt_id: int, *, at: float, preempted_for: int | None = None) -> None:
    """Ask an attempt to save, end, and leave its job in the queue; perhaps to make room for a job that still waits."""
    with db.transaction() as tx:
        if preempted_for is not None and get_job(tx, preempted_for).state is not JobState.QUEUED:
            return
        rows = tx.query(
            "UPDATE attempts SET stop_requested_at = :at, preempted_for = :preempted_for WHERE id = :attempt_id"
            " AND state <> 'ended' AND stop_requested_at IS NULL RETURNING job_id",
            at=at,
            preempted_for=preempted_for,
            attempt_id=attempt_id,
        )
        for row in rows:
            kind, detail = "stop_requested", {}
            if preempted_for is not None:
                kind, detail = "preempted", {"for_job": preempted_for}
            record(tx, row["job_id"], kind, at=at, attempt_id=attempt_id, detail=detail)


def _orders(tx: Transaction, attempt_id: int) -> Orders:
    rows = tx.query(
        "SELECT attempts.*, jobs.cancel_requested_at"
        " FROM attempts JOIN jobs ON jobs.id = attempts.job_id WHERE attempts.id = :attempt_id",
        attempt_id=attempt_id,
    )
    if not rows:
        return Orders(stop=True, ended=True)
    attempt = Attempt.from_row(rows[0])
    ended = attempt.state is AttemptState.ENDED
    return Orders(
        cancel=rows[0]["cancel_requested_at"] is not None,
        stop=ended or attempt.stop_requested_at is not None,
        ended=ended,
        resize=None if ended else resizing(attempt),
    )
