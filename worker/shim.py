"""The trainer's parent: `python -m worker.shim ATTEMPT_ID [--adopt]`, one process an attempt, in its own session.

It outlives the worker that spawned it, and is small: it must never import Celery, SQLAlchemy or torch. It returns to
its caller as soon as it is certain to be the only one; its second half stays until the trainer has ended.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.failpoints import failpoint
from scheduler.jobs import spec as specs
from scheduler.jobs.states import AttemptState, EndReason
from scheduler.jobs.trainer_config import trainer_config
from scheduler.processes.interpreter import with_source
from scheduler.processes.locks import take_lock
from scheduler.processes.process_tree import inherit_orphans
from scheduler.store import attempts, jobs, run_records
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt, Job, Orders, Outcome
from worker.adoption import adopt
from worker.command import LAUNCHER_ENVIRONMENT, trainer_command
from worker.ending import conclude, conclude_seen, could_not_start
from worker.environment import trainer_environment
from worker.event_listener import EventListener
from worker.process import OwnProcess, evict
from worker.reporting import Reporter
from worker.rundir import RunDir
from worker.shimlog import log
from worker.supervision import CANCEL_GRACE_SECONDS, Patience, Supervision
from worker.tail import Tail

LOCK_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What this shim is for."""

    settings: Settings
    job: Job
    attempt: Attempt
    spec: specs.JobSpec
    run: RunDir
    reserved: Mapping[str, int]  # device id -> bytes

    @classmethod
    def of(cls, settings: Settings, attempt_id: int) -> "Task":
        """Read it all at once, so that the store is not needed again before the trainer has started."""
        with contextlib.closing(open_database(settings, lean=True)) as database:
            attempt = attempts.get(database, attempt_id)
            job = jobs.get(database, attempt.job_id)
            reserved = attempts.reserved(database, attempt_id)
        run = RunDir(root=settings.run_dir(job.id), number=attempt.number)
        return cls(settings=settings, job=job, attempt=attempt, spec=specs.decode(job.spec), run=run, reserved=reserved)

    def patience(self) -> Patience:
        grace_seconds = self.settings.grace_seconds
        return Patience(
            time_limit_seconds=self.spec.resources.time_limit_seconds,
            stop_grace_seconds=grace_seconds,
            cancel_grace_seconds=min(grace_seconds, CANCEL_GRACE_SECONDS),
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.shim")
    parser.add_argument("attempt_id", type=int)
    parser.add_argument("--adopt", action="store_true", help="look after what a dead shim has left")
    options = parser.parse_args(arguments)
    try:
        task = Task.of(Settings.from_environment(), options.attempt_id)
        return _adopt(task) if options.adopt else _start(task)
    except (MmqError, msgspec.MsgspecError, OSError, ValueError) as error:
        log(str(error))
        return 1


def _start(task: Task) -> int:
    if task.attempt.state is not AttemptState.CLAIMED:
        log(f"attempt {task.attempt.id} is {task.attempt.state}: nothing to start")
        return 0
    task.run.create()
    # The shim of the attempt before may still be on its way out.
    if take_lock(task.run.shim_lock, patience_seconds=LOCK_PATIENCE_SECONDS) is None:
        log(f"another shim is looking after job {task.job.id}")
        return 1
    failpoint("start.locked")
    if detach():
        failpoint("start.detached")
        reporter = Reporter(task.settings, task.attempt, pid=os.getpid())
        if still_wanted(task, reporter):
            failpoint("start.named")
            run_trainer(task, reporter)
    return 0


def _adopt(task: Task) -> int:
    if task.attempt.state is AttemptState.ENDED:
        log(f"attempt {task.attempt.id} has ended: nothing to adopt")
        return 0
    task.run.create()
    if take_lock(task.run.shim_lock, patience_seconds=0.5) is None:
        log(f"a shim is looking after job {task.job.id}: nothing to adopt")
        return 0
    failpoint("adoption.locked")
    if detach():
        reporter = Reporter(task.settings, task.attempt, pid=os.getpid())
        adopt(task.settings, task.attempt, task.run, reporter, task.patience())
    return 0


def detach() -> bool:
    """Go on in a session of our own, whose parent is init. True in the process that goes on."""
    if os.fork():
        return False
    os.setsid()
    inherit_orphans()
    return True


def still_wanted(task: Task, reporter: Reporter) -> bool:
    """Name ourselves to the store and hear its orders; an attempt that is not wanted any more is ended here."""
    orders = reporter.alive(time.time()) or Orders()
    early = outcome_before_start(orders)
    if early is not None:
        conclude(task.settings, task.run, reporter, early)
    return early is None and not orders.ended


def outcome_before_start(orders: Orders) -> Outcome | None:
    """The end of an attempt that somebody no longer wanted before its trainer had started."""
    if orders.ended:
        return None
    if orders.cancel:
        return Outcome(reason=EndReason.CANCELLED, message="cancelled before its trainer started")
    if orders.stop:
        return Outcome(reason=EndReason.STOPPED, message="stopped before its trainer started")
    return None


def run_trainer(task: Task, reporter: Reporter) -> None:
    """Start the trainer, watch it, and write down how it ended.

    A cancel that comes between the last look and the start ends the trainer at the first heartbeat, at once.
    """
    try:
        lock = own_run(task)
        failpoint("start.owned")
        if not still_wanted(task, reporter):  # asked again: to clear the run may have taken a minute
            os.close(lock)
            return
        process, tail = start_trainer(task, lock)
    except (MmqError, OSError, KeyError, ValueError) as error:
        conclude(task.settings, task.run, reporter, could_not_start(f"the trainer could not be started: {error}"))
        return
    failpoint("start.spawned")
    log(f"trainer {process.pid} started")
    reporter.started(process, time.time())
    listener = EventListener(tail, reporter)
    supervision = Supervision(
        process=process,
        run=task.run,
        listener=listener,
        reporter=reporter,
        patience=task.patience(),
        log_bytes=task.settings.run_log_bytes,
    )
    conclude_seen(task.settings, task.run, reporter, supervision.watch(), listener.summary)


def own_run(task: Task) -> int:
    """Take the lock that the trainer will inherit. Who holds it without a shim is an ended attempt's, and must go."""
    lock = take_lock(task.run.trainer_lock, patience_seconds=0.5)
    if lock is None:
        evicted = evict(task.run.trainer_lock, grace_seconds=task.patience().stop_grace_seconds)
        log(f"ended {evicted} orphaned processes of an earlier attempt")
        lock = take_lock(task.run.trainer_lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    if lock is None:
        raise MmqError(f"another process still holds {task.run.trainer_lock}")
    return lock


def start_trainer(task: Task, lock: int) -> tuple[OwnProcess, Tail]:
    attempt, plan = task.attempt, json.loads(task.attempt.plan)
    processes = plan.get("processes", 1)
    config = trainer_config(
        task.spec,
        init_from_path=first_weights(task.settings, task.spec),
        plan=plan,
        device=plan["device_config"],
        attempt=attempt.number,
        events_bytes=task.settings.run_log_bytes,
    )
    task.run.prepare(task.job.source, config, run_records.encode(run_records.attempt_record(attempt, task.reserved)))
    failpoint("start.prepared")
    tail = Tail.from_end(task.run.events, attempt.number)
    environment = trainer_environment(
        with_source(os.environ),
        planned=(LAUNCHER_ENVIRONMENT if processes > 1 else {}) | plan.get("environment", {}),
        run_dir=task.run.root,
        job_id=task.job.id,
        attempt=attempt.number,
        micro_batch=attempt.micro_batch,
        accumulation_steps=attempt.accumulation_steps,
    )
    process = OwnProcess.start(
        trainer_command(task.run, processes),
        environment=environment,
        directory=task.run.root,
        log=task.run.log,
        lock=lock,
    )
    return process, tail


def first_weights(settings: Settings, spec: specs.JobSpec) -> str | None:
    """Where the first weights lie: another job's result, or a path of the person's."""
    start = spec.init_from
    if start is None:
        return None
    if start.path is not None:
        return str(Path(start.path))
    if start.job is None:
        raise ValueError(f"the job {start.ref!r} to start from was never looked up")
    return str(settings.run_dir(start.job) / "final")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
