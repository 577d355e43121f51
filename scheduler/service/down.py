"""`mmq down`: stop the service; with `stop_jobs`, also let each running job save and end."""

import os
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

from scheduler.config import Settings
from scheduler.errors import ExitCode, MmqError
from scheduler.processes.interpreter import python_command
from scheduler.processes.locks import TRAINER_LOCK, attended, lock_held
from scheduler.processes.signalling import send
from scheduler.service.lock import Holder, holder
from scheduler.service.logs import open_log
from scheduler.service.roles import child_environment
from scheduler.service.up import lock_path, say
from scheduler.store import attempts
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt

SERVICE_SECONDS = 60.0
JOBS_SECONDS = 180.0


def down(settings: Settings, stop_jobs: bool) -> int:
    """Stop the service, then the jobs if asked: in this order, so that nothing new is admitted meanwhile."""
    path = lock_path(settings)
    service = holder(path)
    if service is None:
        print(f"mmq is not running for {settings.home}")
    else:
        _stop_service(path, service)
        print(f"mmq is down (it was pid {service.pid})")
    return stop_all_jobs(settings) if stop_jobs else int(ExitCode.OK)


def stop_all_jobs(settings: Settings) -> int:
    """Ask every live attempt of this host to save and end, and wait for it; 1 if some did not in time."""
    with closing(open_database(settings, lean=True)) as database:
        for attempt in _orphaned(settings, database):
            _adopt(settings, attempt)
        stopping = _attended(settings, database)
        for attempt in stopping:
            attempts.request_stop(database, attempt.id, at=time.time())
            say(f"job {attempt.job_id} (attempt {attempt.number}) is saving")
        left = _wait(settings, stopping)
    for attempt in left:
        say(f"job {attempt.job_id} (attempt {attempt.number}) is still running after {JOBS_SECONDS:.0f} s")
    return int(ExitCode.FAILED if left else ExitCode.OK)


def _attended(settings: Settings, database: Database) -> list[Attempt]:
    live = attempts.live(database, settings.host)
    return [attempt for attempt in live if attended(settings.run_dir(attempt.job_id))]


def _orphaned(settings: Settings, database: Database) -> list[Attempt]:
    """Attempts whose trainer lives and whose shim does not: nobody would see the request to stop them."""
    live = attempts.live(database, settings.host)
    dirs = [(attempt, settings.run_dir(attempt.job_id)) for attempt in live]
    return [attempt for attempt, path in dirs if not attended(path) and lock_held(path / TRAINER_LOCK)]


def _adopt(settings: Settings, attempt: Attempt) -> None:
    """Start a shim for it, as a worker would; returns as soon as that watches the trainer."""
    log = open_log(settings.log_dir / "service.log")
    try:
        subprocess.run(
            python_command("worker.shim", str(attempt.id), "--adopt"),
            env=child_environment(settings, None),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(log)


def _wait(settings: Settings, stopping: list[Attempt]) -> list[Attempt]:
    """Wait until no shim is left: each records its attempt's end before it exits."""
    deadline = time.monotonic() + JOBS_SECONDS
    left = stopping
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [attempt for attempt in left if attended(settings.run_dir(attempt.job_id))]
    return left


def _stop_service(path: Path, service: Holder) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(service.pid, service.started, number)
        if _released(path, service):
            return
    raise MmqError(f"the service (pid {service.pid}) does not end", hint=f"ps -fp {service.pid}")


def _released(path: Path, service: Holder) -> bool:
    deadline = time.monotonic() + SERVICE_SECONDS
    while time.monotonic() < deadline:
        now = holder(path)
        if now is None or (now.pid, now.started) != (service.pid, service.started):
            return True
        time.sleep(0.05)
    return False
