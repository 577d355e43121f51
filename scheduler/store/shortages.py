"""Where attempts ran out of device memory, as their trainers told it: for what is planned next, of this job and of
others of the same configuration. Reads the notes that the shims leave in the event log.
"""

from typing import NamedTuple

import msgspec

from scheduler.jobs.retries import Shortage
from scheduler.jobs.states import EndReason
from scheduler.store.attempt_rows import of_job
from scheduler.store.database import Reader
from scheduler.store.records import Attempt, Job
from scheduler.store.transitions import RETRIED


class Lesson(NamedTuple):
    """A refusal, also one that the trainer survived: so much was needed at least."""

    spec: str  # the job's, JSON
    plan: str  # JSON
    micro_batch: int
    needed_bytes: int
    attempt_id: int


def ended_for_want(db: Reader, job: Job) -> list[tuple[Attempt, Shortage | None]]:
    """The attempts of a job that cost it a retry for out of memory, since its retries were last counted from none."""
    if not job.out_of_memory_retries:
        return []
    ended = [attempt for attempt in of_job(db, job.id) if _is_for_want(attempt)]
    return [(attempt, _last(db, attempt)) for attempt in ended[-job.out_of_memory_retries :]]


def was_too_much_for_host(db: Reader, job: Job) -> bool:
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


def lessons(db: Reader, *, host: str, kind: str, latest: int) -> list[Lesson]:
    """Read what was refused to the latest attempts on a host's devices of a kind, as far as its size is known."""
    rows = db.query(
        "SELECT jobs.spec, one.plan, one.id, events.detail"
        " FROM (SELECT id, job_id, plan FROM attempts WHERE host = :host AND device LIKE :device"
        " ORDER BY id DESC LIMIT :latest) AS one JOIN jobs ON jobs.id = one.job_id"
        " JOIN events ON events.job_id = one.job_id AND events.attempt_id = one.id AND events.kind = 'out_of_memory'",
        host=host,
        device=f"{kind}:%",
        latest=latest,
    )
    found = ((row, _read(row["detail"])) for row in rows)
    return [
        Lesson(row["spec"], row["plan"], told.micro_batch, told.needed_bytes, row["id"])
        for row, told in found
        if told is not None
        and told.phase not in ("evaluation", "sample")
        and told.micro_batch is not None
        and told.needed_bytes is not None
    ]


def _is_for_want(attempt: Attempt) -> bool:
    on_host = attempt.reason is EndReason.HOST_OUT_OF_MEMORY and attempt.device.startswith("cpu:")
    return on_host or attempt.reason is EndReason.OUT_OF_MEMORY


def _last(db: Reader, attempt: Attempt) -> Shortage | None:
    """The refusal at which an attempt gave up; None where it could not tell."""
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
