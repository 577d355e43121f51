"""Jobs: stored, found, cancelled, held, released, retried. Every change of state goes through the gate."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from scheduler.errors import NoSuchJob, NotNow, UsageError
from scheduler.failpoints import failpoint
from scheduler.jobs.states import EndReason, JobState, WaitCode
from scheduler.store import references
from scheduler.store.attempt_rows import end
from scheduler.store.database import Database, Reader, Transaction, Writable, placeholders
from scheduler.store.records import Job, NewJob
from scheduler.store.transitions import HELD, NEW, enter, move, record

IsTaken = Callable[[int], bool]
CHUNK = 500  # values in one IN list
DEPENDENCIES = (
    "SELECT dependencies.job_id, dependencies.depends_on, jobs.state FROM dependencies"
    " JOIN jobs ON jobs.id = dependencies.depends_on WHERE dependencies.job_id IN ({})"
    " ORDER BY dependencies.job_id, dependencies.depends_on"
)


def submit(db: Database, job: NewJob, *, at: float, is_taken: IsTaken = lambda _: False) -> Job:
    """Store a job; the same submit_key again returns the job it gave the first time.

    Ids that `is_taken` are skipped: a store restored from an older copy does not know the jobs that came after it.
    Raises NoSuchJob for a dependency that isn't there, UsageError for one that can't succeed any more.
    """
    with db.transaction() as tx:
        return _known(tx, job) or get(tx, _store(tx, job, None, is_taken, at))


def submit_array(
    db: Database, members: Sequence[NewJob], *, at: float, is_taken: IsTaken = lambda _: False
) -> list[Job]:
    """Store jobs that belong together, all or none; the first one's submit_key again returns those of the first time.

    Raises as `submit` does.
    """
    with db.transaction() as tx:
        known = _known(tx, members[0])
        if known is not None:
            return array_of(tx, known)
        first = _store(tx, members[0], None, is_taken, at)
        tx.execute("UPDATE jobs SET array_id = id WHERE id = :first", first=first)
        rest = [_store(tx, member, first, is_taken, at) for member in members[1:]]
        return [get(tx, job_id) for job_id in (first, *rest)]


def array_of(db: Reader, job: Job) -> list[Job]:
    """The members of the job's array, in the order they were stored; the job alone where it is in none."""
    if job.array_id is None:
        return [job]
    rows = db.query("SELECT * FROM jobs WHERE array_id = :array_id ORDER BY id", array_id=job.array_id)
    return [Job.from_row(row) for row in rows]


def _known(tx: Transaction, job: NewJob) -> Job | None:
    return None if job.submit_key is None else by_key(tx, job.submit_key)


def _store(tx: Transaction, job: NewJob, array_id: int | None, is_taken: IsTaken, at: float) -> int:
    depends_on = tuple(dict.fromkeys(job.depends_on))
    _check_dependencies(tx, depends_on)
    while is_taken(job_id := _insert(tx, job, array_id, at)):
        tx.execute("DELETE FROM jobs WHERE id = :id", id=job_id)  # and the next one is higher
    for parent in depends_on:
        tx.execute(
            "INSERT INTO dependencies (job_id, depends_on) VALUES (:job_id, :parent)",
            job_id=job_id,
            parent=parent,
        )
    enter(tx, job_id, JobState.HELD if job.hold else JobState.QUEUED, at=at)
    failpoint("submit.inserted")
    return job_id


def by_key(db: Reader, key: str) -> Job | None:
    """The job that was stored under a submit key."""
    rows = db.query("SELECT * FROM jobs WHERE submit_key = :key", key=key)
    return Job.from_row(rows[0]) if rows else None


def _check_dependencies(tx: Transaction, depends_on: Sequence[int]) -> None:
    for parent in depends_on:
        state = get(tx, parent).state
        if state in (JobState.FAILED, JobState.CANCELLED):
            raise UsageError(f"a job can't come after job {parent}, which is {state}", hint=f"mmq retry {parent}")


def _insert(tx: Transaction, job: NewJob, array_id: int | None, at: float) -> int:
    state = JobState.HELD if job.hold else JobState.QUEUED
    rows = tx.query(
        "INSERT INTO jobs (submit_key, name, kind, user_name, state, waiting_code, waiting, priority, spec, source,"
        " source_path, code_version, effective_batch, gpus, out_of_memory_retries, crash_retries, submitted_at,"
        " array_id, variant)"
        " VALUES (:submit_key, :name, :kind, :user_name, :state, :waiting_code, :waiting, :priority, :spec, :source,"
        " :source_path, :code_version, :effective_batch, :gpus, 0, 0, :at,"
        " :array_id, :variant) RETURNING id",
        submit_key=job.submit_key,
        name=job.name,
        kind=job.kind,
        user_name=job.user_name,
        state=state.value,
        waiting_code=(WaitCode.HELD if job.hold else WaitCode.NEW).value,
        waiting=HELD if job.hold else NEW,
        priority=job.priority,
        spec=job.spec,
        source=job.source,
        source_path=job.source_path,
        code_version=job.code_version,
        effective_batch=job.effective_batch,
        gpus=job.gpus,
        at=at,
        array_id=array_id,
        variant=job.variant,
    )
    return int(rows[0]["id"])


def get(db: Reader, job_id: int) -> Job:
    """The job of an id; NoSuchJob."""
    rows = db.query("SELECT * FROM jobs WHERE id = :job_id", job_id=job_id)
    if not rows:
        raise NoSuchJob(f"there is no job {job_id}", hint="mmq status --all")
    return Job.from_row(rows[0])


def several(db: Reader, job_ids: Sequence[int]) -> dict[int, Job]:
    """The jobs of some ids, by id."""
    jobs: dict[int, Job] = {}
    for start in range(0, len(job_ids), CHUNK):
        names, parameters = placeholders("job", list(job_ids[start : start + CHUNK]))
        rows = db.query(f"SELECT * FROM jobs WHERE id IN ({names})", **parameters)  # noqa: S608
        jobs |= {row["id"]: Job.from_row(row) for row in rows}
    return jobs


def resolve(db: Reader, refs: Sequence[str]) -> list[int]:
    """Ids, in the order named and each once, of references as people type them (see `references`)."""
    return references.resolve(db, refs)


def queue(db: Reader) -> list[Job]:
    """All queued jobs, the next one first."""
    rows = db.query("SELECT * FROM jobs WHERE state = 'queued' ORDER BY priority DESC, id ASC")
    return [Job.from_row(row) for row in rows]


def dependencies(db: Reader, job_ids: Iterable[int]) -> dict[int, list[tuple[int, JobState]]]:
    """For each job that has any: the jobs it depends on, each with its state."""
    ids = list(job_ids)
    parents: dict[int, list[tuple[int, JobState]]] = {}
    for start in range(0, len(ids), CHUNK):
        names, parameters = placeholders("job", ids[start : start + CHUNK])
        rows = db.query(DEPENDENCIES.format(names), **parameters)
        for row in rows:
            parents.setdefault(row["job_id"], []).append((row["depends_on"], JobState(row["state"])))
    return parents


def request_cancel(db: Writable, job_id: int, *, by: str, at: float) -> Job:
    """Cancel a job. Once this returns, nothing of the job is started any more.

    A job that no worker has claimed is cancelled at once; otherwise the request is recorded, and the shim, which reads
    it, ends the attempt. A job that has ended stays as it is.
    """
    with db.transaction() as tx:
        job = get(tx, job_id)
        if job.state.ended or job.cancel_requested_at is not None:
            return job
        tx.execute(
            "UPDATE jobs SET cancel_requested_at = :at, cancel_requested_by = :by WHERE id = :job_id",
            at=at,
            by=by,
            job_id=job_id,
        )
        record(tx, job_id, "cancel_requested", at=at, attempt_id=job.attempt_id, detail={"by": by})
        if job.state in (JobState.QUEUED, JobState.HELD) or _end_unclaimed(tx, job_id, by, at):
            move(
                tx,
                job_id,
                JobState.CANCELLED,
                at=at,
                reason=EndReason.CANCELLED,
                message=f"cancelled by {by} before it ran",
            )
        return get(tx, job_id)


def _end_unclaimed(tx: Transaction, job_id: int, by: str, at: float) -> bool:
    """End an admitted attempt that no worker has claimed, and give back its memory; False if there is none."""
    unclaimed = tx.query("SELECT id FROM attempts WHERE job_id = :job_id AND state = 'admitted'", job_id=job_id)
    for row in unclaimed:
        end(tx, row["id"], reason=EndReason.CANCELLED, message=f"cancelled by {by} before a worker claimed it", at=at)
    return bool(unclaimed)


def hold(db: Writable, job_id: int, *, at: float) -> Job:
    """Keep a queued job from being considered; NotNow if it isn't queued any more."""
    with db.transaction() as tx:
        job = get(tx, job_id)
        if job.state is JobState.HELD:
            return job
        _require(job, "hold", JobState.QUEUED)
        move(tx, job_id, JobState.HELD, at=at)
        return get(tx, job_id)


def release(db: Writable, job_id: int, *, at: float) -> Job:
    """Let a held job be considered again; NotNow if it isn't held."""
    with db.transaction() as tx:
        job = get(tx, job_id)
        if job.state is JobState.QUEUED:
            return job
        _require(job, "release", JobState.HELD)
        move(tx, job_id, JobState.QUEUED, at=at)
        return get(tx, job_id)


def retry(db: Writable, job_id: int, *, at: float) -> Job:
    """Queue a failed or cancelled job again, as if it had used no retry yet; its checkpoints stay."""
    with db.transaction() as tx:
        job = get(tx, job_id)
        _require(job, "retry", JobState.FAILED, JobState.CANCELLED)
        for parent, state in dependencies(tx, [job_id]).get(job_id, []):
            if state in (JobState.FAILED, JobState.CANCELLED):
                raise NotNow(f"job {job_id} comes after job {parent}, which is {state}", hint=f"mmq retry {parent}")
        tx.execute(
            "UPDATE jobs SET out_of_memory_retries = 0, crash_retries = 0, micro_batch_limit = NULL,"
            " cancel_requested_at = NULL, cancel_requested_by = NULL WHERE id = :job_id",
            job_id=job_id,
        )
        move(tx, job_id, JobState.QUEUED, at=at, detail={"retry": True})
        return get(tx, job_id)


def _require(job: Job, verb: str, *states: JobState) -> None:
    if job.state not in states:
        wanted = " or ".join(states)
        raise NotNow(f"can't {verb} job {job.id}: it is {job.state}, not {wanted}", hint=f"mmq status {job.id}")


def explain_waiting(db: Database, reasons: Mapping[int, tuple[str, str]]) -> None:
    """Write why these jobs wait, code and sentence, where they are still queued."""
    if not reasons:
        return
    with db.transaction() as tx:
        for job_id, (code, sentence) in reasons.items():
            tx.execute(
                "UPDATE jobs SET waiting_code = :code, waiting = :sentence WHERE id = :job_id AND state = 'queued'",
                code=code,
                sentence=sentence,
                job_id=job_id,
            )
