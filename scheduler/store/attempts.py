"""Attempts: admitted with their memory reserved, claimed by one worker, started, watched, and ended once.

A race is decided by compare-and-swap on the attempt's state, in the transaction that also moves the job.
"""

from typing import Any

import msgspec

from scheduler.errors import MmqError
from scheduler.jobs.retries import AttemptFacts, JobFacts, Verdict, verdict
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store.database import Database, Reader, Transaction
from scheduler.store.jobs import get as get_job
from scheduler.store.records import Attempt, Job, NewAttempt, Orders, Outcome, Progress
from scheduler.store.transitions import move, record

PEAKS = ("measured_allocated_bytes", "measured_reserved_bytes", "measured_process_bytes")


def get(db: Reader, attempt_id: int) -> Attempt:
    rows = db.query("SELECT * FROM attempts WHERE id = :attempt_id", attempt_id=attempt_id)
    if not rows:
        raise MmqError(f"there is no attempt {attempt_id}", hint="mmq status --all")
    return Attempt.from_row(rows[0])


def live(db: Reader, host: str | None = None) -> list[Attempt]:
    """Attempts that have not ended, of one host or of all."""
    rows = db.query("SELECT * FROM attempts WHERE state <> 'ended'")  # sorted by SQL, it would read all that ended
    rows.sort(key=lambda row: int(row["id"]))
    return [Attempt.from_row(row) for row in rows if host is None or row["host"] == host]


def of_job(db: Reader, job_id: int) -> list[Attempt]:
    """A job's attempts, the first one first."""
    rows = db.query("SELECT * FROM attempts WHERE job_id = :job_id ORDER BY number", job_id=job_id)
    return [Attempt.from_row(row) for row in rows]


def admit(db: Database, job_id: int, new: NewAttempt, *, at: float) -> Attempt | None:
    """Reserve memory and make the job's next attempt; None if the job or the memory is no longer to be had."""
    with db.transaction() as tx:
        if not _admissible(tx, job_id) or not _there_is_room(tx, new):
            return None
        attempt_id = _insert(tx, job_id, new, at)
        for device_id, reserved_bytes in new.reservations.items():
            tx.execute(
                "INSERT INTO reservations (attempt_id, device_id, reserved_bytes, created_at)"
                " VALUES (:attempt_id, :device_id, :reserved_bytes, :at)",
                attempt_id=attempt_id,
                device_id=device_id,
                reserved_bytes=reserved_bytes,
                at=at,
            )
        tx.execute(
            "UPDATE jobs SET attempt_id = :attempt_id WHERE id = :job_id",
            attempt_id=attempt_id,
            job_id=job_id,
        )
        detail = {
            "device": new.device,
            "micro_batch": new.micro_batch,
            "accumulation_steps": new.accumulation_steps,
            "reserved_bytes": sum(new.reservations.values()),
        }
        move(tx, job_id, JobState.ADMITTED, at=at, attempt_id=attempt_id, detail=detail)
        return get(tx, attempt_id)


def _admissible(tx: Transaction, job_id: int) -> bool:
    return bool(
        tx.query(
            "SELECT id FROM jobs WHERE id = :job_id AND state = 'queued' AND cancel_requested_at IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM dependencies JOIN jobs parent ON parent.id = dependencies.depends_on"
            " WHERE dependencies.job_id = jobs.id AND parent.state <> 'succeeded')",
            job_id=job_id,
        )
    )


def _there_is_room(tx: Transaction, new: NewAttempt) -> bool:
    for device_id, reserved_bytes in new.reservations.items():
        rows = tx.query(
            "SELECT CAST(COALESCE(SUM(reserved_bytes), 0) AS BIGINT) AS promised"
            " FROM reservations WHERE device_id = :device_id",
            device_id=device_id,
        )
        if rows[0]["promised"] + reserved_bytes > new.device_limits[device_id]:
            return False
    return True


def _insert(tx: Transaction, job_id: int, new: NewAttempt, at: float) -> int:
    rows = tx.query(
        "INSERT INTO attempts (job_id, number, state, host, device, plan, micro_batch, accumulation_steps,"
        " reserved_bytes, predicted_allocated_bytes, predicted_reserved_bytes, predicted_process_bytes, admitted_at)"
        " VALUES (:job_id, (SELECT COALESCE(MAX(number), 0) + 1 FROM attempts WHERE job_id = :job_id), 'admitted',"
        " :host, :device, :plan, :micro_batch, :accumulation_steps,"
        " :reserved_bytes, :allocated, :reserved, :process, :at) RETURNING id",
        job_id=job_id,
        host=new.host,
        device=new.device,
        plan=new.plan,
        micro_batch=new.micro_batch,
        accumulation_steps=new.accumulation_steps,
        reserved_bytes=sum(new.reservations.values()),
        allocated=new.predicted_allocated_bytes,
        reserved=new.predicted_reserved_bytes,
        process=new.predicted_process_bytes,
        at=at,
    )
    return int(rows[0]["id"])


def claim(db: Database, attempt_id: int, *, at: float) -> Attempt | None:
    """Win an admitted attempt; None if another has, or nothing of it is to be started any more."""
    with db.transaction() as tx:
        rows = tx.query(
            "UPDATE attempts SET state = 'claimed', claimed_at = :at"
            " WHERE id = :attempt_id AND state = 'admitted' AND stop_requested_at IS NULL AND EXISTS"
            " (SELECT 1 FROM jobs WHERE jobs.id = attempts.job_id AND jobs.cancel_requested_at IS NULL) RETURNING *",
            at=at,
            attempt_id=attempt_id,
        )
        if not rows:
            return None
        attempt = Attempt.from_row(rows[0])
        record(tx, attempt.job_id, "claimed", at=at, attempt_id=attempt_id)
        return attempt


def shim_alive(db: Database, attempt_id: int, *, shim_pid: int, shim_started: int, boot_id: str, at: float) -> Orders:
    """Name the process that looks after an attempt; answers what to do, to be read before the trainer starts."""
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
    """Write down that the trainer lives. Again is harmless; of an attempt that has ended nothing is changed."""
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
        return _orders(tx, attempt_id)


def heartbeat(db: Database, attempt_id: int, progress: Progress, *, at: float) -> Orders:
    """Write how far an attempt is; answers what the store asks of it."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is not AttemptState.ENDED:
            _write(tx, attempt_id, {**_news(attempt, msgspec.structs.asdict(progress)), "heartbeat_at": at})
        return _orders(tx, attempt_id)


def request_stop(db: Database, attempt_id: int, *, at: float) -> None:
    """Ask an attempt to save, end, and leave its job in the queue."""
    with db.transaction() as tx:
        rows = tx.query(
            "UPDATE attempts SET stop_requested_at = :at WHERE id = :attempt_id"
            " AND state <> 'ended' AND stop_requested_at IS NULL RETURNING job_id",
            at=at,
            attempt_id=attempt_id,
        )
        for row in rows:
            record(tx, row["job_id"], "stop_requested", at=at, attempt_id=attempt_id)


def finish(db: Database, attempt_id: int, outcome: Outcome, *, at: float) -> Attempt:
    """End an attempt, give back its memory, and move its job on as `verdict` says. The first word counts."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is AttemptState.ENDED:
            return attempt
        job = get_job(tx, attempt.job_id)
        decided = verdict(_job_facts(job), _attempt_facts(tx, attempt, outcome), outcome)
        _end(tx, attempt, outcome, at)
        _move_on(tx, job, attempt_id, outcome, decided, at)
        return get(tx, attempt_id)


def _end(tx: Transaction, attempt: Attempt, outcome: Outcome, at: float) -> None:
    news = _news(attempt, {name: getattr(outcome, name) for name in ("micro_batch", "accumulation_steps", *PEAKS)})
    end = {
        "state": AttemptState.ENDED.value,
        "ended_at": at,
        "exit_code": outcome.exit_code,
        "exit_signal": outcome.exit_signal,
        "reason": outcome.reason.value,
        "message": outcome.message,
    }
    _write(tx, attempt.id, news | end)
    tx.execute("DELETE FROM reservations WHERE attempt_id = :attempt_id", attempt_id=attempt.id)


def _move_on(tx: Transaction, job: Job, attempt_id: int, outcome: Outcome, decided: Verdict, at: float) -> None:
    tx.execute(
        "UPDATE jobs SET micro_batch_limit = :micro_batch_limit, out_of_memory_retries = :out_of_memory_retries,"
        " crash_retries = :crash_retries WHERE id = :job_id",
        job_id=job.id,
        micro_batch_limit=decided.micro_batch_limit,
        out_of_memory_retries=decided.out_of_memory_retries,
        crash_retries=decided.crash_retries,
    )
    if decided.state is JobState.SUCCEEDED and job.state is JobState.ADMITTED:
        # It ran and ended before anybody could write that it had started.
        move(tx, job.id, JobState.RUNNING, at=at, attempt_id=attempt_id)
    reason = EndReason.CANCELLED if decided.state is JobState.CANCELLED else outcome.reason
    move(tx, job.id, decided.state, at=at, attempt_id=attempt_id, reason=reason, message=decided.message)


def _job_facts(job: Job) -> JobFacts:
    spec = msgspec.json.decode(job.spec)
    retries, memory = spec.get("retries", {}), spec.get("memory", {})
    return JobFacts(
        out_of_memory_allowed=retries.get("out_of_memory", 6),
        crash_allowed=retries.get("crash", 2),
        out_of_memory_retries=job.out_of_memory_retries,
        crash_retries=job.crash_retries,
        micro_batch_limit=job.micro_batch_limit,
        cancel_requested=job.cancel_requested_at is not None,
        activation_checkpointing=memory.get("activation_checkpointing", "auto"),
        optimizer_offload=memory.get("optimizer_offload", "auto"),
    )


def _attempt_facts(tx: Transaction, attempt: Attempt, outcome: Outcome) -> AttemptFacts:
    plan = msgspec.json.decode(attempt.plan)
    earlier = [other.step or 0 for other in of_job(tx, attempt.job_id) if other.number < attempt.number]
    return AttemptFacts(
        micro_batch=outcome.micro_batch or attempt.micro_batch,
        activation_checkpointing=bool(plan.get("activation_checkpointing")),
        optimizer_offload=bool(plan.get("optimizer_offload")),
        stop_requested=attempt.stop_requested_at is not None,
        progressed=(attempt.step or 0) > max(earlier, default=0),
    )


def _orders(tx: Transaction, attempt_id: int) -> Orders:
    rows = tx.query(
        "SELECT attempts.state, attempts.stop_requested_at, jobs.cancel_requested_at"
        " FROM attempts JOIN jobs ON jobs.id = attempts.job_id WHERE attempts.id = :attempt_id",
        attempt_id=attempt_id,
    )
    ended = not rows or rows[0]["state"] == AttemptState.ENDED
    return Orders(
        cancel=bool(rows) and rows[0]["cancel_requested_at"] is not None,
        stop=ended or rows[0]["stop_requested_at"] is not None,
        ended=ended,
    )


def _news(attempt: Attempt, values: dict[str, Any]) -> dict[str, Any]:
    """What of these differs from nothing; a peak only if it is higher than the one known."""
    news = {name: value for name, value in values.items() if value is not None}
    for name in PEAKS:
        if name in news:
            news[name] = max(news[name], getattr(attempt, name) or 0)
    return news


def _write(tx: Transaction, attempt_id: int, values: dict[str, Any]) -> None:
    columns = ", ".join(f"{name} = :{name}" for name in values)
    tx.execute(f"UPDATE attempts SET {columns} WHERE id = :attempt_id", attempt_id=attempt_id, **values)  # noqa: S608
