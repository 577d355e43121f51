"""Where attempts ran out of device memory, as their trainers reported it: for the next plans of the job and of others
with its configuration. Reads the events that the shims record.
"""

from typing import NamedTuple

import msgspec

from scheduler.jobs.retries import Shortage
from scheduler.jobs.states import EndReason
from scheduler.store.attempt_rows import of_job
from scheduler.store.database import Reader
from scheduler.store.records import Attempt, Job
from scheduler.store.transitions import RETRIED


class MemoryRefusal(NamedTuple):
    """Memory that a device refused, whether or not the trainer survived it: so much was needed at least."""

    spec: str  # the job's, JSON
    plan: str  # JSON
    micro_batch: int
    needed_bytes: int
    attempt_id: int


def out_of_memory_ends(db: Reader, job: Job) -> list[tuple[Attempt, Shortage | None]]:
    """The attempts that used up the out-of-memory retries which the job now counts, each with its shortage."""
    if not job.out_of_memory_retries:
        return []
    ended = [attempt for attempt in of_job(db, job.id) if _ran_out_of_memory(attempt)]
    return [(attempt, _last_shortage(db, attempt)) for attempt in ended[-job.out_of_memory_retries :]]


def exhausted_host_memory(db: Reader, job: Job) -> bool:
    """Whether an attempt that had the optimizer in host memory ended because the host ran out of it.

    Of those since a person queued the job again: it may be another host by then.
    """
    if not job.crash_retries:  # each such end costs one
        return False
    rows = db.query(
        "SELECT plan FROM attempts WHERE job_id = :job_id AND reason = :reason"  # noqa: S608
        f" AND id IN (SELECT attempt_id FROM events WHERE job_id = :job_id AND id > {RETRIED})",
        job_id=job.id,
        reason=EndReason.HOST_OUT_OF_MEMORY.value,
    )
    return any(msgspec.json.decode(row["plan"]).get("optimizer_offload") for row in rows)


def memory_refusals(db: Reader, *, host: str, kind: str, latest: int) -> list[MemoryRefusal]:
    """Read the refusals of known size to the latest attempts on a host's devices of a kind."""
    rows = db.query(
        "SELECT jobs.spec, recent.plan, recent.id, events.detail"
        " FROM (SELECT id, job_id, plan FROM attempts WHERE host = :host AND device LIKE :device"
        " ORDER BY id DESC LIMIT :latest) AS recent JOIN jobs ON jobs.id = recent.job_id"
        " JOIN events ON events.job_id = recent.job_id AND events.attempt_id = recent.id"
        " AND events.kind = 'out_of_memory'",
        host=host,
        device=f"{kind}:%",
        latest=latest,
    )
    shortages = ((row, _read(row["detail"])) for row in rows)
    return [
        MemoryRefusal(row["spec"], row["plan"], shortage.micro_batch, shortage.needed_bytes, row["id"])
        for row, shortage in shortages
        if shortage is not None
        and shortage.phase not in ("evaluation", "sample")
        and shortage.micro_batch is not None
        and shortage.needed_bytes is not None
    ]


def _ran_out_of_memory(attempt: Attempt) -> bool:
    on_host = attempt.reason is EndReason.HOST_OUT_OF_MEMORY and attempt.device.startswith("cpu:")
    return on_host or attempt.reason is EndReason.OUT_OF_MEMORY


def _last_shortage(db: Reader, attempt: Attempt) -> Shortage | None:
    """The shortage at which an attempt gave up; None where it reported none that can be read."""
    rows = db.query(
        "SELECT detail FROM events WHERE job_id = :job_id AND attempt_id = :attempt_id AND kind = 'out_of_memory'"
        " ORDER BY id DESC LIMIT 1",
        job_id=attempt.job_id,
        attempt_id=attempt.id,
    )
    return _read(rows[0]["detail"]) if rows else None


def _read(detail: str) -> Shortage | None:
    try:
        return msgspec.json.decode(detail, type=Shortage)
    except (msgspec.DecodeError, RecursionError):
        return None
