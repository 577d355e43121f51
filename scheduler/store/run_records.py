"""What a run directory records of its job and of each attempt, so that a store that lost them can be restored.

A job is recorded when it is submitted, an attempt before anything is trained; `mmq doctor` reads them. Owns the form
of job.json and attempt.json, and reads exit.json. What it reads may be truncated or foreign: None, never an error.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from scheduler.jobs.retries import Outcome
from scheduler.processes.durable import write_durably
from scheduler.processes.regular import open_regular
from scheduler.store.records import Attempt, Job

JOB, ATTEMPT, EXIT = "job.json", "attempt.json", "exit.json"
LIMIT_BYTES = 64 << 20  # a job's file may be large; a record that is larger still is not read whole


class RecordedJob(msgspec.Struct, frozen=True, kw_only=True):
    """All that was asked for; nothing of how far it is."""

    id: int
    submitted_at: float
    submit_key: str | None
    name: str
    kind: str
    user_name: str
    priority: int
    spec: str
    source: str
    source_path: str
    code_version: str
    effective_batch: int
    gpus: int
    array_id: int | None
    variant: str | None
    depends_on: tuple[int, ...] = ()


class RecordedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """What was admitted. `admitted_at` tells it from any other, whatever ids a store may give later."""

    number: int
    admitted_at: float
    claimed_at: float | None
    host: str
    device: str
    plan: str
    micro_batch: int
    accumulation_steps: int
    predicted_allocated_bytes: int | None
    predicted_reserved_bytes: int | None
    predicted_process_bytes: int | None
    reservations: dict[str, int]  # device id -> bytes


class RecordedEnd(NamedTuple):
    admitted_at: float | None  # of the attempt that ended; None: written before that was kept
    outcome: Outcome
    ended_at: float


Recorded = TypeVar("Recorded", RecordedJob, RecordedAttempt)


def create(root: Path, job: Job, depends_on: Sequence[int]) -> bool:
    """Make the run directory with the record of its job; False where another job's is in its place."""
    root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        root.mkdir(mode=0o700)
    except FileExistsError:
        return belongs_to(root, job)
    write_job(root, job, depends_on)
    return True


def belongs_to(root: Path, job: Job) -> bool:
    """Whether a run directory says that it is this very job's."""
    recorded = read(root / JOB, RecordedJob)
    return recorded is not None and (recorded.id, recorded.submitted_at) == (job.id, job.submitted_at)


def write_job(root: Path, job: Job, depends_on: Sequence[int]) -> None:
    fields = {name: getattr(job, name) for name in RecordedJob.__struct_fields__ if name != "depends_on"}
    write_durably(root / JOB, encode(RecordedJob(**fields, depends_on=tuple(depends_on))))


def attempt_record(attempt: Attempt, reservations: Mapping[str, int]) -> RecordedAttempt:
    fields = {name: getattr(attempt, name) for name in RecordedAttempt.__struct_fields__ if name != "reservations"}
    return RecordedAttempt(**fields, reservations=dict(reservations))


def encode(record: RecordedJob | RecordedAttempt) -> str:
    return msgspec.json.encode(record).decode() + "\n"


def read(path: Path, form: type[Recorded]) -> Recorded | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return msgspec.json.decode(_bytes(path), type=form)
    return None


def read_end(path: Path) -> RecordedEnd | None:
    """How an attempt ended, by its shim's record."""
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        record: dict[str, Any] = msgspec.json.decode(_bytes(path), type=dict[str, Any])
        outcome = msgspec.convert({key: record[key] for key in Outcome.__struct_fields__ if key in record}, Outcome)
        admitted_at, ended_at = record.get("admitted_at"), record.get("ended_at")
        if isinstance(admitted_at, float | None):
            return RecordedEnd(admitted_at, outcome, ended_at if isinstance(ended_at, float) else path.stat().st_mtime)
    return None


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(LIMIT_BYTES)
