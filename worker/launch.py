"""Claiming an attempt and spawning its shim: all that a worker does for a job.

A claim is a compare-and-swap in the store, so of any number of messages one wins. The shim goes into a session of
its own and the worker forgets it; one that can't be started ends the attempt here.
"""

import logging
import os
import subprocess
import time

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.failpoints import failpoint
from scheduler.processes.interpreter import python_command, with_source
from scheduler.processes.liveness import boot_id
from scheduler.processes.loglines import message_of
from scheduler.processes.rotation import cut_within
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from scheduler.store.records import Attempt
from worker.ending import could_not_start
from worker.ownership import take_ownership
from worker.rundir import RunDir

SPAWN_LIMIT_SECONDS = 30.0

_logger = logging.getLogger(__name__)


def start(settings: Settings, database: Database, job_id: int, attempt_id: int) -> bool:
    """Claim the attempt and start its shim; False, and no harm, if it is not there to be claimed."""
    if not _exists(database, job_id, attempt_id):
        return False
    failpoint("claim.received")
    attempt = attempts.claim(database, attempt_id, boot_id=boot_id(), at=time.time())
    if attempt is None:
        _logger.info("attempt %d of job %d is not there to be claimed", attempt_id, job_id)
        return False
    failpoint("claim.committed")
    problem = spawn_shim(settings, database, attempt)
    failpoint("claim.spawned")
    if problem is None:
        _logger.info("job %d attempt %d: shim started", job_id, attempt.number, extra=_log_fields(attempt))
        return True
    _logger.error("job %d attempt %d: %s", job_id, attempt.number, problem, extra=_log_fields(attempt))
    attempts.finish(database, attempt_id, could_not_start(problem), at=time.time())
    return False


def adopt(settings: Settings, database: Database, job_id: int, attempt_id: int) -> bool:
    """Start a shim that looks after an attempt left alone; it finds out by itself if there is nothing to do."""
    if not _exists(database, job_id, attempt_id):
        return False
    attempt = attempts.get(database, attempt_id)
    problem = spawn_shim(settings, database, attempt, "--adopt")
    if problem is not None:
        _logger.error(
            "job %d attempt %d: can't be adopted: %s", job_id, attempt.number, problem, extra=_log_fields(attempt)
        )
    return problem is None


def spawn_shim(settings: Settings, database: Database, attempt: Attempt, *flags: str) -> str | None:
    """Start a shim and wait until it stands on its own; None, or why it does not."""
    job = jobs.get(database, attempt.job_id)
    depends_on = [parent for parent, _ in jobs.dependencies(database, [job.id]).get(job.id, [])]
    run = RunDir(root=settings.run_dir(attempt.job_id), number=attempt.number)
    command = python_command("worker.shim", str(attempt.id), *flags)
    try:
        aside = take_ownership(run, job, depends_on, is_first_start=attempt.number == 1 and not flags)
        if aside is not None:
            _logger.warning("%s was another job's run directory, and is %s now", run.root, aside)
        cut_within(run.shim_log, limit_bytes=settings.run_log_bytes)
        with run.shim_log.open("ab") as shim_log:
            first_half = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=shim_log,
                stderr=shim_log,
                cwd=run.root,
                env=with_source(os.environ),
                start_new_session=True,
                timeout=SPAWN_LIMIT_SECONDS,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"its shim could not be started: {error}"
    if first_half.returncode == 0:
        return None
    return f"its shim could not be started: {_last_line(run) or f'exit code {first_half.returncode}'}"


def _exists(database: Database, job_id: int, attempt_id: int) -> bool:
    """Whether there is such an attempt of such a job; a message that lies is only logged."""
    try:
        attempt = attempts.get(database, attempt_id)
    except MmqError as error:
        _logger.warning("message for attempt %d: %s", attempt_id, error)
        return False
    if attempt.job_id != job_id:
        _logger.warning("message names job %d for attempt %d of job %d", job_id, attempt_id, attempt.job_id)
        return False
    return True


def _log_fields(attempt: Attempt) -> dict[str, int]:
    return {"job": attempt.job_id, "attempt": attempt.number}


def _last_line(run: RunDir) -> str:
    lines = run.shim_log.read_text(errors="replace").strip().splitlines()
    return message_of(lines[-1])[:500] if lines else ""
