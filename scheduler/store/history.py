"""Facts of past attempts, for estimates of later ones: how fast they went, who has used how much."""

from typing import NamedTuple

from scheduler.store.database import Reader


class PastSpeed(NamedTuple):
    """One attempt, the first of its job, as far as it came."""

    spec: str  # the job's, JSON
    kind: str  # of its device
    seconds_per_step: float
    busy_share: float | None


class Use(NamedTuple):
    user_name: str
    reserved_bytes: int
    began_at: float
    ended_at: float | None


class Ended(NamedTuple):
    attempt_id: int
    job_id: int
    pid_started: int | None
    ended_at: float


def ended_with(db: Reader, pid: int, *, since: float) -> Ended | None:
    """Return the latest ended attempt whose trainer or shim had this pid."""
    rows = db.query(
        "SELECT id, job_id, CASE WHEN pid = :pid THEN pid_started ELSE shim_started END AS started, ended_at"
        " FROM attempts WHERE state = 'ended' AND ended_at >= :since AND (pid = :pid OR shim_pid = :pid)"
        " ORDER BY id DESC LIMIT 1",
        pid=pid,
        since=since,
    )
    return Ended(rows[0]["id"], rows[0]["job_id"], rows[0]["started"], rows[0]["ended_at"]) if rows else None


def speeds(db: Reader, *, latest: int) -> list[PastSpeed]:
    """Read how long a step took in the latest attempts that took any; what starting cost is among it."""
    rows = db.query(
        "SELECT jobs.spec, attempts.device, attempts.step, attempts.started_at, attempts.heartbeat_at,"
        " attempts.busy_share FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE attempts.number = 1 AND attempts.step > 0 AND attempts.started_at IS NOT NULL"
        " AND attempts.heartbeat_at > attempts.started_at ORDER BY attempts.id DESC LIMIT :latest",
        latest=latest,
    )
    return [
        PastSpeed(
            spec=str(row["spec"]),
            kind=str(row["device"]).partition(":")[0],
            seconds_per_step=(row["heartbeat_at"] - row["started_at"]) / row["step"],
            busy_share=row["busy_share"],
        )
        for row in rows
    ]


def uses(db: Reader, *, since: float, latest: int) -> list[Use]:
    """Read what was promised to whom, and how long, by attempts that lived after `since`."""
    rows = db.query(
        "SELECT jobs.user_name, attempts.reserved_bytes, attempts.admitted_at, attempts.ended_at"
        " FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE COALESCE(attempts.ended_at, :since) >= :since ORDER BY attempts.id DESC LIMIT :latest",
        since=since,
        latest=latest,
    )
    return [Use(str(row["user_name"]), int(row["reserved_bytes"]), row["admitted_at"], row["ended_at"]) for row in rows]


def preemptions(db: Reader, *, latest: int) -> tuple[int, int]:
    """Count, of the latest attempts, those that were their job's first, and those that were stopped for another job."""
    rows = db.query(
        "SELECT COUNT(CASE WHEN number = 1 THEN 1 END) AS started, COUNT(preempted_for) AS stopped"
        " FROM (SELECT number, preempted_for FROM attempts ORDER BY id DESC LIMIT :latest) newest",
        latest=latest,
    )
    return int(rows[0]["started"]), int(rows[0]["stopped"])


def ran_seconds(db: Reader, job_ids: list[int]) -> dict[int, float]:
    """Sum how long the ended attempts of these jobs have run."""
    seconds: dict[int, float] = {}
    for job_id in job_ids:
        rows = db.query(
            "SELECT COALESCE(SUM(ended_at - admitted_at), 0) AS seconds FROM attempts"
            " WHERE job_id = :job_id AND ended_at IS NOT NULL",
            job_id=job_id,
        )
        seconds[job_id] = float(rows[0]["seconds"])
    return seconds
