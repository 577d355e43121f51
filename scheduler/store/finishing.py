"""The end of an attempt: its memory is released, and its job moved on as `scheduler.jobs.retries` says."""

from typing import Any

import msgspec

from scheduler.failpoints import failpoint
from scheduler.jobs.means import Sharding, checkpointing_of, sharding_of, shardings
from scheduler.jobs.remedies import Place, would_fit
from scheduler.jobs.retries import AttemptFacts, JobFacts, Verdict, verdict
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store.attempt_rows import PEAKS, end, get, of_job, updates
from scheduler.store.database import Database, Transaction
from scheduler.store.devices import list_devices
from scheduler.store.jobs import get as get_job
from scheduler.store.plans import change_plan
from scheduler.store.records import Attempt, Job, Outcome
from scheduler.store.shortages import exhausted_host_memory
from scheduler.store.transitions import RETRIED, move, record

REBOOTED = "rebooted"  # the event of an attempt that ended with the host
_REBOOTS = f"SELECT id FROM events WHERE job_id = :job_id AND kind = :kind AND id > {RETRIED}"  # noqa: S608


def finish(db: Database, attempt_id: int, outcome: Outcome, *, at: float) -> Attempt:
    """End an attempt, release its memory, and move its job on as `verdict` says. Only the first call counts."""
    with db.transaction() as tx:
        attempt = get(tx, attempt_id)
        if attempt.state is AttemptState.ENDED:
            return attempt
        job = get_job(tx, attempt.job_id)
        outcome = _with_lost_device(tx, attempt, outcome)
        decided = verdict(_job_facts(tx, job), _attempt_facts(tx, attempt, outcome), outcome)
        if decided.state is JobState.FAILED and outcome.reason is EndReason.OUT_OF_MEMORY:
            remedy = _remedy(tx, job, attempt, outcome)
            decided = msgspec.structs.replace(decided, message=f"{decided.message}; {remedy}")
        _end(tx, attempt, outcome, at)
        if outcome.rebooted:
            record(tx, job.id, REBOOTED, at=at, attempt_id=attempt_id)
        _move_on(tx, job, attempt_id, outcome, decided, at)
        failpoint("finish.updated")
        return get(tx, attempt_id)


def _with_lost_device(tx: Transaction, attempt: Attempt, outcome: Outcome) -> Outcome:
    """Attribute a failure to the device, if that is gone or its last reading was an error."""
    if outcome.reason not in (EndReason.EXIT_CODE, EndReason.KILLED):
        return outcome
    rows = tx.query(
        "SELECT devices.kind, devices.number, devices.present, readings.error FROM reservations"
        " JOIN devices ON devices.id = reservations.device_id LEFT JOIN readings ON readings.device_id = devices.id"
        " WHERE reservations.attempt_id = :id AND (devices.present = 0 OR readings.error IS NOT NULL)"
        " ORDER BY devices.id LIMIT 1",
        id=attempt.id,
    )
    if not rows:
        return outcome
    what = f"{rows[0]['kind']}:{rows[0]['number']} " + (rows[0]["error"] or "is not there any more")
    return msgspec.structs.replace(outcome, reason=EndReason.DEVICE_LOST, message=f"{what}; {outcome.message}")


def _end(tx: Transaction, attempt: Attempt, outcome: Outcome, at: float) -> None:
    reset = change_plan(tx, attempt, outcome.micro_batch, at=at)
    reported = {name: getattr(outcome, name) for name in ("micro_batch", "accumulation_steps", *PEAKS)}
    columns = reset | updates(msgspec.structs.replace(attempt, **reset), reported)
    codes = {"exit_code": outcome.exit_code, "exit_signal": outcome.exit_signal}
    end(tx, attempt.id, reason=outcome.reason, message=outcome.message, at=at, **columns, **codes)


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


def _job_facts(tx: Transaction, job: Job) -> JobFacts:
    spec = msgspec.json.decode(job.spec)
    retries, memory = spec.get("retries", {}), spec.get("memory", {})
    return JobFacts(
        out_of_memory_allowed=retries.get("out_of_memory", 6),
        crash_allowed=retries.get("crash", 2),
        out_of_memory_retries=job.out_of_memory_retries,
        crash_retries=job.crash_retries,
        reboots=len(tx.query(_REBOOTS, job_id=job.id, kind=REBOOTED)),
        micro_batch_limit=job.micro_batch_limit,
        cancel_requested=job.cancel_requested_at is not None,
        activation_checkpointing=memory.get("activation_checkpointing", "auto"),
        optimizer_offload=memory.get("optimizer_offload", "auto"),
        spares_host=exhausted_host_memory(tx, job),
        shardings=_shardings(spec),
    )


def _shardings(spec: dict[str, Any]) -> tuple[Sharding, ...]:
    memory, train, resources = (spec.get(section, {}) for section in ("memory", "train", "resources"))
    return shardings(
        memory.get("sharding", "none"),  # a job of an earlier version was planned without
        processes=resources.get("gpus", 1),
        tensor_parallel=memory.get("tensor_parallel", 1),
        optimizer=train.get("optimizer", "adamw"),
        compiled=train.get("compile", False),
    )


def _attempt_facts(tx: Transaction, attempt: Attempt, outcome: Outcome) -> AttemptFacts:
    plan = msgspec.json.decode(attempt.plan)
    earlier = [other.step or 0 for other in of_job(tx, attempt.job_id) if other.number < attempt.number]
    return AttemptFacts(
        micro_batch=outcome.micro_batch or attempt.micro_batch,
        activation_checkpointing=checkpointing_of(plan.get("activation_checkpointing")),
        optimizer_offload=bool(plan.get("optimizer_offload")),
        sharding=sharding_of(plan.get("sharding")),
        processes=plan.get("processes", 1),
        stop_requested=attempt.stop_requested_at is not None,
        progressed=(attempt.step or 0) > max(earlier, default=0),
        device_is_host=plan.get("device_config", {}).get("kind") == "cpu",
    )


def _remedy(tx: Transaction, job: Job, attempt: Attempt, outcome: Outcome) -> str:
    """What would have been enough: more than it had in any case, and as much as it asked for where that is known."""
    kind = attempt.device.partition(":")[0]
    places = [
        Place(f"{device.kind}:{device.number}", device.total_bytes)
        for device in list_devices(tx)
        if device.present and device.host == attempt.host and device.kind == kind
    ]
    had = attempt.reserved_bytes // max(1, job.gpus)
    needed = (outcome.shortage.needed_bytes if outcome.shortage else None) or 0
    max_memory = msgspec.json.decode(job.spec).get("resources", {}).get("max_memory")
    return would_fit(max(had + 1, needed), places, max_memory_bytes=max_memory)
