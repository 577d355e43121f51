"""Plain rows for people to look at, as `mmq status` does; their cost does not grow with the queue.

Imports nothing that makes a short command slow: no records, no SQLAlchemy. Changes nothing.
"""

from typing import NamedTuple

from scheduler.errors import NoSuchJob
from scheduler.store.database import Database, Reader, Row

WAITING_SHOWN = 20
ENDED_SHOWN = 10

JOB = (
    "SELECT jobs.id, jobs.name, jobs.kind, jobs.user_name, jobs.state, jobs.reason, jobs.message, jobs.waiting_code,"
    " jobs.waiting, jobs.priority, jobs.effective_batch, jobs.gpus, jobs.micro_batch_limit,"
    " jobs.out_of_memory_retries, jobs.crash_retries, jobs.cancel_requested_at, jobs.cancel_requested_by,"
    " jobs.submitted_at, jobs.started_at, jobs.ended_at, jobs.attempt_id, jobs.array_id, jobs.variant,"
    " attempts.number AS attempt, attempts.state AS attempt_state, attempts.host, attempts.device, attempts.plan,"
    " attempts.micro_batch, attempts.accumulation_steps, attempts.reserved_bytes,"
    " attempts.predicted_allocated_bytes, attempts.predicted_reserved_bytes, attempts.predicted_process_bytes,"
    " attempts.measured_allocated_bytes, attempts.measured_reserved_bytes, attempts.measured_process_bytes,"
    " attempts.step, attempts.total_steps, attempts.first_loss, attempts.loss, attempts.tokens_per_second,"
    " attempts.eta_seconds, attempts.heartbeat_at, attempts.stop_requested_at"
    " FROM jobs LEFT JOIN attempts ON attempts.id = jobs.attempt_id WHERE "
)
SECTIONS = (
    "jobs.state IN ('running', 'admitted'){more} ORDER BY jobs.id",
    f"jobs.state = 'queued'{{more}} ORDER BY jobs.priority DESC, jobs.id LIMIT {WAITING_SHOWN}",
    f"jobs.state = 'held'{{more}} ORDER BY jobs.priority DESC, jobs.id LIMIT {WAITING_SHOWN}",
    f"jobs.ended_at IS NOT NULL{{more}} ORDER BY jobs.ended_at DESC, jobs.id DESC LIMIT {ENDED_SHOWN}",
)
# Of the members of an array that are in one state, the first stands for all: an array must not fill the page.
FIRST_OF_ARRAY = (
    " AND (jobs.array_id IS NULL OR NOT EXISTS (SELECT 1 FROM jobs other WHERE other.array_id = jobs.array_id"
    " AND other.state = jobs.state AND other.id < jobs.id))"
)


class Filters(NamedTuple):
    """Which jobs to show; without a state and without `everything`: the live, the next and the latest."""

    user: str | None = None
    state: str | None = None
    everything: bool = False
    expanded: bool = True  # every member of an array, and not one for all


DEFAULT = Filters()


class Overview(NamedTuple):
    jobs: list[Row]  # each with its latest attempt
    counts: dict[str, int]  # state -> jobs, of all that the user filter lets through
    arrays: dict[int, dict[str, int]]  # of each array shown: state -> members


class JobDetail(NamedTuple):
    job: Row  # with its latest attempt, as in the overview, and what it was asked
    attempts: list[Row]
    events: list[Row]
    depends_on: list[Row]  # id, name, state
    needed_by: list[Row]  # id, name, state


def overview(db: Database, filters: Filters = DEFAULT) -> Overview:
    """The jobs to show: running first, then the next in the queue, the held, and the last that ended."""
    user = {"user_name": filters.user} if filters.user else {}
    condition = " AND jobs.user_name = :user_name" if user else ""
    with db.snapshot() as reader:
        jobs = _jobs(reader, filters, condition, user)
        return Overview(jobs=jobs, counts=counts(reader, filters.user), arrays=_arrays(reader, jobs))


def _arrays(reader: Reader, jobs: list[Row]) -> dict[int, dict[str, int]]:
    members: dict[int, dict[str, int]] = {}
    for array_id in dict.fromkeys(row["array_id"] for row in jobs if row["array_id"] is not None):
        rows = reader.query(
            "SELECT state, COUNT(*) AS jobs FROM jobs WHERE array_id = :array_id GROUP BY state", array_id=array_id
        )
        members[array_id] = {row["state"]: row["jobs"] for row in rows}
    return members


def counts(reader: Reader, user: str | None = None) -> dict[str, int]:
    """State to number of jobs, of one user or of all."""
    condition, parameters = (" AND jobs.user_name = :user_name", {"user_name": user}) if user else ("", {})
    statement = f"SELECT state, COUNT(*) AS jobs FROM jobs WHERE 1 = 1{condition} GROUP BY state"  # noqa: S608
    return {row["state"]: row["jobs"] for row in reader.query(statement, **parameters)}


def _jobs(reader: Reader, filters: Filters, condition: str, user: dict[str, str]) -> list[Row]:
    if filters.state:
        return reader.query(f"{JOB} jobs.state = :state{condition} ORDER BY jobs.id", state=filters.state, **user)
    if filters.everything:
        return reader.query(f"{JOB} 1 = 1{condition} ORDER BY jobs.id", **user)
    more = condition + ("" if filters.expanded else FIRST_OF_ARRAY)
    return [row for section in SECTIONS for row in reader.query(JOB + section.format(more=more), **user)]


def job_detail(db: Database, job_id: int) -> JobDetail:
    """Everything about one job; NoSuchJob."""
    with db.snapshot() as reader:
        rows = reader.query(f"{JOB}jobs.id = :job_id", job_id=job_id)
        if not rows:
            raise NoSuchJob(f"there is no job {job_id}", hint="mmq status --all")
        asked = reader.query("SELECT spec, code_version, source_path FROM jobs WHERE id = :job_id", job_id=job_id)
        return JobDetail(
            job=rows[0] | asked[0],
            attempts=reader.query("SELECT * FROM attempts WHERE job_id = :job_id ORDER BY number", job_id=job_id),
            events=reader.query("SELECT * FROM events WHERE job_id = :job_id ORDER BY id", job_id=job_id),
            depends_on=reader.query(
                "SELECT jobs.id, jobs.name, jobs.state FROM dependencies JOIN jobs ON jobs.id = depends_on"
                " WHERE job_id = :job_id ORDER BY jobs.id",
                job_id=job_id,
            ),
            needed_by=reader.query(
                "SELECT jobs.id, jobs.name, jobs.state FROM dependencies JOIN jobs ON jobs.id = job_id"
                " WHERE depends_on = :job_id ORDER BY jobs.id",
                job_id=job_id,
            ),
        )


def devices(db: Reader) -> list[Row]:
    """Devices that are there, each with its latest reading and what is promised of it."""
    return db.query(
        "SELECT devices.*, readings.at AS read_at, readings.used_bytes, readings.processes, readings.utilisation,"
        " readings.error, COALESCE(promised.reserved_bytes, 0) AS reserved_bytes"
        " FROM devices LEFT JOIN readings ON readings.device_id = devices.id LEFT JOIN"
        " (SELECT device_id, CAST(SUM(reserved_bytes) AS BIGINT) AS reserved_bytes FROM reservations"
        " GROUP BY device_id) promised ON promised.device_id = devices.id"
        " WHERE devices.present = 1 ORDER BY devices.host, devices.kind, devices.number, devices.id"
    )


def holders(db: Reader) -> list[Row]:
    """Who holds what: device_id, job_id, name, pid, plan, reserved_bytes of each live attempt."""
    return db.query(
        "SELECT reservations.device_id, attempts.job_id, jobs.name, attempts.pid, attempts.plan,"
        " reservations.reserved_bytes"
        " FROM reservations JOIN attempts ON attempts.id = reservations.attempt_id"
        " JOIN jobs ON jobs.id = attempts.job_id ORDER BY reservations.device_id, attempts.job_id"
    )


def unended(db: Reader) -> bool:
    """Whether any job waits for memory, or runs."""
    return bool(db.query("SELECT 1 AS one FROM jobs WHERE state IN ('queued', 'admitted', 'running') LIMIT 1"))


def components(db: Reader) -> list[Row]:
    """The latest sign of life of each process of the service."""
    return db.query("SELECT * FROM heartbeats ORDER BY component")
