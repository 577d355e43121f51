"""The tables, as SQLAlchemy models: the one description that migrations and tests are held against.

Times are seconds since the epoch (UTC); JSON is text; sizes are bytes. Statements live beside this file, in plain
SQL that SQLAlchemy's `text()` and the bare SQLite driver both take, because importing SQLAlchemy takes longer than
a whole `mmq status` may.
"""

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, MetaData, String, Text, desc, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

LIVE = "state <> 'ended'"


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {str: Text, int: BigInteger, float: Float}  # noqa: RUF012  SQLAlchemy's own idiom


class Job(Table):
    """What a person asked for, and how far it is. Progress lives on the attempt that `attempt_id` names."""

    __tablename__ = "jobs"
    __table_args__ = (
        # The queue in the very order the admission cycle reads it; counts by state need no more than this index.
        Index("ix_jobs_queue", "state", desc("priority"), "id"),
        # The shortest of each user, of the highest priority: among them are those that the cycle would take first.
        Index("ix_jobs_shortest", "state", "user_name", desc("priority"), "remaining_seconds", "id"),
        Index("ix_jobs_ended_at", "ended_at"),
        Index("ix_jobs_name", "name"),
        Index("ix_jobs_user_name_id", "user_name", "id"),
        Index("ix_jobs_array_id", "array_id"),
        {"sqlite_autoincrement": True},  # an id is never given twice
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    submit_key: Mapped[str | None] = mapped_column(unique=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    user_name: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None]  # EndReason, once ended
    message: Mapped[str | None]  # the reason in a sentence with numbers
    waiting_code: Mapped[str | None]  # why it waits, while queued
    waiting: Mapped[str | None]  # the same, in a sentence with numbers
    priority: Mapped[int] = mapped_column(Integer)
    spec: Mapped[str]  # JSON: the job file checked, resolved, paths absolute
    source: Mapped[str]  # the job file as submitted
    source_path: Mapped[str]
    code_version: Mapped[str]
    effective_batch: Mapped[int]
    gpus: Mapped[int] = mapped_column(Integer)
    micro_batch_limit: Mapped[int | None]  # lowered by an out-of-memory that ended an attempt
    out_of_memory_retries: Mapped[int] = mapped_column(Integer)  # used so far
    crash_retries: Mapped[int] = mapped_column(Integer)  # used so far
    attempt_id: Mapped[int | None]  # the latest
    cancel_requested_at: Mapped[float | None]
    cancel_requested_by: Mapped[str | None]
    submitted_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    array_id: Mapped[int | None]  # of a member of an array: its first member's id
    variant: Mapped[str | None]  # what sets this member apart: "train.learning_rate=1e-4 ..."
    remaining_seconds: Mapped[float] = mapped_column(server_default=text("0"))  # estimated, while queued; 0: not yet


class Dependency(Table):
    """`job_id` starts only after `depends_on` has succeeded."""

    __tablename__ = "dependencies"
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    depends_on: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class Attempt(Table):
    """One try at a job: where, with which plan, predicted and measured, and how it ended."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_job_id_number", "job_id", "number", unique=True),
        # At most one live attempt a job, whatever the code above does; and the way to find the live ones.
        Index("ix_attempts_live", "job_id", unique=True, sqlite_where=text(LIVE), postgresql_where=text(LIVE)),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    host: Mapped[str]
    device: Mapped[str]  # as people read it: "cuda:0", "virtual:1"
    plan: Mapped[str]  # JSON: Plan, as admitted
    micro_batch: Mapped[int]  # as it is now; an out-of-memory in the trainer halves it
    accumulation_steps: Mapped[int]
    reserved_bytes: Mapped[int]
    predicted_allocated_bytes: Mapped[int | None]  # with the micro-batch of now, as the measured peaks are;
    predicted_reserved_bytes: Mapped[int | None]  # what was known of one before is in the event `plan_left`
    predicted_process_bytes: Mapped[int | None]
    measured_allocated_bytes: Mapped[int | None]
    measured_reserved_bytes: Mapped[int | None]
    measured_process_bytes: Mapped[int | None]
    step: Mapped[int | None]
    total_steps: Mapped[int | None]
    first_loss: Mapped[float | None]
    loss: Mapped[float | None]
    tokens_per_second: Mapped[float | None]
    eta_seconds: Mapped[float | None]
    boot_id: Mapped[str | None]
    shim_pid: Mapped[int | None]
    shim_started: Mapped[int | None]  # kernel clock ticks since boot, field 22 of /proc/PID/stat
    pid: Mapped[int | None]
    pid_started: Mapped[int | None]
    stop_requested_at: Mapped[float | None]  # save, exit 75, back to the queue
    admitted_at: Mapped[float]
    claimed_at: Mapped[float | None]
    started_at: Mapped[float | None]
    heartbeat_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    exit_code: Mapped[int | None] = mapped_column(Integer)
    exit_signal: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str | None]
    message: Mapped[str | None]
    wanted_number: Mapped[int | None]  # of the latest resize asked for; pending until heeded_number has reached it
    wanted_micro_batch: Mapped[int | None]
    wanted_limit_bytes: Mapped[int | None]  # of each of its devices
    wanted_at: Mapped[float | None]
    heeded_number: Mapped[int | None]  # of the latest resize that the trainer has acknowledged
    peak_bytes: Mapped[int | None]  # the process's, since its micro-batch last changed
    peak_step: Mapped[int | None]  # when that was reached
    busy_share: Mapped[float | None]  # of the time, in which the device computed, by the trainer's last word
    preempted_for: Mapped[int | None]  # the job that it was asked to make room for


class Reservation(Table):
    """Memory of a device promised to a live attempt; gone in the transaction that ends it."""

    __tablename__ = "reservations"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True, index=True)
    reserved_bytes: Mapped[int]


class Event(Table):
    """What happened to a job, in order: each state change, and each thing a person would want to know."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempts.id"))
    at: Mapped[float]
    kind: Mapped[str]  # "state", "out_of_memory", "checkpoint", "cancel_requested", ...
    from_state: Mapped[str | None]
    to_state: Mapped[str | None]
    detail: Mapped[str]  # JSON object


class Device(Table):
    """A device this service may use. Kept after it goes, marked absent: attempts still name it."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(primary_key=True)  # GPU UUID; "virtual-0@host"; "cpu@host"
    host: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))  # cuda | cpu | virtual
    number: Mapped[int] = mapped_column(Integer)
    name: Mapped[str]
    total_bytes: Mapped[int]
    capability: Mapped[str | None]  # compute capability "8.9"; cuda only
    present: Mapped[int] = mapped_column(Integer)  # 0 or 1


class Reading(Table):
    """The latest look at a device. One row a device, replaced."""

    __tablename__ = "readings"
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    at: Mapped[float]
    used_bytes: Mapped[int]
    processes: Mapped[str]  # JSON: [[pid, bytes], ...]
    utilisation: Mapped[float | None]  # 0 to 1
    error: Mapped[str | None]


class Footprint(Table):
    """A traced configuration's memory, cached: key to the tracer's answer."""

    __tablename__ = "footprints"
    key: Mapped[str] = mapped_column(primary_key=True)
    answer: Mapped[str]  # JSON
    created_at: Mapped[float]


class Pace(Table):
    """How fast a configuration went on a kind of device, by the last that was seen of it."""

    __tablename__ = "paces"
    configuration: Mapped[str] = mapped_column(primary_key=True)  # of model, batch and means, and the device's name
    beside: Mapped[str] = mapped_column(primary_key=True)  # the one other configuration there; "": alone
    seconds_per_step: Mapped[float]
    at: Mapped[float]


class Heartbeat(Table):
    """Each long-lived process of the service: alive when, and what it has to say."""

    __tablename__ = "heartbeats"
    component: Mapped[str] = mapped_column(primary_key=True)  # "controller@host", "worker@host"
    pid: Mapped[int]
    pid_started: Mapped[int]
    at: Mapped[float]
    detail: Mapped[str]  # JSON object
