"""A store that is away while the trainer runs: nothing said is lost, and the order is kept."""

import os
import time

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.liveness import process_started
from scheduler.store import jobs
from scheduler.store.observations import NOTES_KEPT, noted_until
from scheduler.store.records import Outcome, Progress
from tests.running.stage import Stage, until
from worker.process import AdoptedProcess
from worker.progress import NOTED
from worker.reporting import Reporter
from worker.shim import Task, run_trainer, still_wanted


def test_what_was_said_meanwhile_is_written_when_the_store_is_back(stage: Stage) -> None:
    attempt = stage.claimed({})
    process = AdoptedProcess.adopt(os.getpid(), process_started(os.getpid()) or 0)
    assert process is not None
    database, away = stage.settings.home / "mmq.db", stage.settings.home / "away.db"
    stage.db.close()
    database.rename(away)
    reporter = Reporter(stage.settings, attempt, pid=os.getpid())
    reporter.started(process, time.time())
    assert reporter.beat(Progress(step=1), time.time()) is None
    reporter.note({"event": "checkpoint", "attempt": 1, "at": 0, "step": 1}, time.time())
    assert reporter.beat(Progress(step=2), time.time()) is None
    away.rename(database)
    orders = until(lambda: reporter.beat(Progress(step=3), time.time()))
    assert not orders.cancel
    stage.reopen()
    now = stage.attempt(attempt)
    assert (now.state, now.step, now.pid) == (AttemptState.RUNNING, 3, os.getpid())
    assert stage.kinds(attempt) == ["claimed", "checkpoint"]
    os.close(process.fileno())


def test_a_story_keeps_the_latest_checkpoints_and_not_every_one(stage: Stage) -> None:
    attempt = stage.claimed({})
    reporter = Reporter(stage.settings, attempt, pid=os.getpid())
    reporter.note({"event": "out_of_memory", "attempt": 1, "at": 0.5}, 0.5)
    for step in range(1, 2 * NOTES_KEPT):
        reporter.note({"event": "checkpoint", "attempt": 1, "at": step, "step": step}, float(step))
    assert reporter.beat(Progress(), time.time()) is not None
    assert stage.kinds(attempt) == ["claimed", "out_of_memory", *["checkpoint"] * NOTES_KEPT]
    assert noted_until(stage.db, attempt, NOTED) == 2 * NOTES_KEPT - 1


def test_a_cancel_that_came_while_the_run_was_cleared_wins_over_the_start(stage: Stage) -> None:
    attempt = stage.claimed({})
    task = Task.of(stage.settings, attempt.id)
    reporter = Reporter(stage.settings, attempt, pid=os.getpid())
    assert still_wanted(task, reporter)
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    run_trainer(task, reporter)
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)
    assert not stage.run(attempt).log.exists()


def test_the_end_is_said_until_it_is_heard(stage: Stage) -> None:
    attempt = stage.claimed({})
    database, away = stage.settings.home / "mmq.db", stage.settings.home / "away.db"
    stage.db.close()
    database.rename(away)
    reporter = Reporter(stage.settings, attempt, pid=os.getpid())
    assert reporter.beat(Progress(step=1), time.time()) is None
    away.rename(database)
    assert reporter.finish(Outcome(reason=EndReason.BAD_DATA, message="line 7"), time.time())
    stage.reopen()
    assert stage.end(attempt) == (EndReason.BAD_DATA, JobState.FAILED)
