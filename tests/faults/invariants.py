"""What must hold after any fault, looked at from outside: the store, the processes and the run directories together.

Reads only. What is merely on its way from one state to the next is no violation: each suspicion has to last.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from scheduler.config import Settings
from scheduler.jobs.states import AttemptState, JobState
from scheduler.processes.liveness import PROC, process_started, processes, same_process
from scheduler.processes.process_tree import descendants
from scheduler.store import attempts, audit, jobs
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt


def violations(settings: Settings, accepted: Iterable[int] = (), *, lasting_seconds: float) -> list[str]:
    """Everything that should never be in a home whose service is up, or not for so long.

    `accepted`: the jobs that were acknowledged.
    """
    with closing(open_database(settings, lean=True)) as db:
        broken = audit.violations(db)
        broken += [f"job {job} was acknowledged and is lost" for job in lost(db, accepted)]
        broken += [one for job in settings.jobs_dir.glob("*") if job.name.isdecimal() for one in of_run(job)]
        broken += lasting(db, settings, lasting_seconds)
    return broken


def lost(db: Database, accepted: Iterable[int]) -> list[int]:
    known = {row["id"] for row in db.query("SELECT id FROM jobs")}
    return sorted(set(accepted) - known)


def lasting(db: Database, settings: Settings, seconds: float) -> list[str]:
    """The suspicions that were there at every look for so long."""
    deadline = time.monotonic() + seconds
    found = set(suspicions(db, settings))
    while found and time.monotonic() < deadline:
        time.sleep(0.1)
        found &= set(suspicions(db, settings))
    return sorted(found)


def suspicions(db: Database, settings: Settings) -> list[str]:
    live = attempts.live(db, settings.host)
    return [*strays(settings, live), *neglected(live), *([] if live else idle(db))]


def strays(settings: Settings, live: Sequence[Attempt]) -> Iterator[str]:
    """Processes that belong to no live attempt."""
    known = {attempt.id for attempt in live}
    trainers = {attempt.pid for attempt in live if attempt.state is AttemptState.RUNNING and attempt.pid is not None}
    theirs = trainers.union(*map(descendants, trainers))  # those of a launcher are in groups of their own
    for pid, job in trainer_processes(settings):
        if pid not in theirs:
            yield f"process {pid} of job {job} belongs to no running attempt"
    for pid, attempt_id in shims(settings):
        if attempt_id not in known:
            yield f"shim {pid} looks after attempt {attempt_id}, which is not alive"


def neglected(live: Sequence[Attempt]) -> Iterator[str]:
    """Live attempts without the processes that they should have."""
    for attempt in live:
        name = f"attempt {attempt.number} of job {attempt.job_id} is {attempt.state}"
        if attempt.state is AttemptState.ADMITTED:
            yield f"{name}, and nobody has claimed it"
        elif not same_process(attempt.shim_pid, attempt.shim_started, attempt.boot_id):
            yield f"{name}, and no shim looks after it"
        elif attempt.state is AttemptState.CLAIMED:
            yield f"{name}, and no trainer of it was started"
        elif not same_process(attempt.pid, attempt.pid_started, attempt.boot_id):
            yield f"{name}, and its trainer is gone"


def idle(db: Database) -> Iterator[str]:
    """Jobs that wait where nothing runs and nothing else is to come first."""
    queue = jobs.queue(db)
    depends = jobs.dependencies(db, [job.id for job in queue])
    for job in queue:
        if all(state is JobState.SUCCEEDED for _, state in depends.get(job.id, [])):
            yield f"job {job.id} waits though nothing runs: {job.waiting}"


def trainer_processes(settings: Settings) -> Iterator[tuple[int, str]]:
    """Each living process that was started as, or by, a trainer of this home: pid and job."""
    root = f"MMQ_RUN_DIR={settings.jobs_dir}/".encode()
    for pid in processes():
        with suppress(OSError):
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            found = next((word for word in environment if word.startswith(root)), None)
            if found is not None and process_started(pid) is not None:
                yield pid, found.rpartition(b"/")[2].decode()


def shims(settings: Settings) -> Iterator[tuple[int, int]]:
    """Each living shim of this home: pid and attempt."""
    home = f"MMQ_HOME={settings.home}".encode()
    for pid in processes():
        with suppress(OSError, ValueError):
            words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "worker.shim" in words and home in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                yield pid, int(words[words.index("worker.shim") + 1])


def of_run(run: Path) -> Iterator[str]:
    """One run directory: no attempt started twice, no trainer beside another, the newest checkpoint whole."""
    told = events(run)
    starts = Counter(event["attempt"] for event in told if event["event"] == "started")
    yield from (f"{run.name}: attempt {number} was started {n} times" for number, n in starts.items() if n > 1)
    yield from (f"{run.name}: two trainers at once" for event in told if event["event"] == "doubled")
    if (problem := damage(run / "checkpoints")) is not None:
        yield f"{run.name}: {problem}"


def events(run: Path) -> list[dict[str, object]]:
    """What trainers wrote, whole lines only: one may have been killed in the middle of its last."""
    found = []
    with suppress(FileNotFoundError):
        for line in (run / "events.jsonl").read_text(errors="replace").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def damage(checkpoints: Path) -> str | None:
    """What is wrong with the newest checkpoint. One that makes way while we look is not the newest."""
    steps = [int(path.name[5:]) for path in checkpoints.glob("step-*")]
    if not steps:
        return None
    newest = checkpoints / f"step-{max(steps)}"
    try:
        manifest = json.loads((newest / "manifest.json").read_text())
        wrong = [name for name, facts in manifest["files"].items() if facts["sha256"] != digest(newest / name)]
    except (OSError, ValueError) as error:
        return f"checkpoint {newest.name} can't be read: {error}" if newest.exists() else None
    return f"{newest.name}: {', '.join(wrong)} not as written" if wrong else None


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
