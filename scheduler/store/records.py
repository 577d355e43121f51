"""What the store gives and takes: a value for each row, with the fields of `schema.py`, and what writers hand in.

Structs and not dataclasses: rows are decoded and checked in one step, and msgspec makes these classes in a tenth of
the time, which every command pays. JSON columns stay text. Derive a changed one by `msgspec.structs.replace`.
"""

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from scheduler.jobs.retries import Outcome as Outcome
from scheduler.jobs.states import AttemptState, EndReason, JobState


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A row."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return msgspec.convert(row, cls)


class Job(Record, frozen=True, kw_only=True):
    id: int
    submit_key: str | None
    name: str
    kind: str
    user_name: str
    state: JobState
    reason: EndReason | None
    message: str | None
    waiting_code: str | None
    waiting: str | None
    priority: int
    spec: str
    source: str
    source_path: str
    code_version: str
    effective_batch: int
    gpus: int
    micro_batch_limit: int | None
    out_of_memory_retries: int
    crash_retries: int
    attempt_id: int | None
    cancel_requested_at: float | None
    cancel_requested_by: str | None
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    array_id: int | None
    variant: str | None
    remaining_seconds: float


class Attempt(Record, frozen=True, kw_only=True):
    id: int
    job_id: int
    number: int
    state: AttemptState
    host: str
    device: str
    plan: str
    micro_batch: int
    accumulation_steps: int
    reserved_bytes: int
    predicted_allocated_bytes: int | None
    predicted_reserved_bytes: int | None
    predicted_process_bytes: int | None
    measured_allocated_bytes: int | None
    measured_reserved_bytes: int | None
    measured_process_bytes: int | None
    step: int | None
    total_steps: int | None
    first_loss: float | None
    loss: float | None
    tokens_per_second: float | None
    eta_seconds: float | None
    boot_id: str | None
    shim_pid: int | None
    shim_started: int | None
    pid: int | None
    pid_started: int | None
    stop_requested_at: float | None
    admitted_at: float
    claimed_at: float | None
    started_at: float | None
    heartbeat_at: float | None
    ended_at: float | None
    exit_code: int | None
    exit_signal: int | None
    reason: EndReason | None
    message: str | None
    wanted_number: int | None
    wanted_micro_batch: int | None
    wanted_limit_bytes: int | None
    wanted_at: float | None
    heeded_number: int | None
    peak_bytes: int | None
    peak_step: int | None
    busy_share: float | None
    preempted_for: int | None

    @property
    def resizing(self) -> bool:
        """Whether a resize was asked for, and not acknowledged yet."""
        return (self.wanted_number or 0) > (self.heeded_number or 0)


class Reservation(Record, frozen=True, kw_only=True):
    attempt_id: int
    device_id: str
    reserved_bytes: int


class Event(Record, frozen=True, kw_only=True):
    id: int
    job_id: int
    attempt_id: int | None
    at: float
    kind: str
    from_state: JobState | None
    to_state: JobState | None
    detail: str


class Device(Record, frozen=True, kw_only=True):
    id: str
    host: str
    kind: str
    number: int
    name: str
    total_bytes: int
    capability: str | None
    present: int


class Reading(Record, frozen=True, kw_only=True):
    device_id: str
    at: float
    used_bytes: int
    processes: str
    utilisation: float | None
    error: str | None


class Footprint(Record, frozen=True, kw_only=True):
    key: str
    answer: str
    created_at: float


class Pace(Record, frozen=True, kw_only=True):
    configuration: str
    beside: str
    seconds_per_step: float
    at: float


class Heartbeat(Record, frozen=True, kw_only=True):
    component: str
    pid: int
    pid_started: int
    at: float
    detail: str


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A checked job file, on its way in."""

    name: str
    kind: str
    user_name: str
    spec: str  # JSON
    source: str
    source_path: str
    code_version: str
    effective_batch: int
    gpus: int = 1
    priority: int = 0
    submit_key: str | None = None
    hold: bool = False
    depends_on: tuple[int, ...] = ()
    variant: str | None = None


class NewAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An admission: what to reserve where, and how much each device may be promised in all."""

    host: str
    device: str
    plan: str  # JSON
    micro_batch: int
    accumulation_steps: int
    reservations: Mapping[str, int]  # device id -> bytes
    device_limits: Mapping[str, int]  # device id -> the most that all reservations there may sum to
    predicted_allocated_bytes: int | None = None
    predicted_reserved_bytes: int | None = None
    predicted_process_bytes: int | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a heartbeat has news of; None leaves the column as it is. Peaks only ever grow."""

    step: int | None = None
    total_steps: int | None = None
    first_loss: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    micro_batch: int | None = None
    accumulation_steps: int | None = None
    measured_allocated_bytes: int | None = None
    measured_reserved_bytes: int | None = None
    measured_process_bytes: int | None = None
    heeded_number: int | None = None
    peak_bytes: int | None = None
    peak_step: int | None = None
    busy_share: float | None = None


class Resizing(msgspec.Struct, frozen=True, kw_only=True):
    """Another micro-batch for a running attempt, as its control file tells it."""

    number: int
    micro_batch: int
    limit_bytes: int  # on each of its devices


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the store asks of a shim."""

    cancel: bool = False  # a person wants it gone
    stop: bool = False  # save and exit 75
    ended: bool = False  # the store has closed this attempt already: nothing may run on for it
    resize: Resizing | None = None  # until it is acknowledged
