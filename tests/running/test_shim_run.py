"""A shim and its trainer, from the claim to the end: real processes, a real store, a scripted trainer."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.liveness import boot_id, group_members, process_started
from scheduler.store import attempts, jobs
from tests.running.stage import GIB, Stage, until


def test_a_job_from_its_claim_to_its_end(stage: Stage) -> None:
    attempt = stage.claimed({"steps": 3, "out_of_memory_at": 2})
    assert stage.shim(attempt) == 0
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    ended = stage.attempt(attempt)
    assert (ended.exit_code, ended.exit_signal, ended.step, ended.total_steps) == (0, None, 3, 3)
    assert (ended.measured_allocated_bytes, ended.measured_process_bytes) == (503, 900)
    assert stage.kinds(attempt) == ["claimed", "out_of_memory"]
    run = stage.run(attempt)
    record = json.loads(run.exit.read_text())
    assert (record["reason"], record["exit_code"], record["attempt"]) == ("done", 0, 1)
    assert (run.root / "log.txt").resolve() == run.log.resolve()
    assert (run.root / "exit.json").read_text() == run.exit.read_text()
    assert "the trainer speaks" in run.log.read_text()
    assert (run.root / "job.yaml").read_text() == "kind: sft\n"
    assert json.loads((run.root / "config.json").read_text())["plan"]["micro_batch"] == 4


def test_the_trainer_sees_its_plan_and_no_secret(stage: Stage) -> None:
    attempt = stage.claimed({})
    stage.shim(attempt)
    stage.end(attempt)
    root = stage.run(attempt).root
    environment = json.loads((root / "environment.json").read_text())
    assert environment["MMQ_JOB_ID"] == str(attempt.job_id)
    assert environment["MMQ_ATTEMPT"] == "1"
    assert environment["MMQ_MICRO_BATCH"] == "4"
    assert environment["MMQ_ACCUMULATION_STEPS"] == "2"
    assert environment["MMQ_RUN_DIR"] == str(root)
    assert environment["MMQ_CHECKPOINT_DIR"] == str(root / "checkpoints")
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert "SOME_TOKEN" not in environment
    assert "MMQ_DATABASE_URL" not in environment


@pytest.mark.parametrize(
    ("scenario", "reason", "state"),
    [
        ({"exit": 1}, EndReason.EXIT_CODE, JobState.QUEUED),
        ({"exit": 2, "message": "no such preset"}, EndReason.BAD_CONFIGURATION, JobState.FAILED),
        ({"exit": 3}, EndReason.BAD_DATA, JobState.FAILED),
        ({"exit": 80}, EndReason.OUT_OF_MEMORY, JobState.QUEUED),
        ({"exit": 81}, EndReason.NON_FINITE_LOSS, JobState.FAILED),
        ({"exit": 1, "reason": "disk_full", "message": "no space"}, EndReason.DISK_FULL, JobState.FAILED),
        ({"exit": 0, "final": False}, EndReason.NO_RESULT, JobState.QUEUED),
        ({"die_at": 2}, EndReason.KILLED, JobState.QUEUED),
    ],
)
def test_each_end_has_its_reason(stage: Stage, scenario: dict[str, Any], reason: EndReason, state: JobState) -> None:
    attempt = stage.claimed(scenario)
    assert stage.shim(attempt) == 0
    assert stage.end(attempt) == (reason, state)
    if "message" in scenario:
        assert stage.attempt(attempt).message == scenario["message"]


def test_shim_and_trainer_are_named_and_in_groups_of_their_own(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    assert attempt.pid is not None
    assert attempt.shim_pid is not None
    assert (process_started(attempt.pid), process_started(attempt.shim_pid)) == (
        attempt.pid_started,
        attempt.shim_started,
    )
    assert attempt.boot_id == boot_id()
    assert os.getpgid(attempt.pid) == attempt.pid
    assert os.getsid(attempt.shim_pid) == attempt.shim_pid
    loaded = Path(f"/proc/{attempt.shim_pid}/maps").read_text()
    assert not [name for name in ("torch", "sqlalchemy", "celery", "kombu", "numpy") if f"/{name}/" in loaded]


def test_a_shim_is_small(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    table = Path(f"/proc/{attempt.shim_pid}/smaps_rollup").read_text()
    (resident,) = [int(line.split()[1]) for line in table.splitlines() if line.startswith("Rss:")]
    assert resident < 40 * 1024, f"{resident} KiB resident"


def test_a_cancel_ends_it_and_wins(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)


def test_a_cancel_before_the_trainer_starts(stage: Stage) -> None:
    attempt = stage.claimed({"steps": 500, "pause": 1})
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    assert stage.shim(attempt) == 0
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)
    assert not stage.run(attempt).log.exists()  # that of a trainer's start, before it can say anything


def test_a_stop_lets_it_save_and_go_on_later(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    attempts.request_stop(stage.db, attempt.id, at=time.time())
    assert stage.end(attempt) == (EndReason.STOPPED, JobState.QUEUED)
    assert stage.attempt(attempt).exit_code == 75
    assert stage.kinds(attempt) == ["claimed", "stop_requested", "checkpoint"]
    again = attempts.claim(stage.db, stage.admit(jobs.get(stage.db, attempt.job_id)).id, at=time.time())
    assert again is not None
    scenario = stage.run(attempt).root / "scenario.json"
    scenario.write_text('{"steps": 1}')
    assert stage.shim(again) == 0
    assert stage.end(again) == (EndReason.DONE, JobState.SUCCEEDED)
    assert (stage.run(again).root / "log.txt").resolve() == stage.run(again).log.resolve()


def test_another_micro_batch_is_asked_for_and_the_answer_gives_memory_back(stage: Stage) -> None:
    attempt = stage.claimed({"steps": 1000, "pause": 0.05, "elastic": True})
    control = stage.run(attempt).control
    control.write_text('{"number": 5, "micro_batch": 1}')  # left by an attempt before
    assert stage.shim(attempt) == 0
    until(lambda: stage.attempt(attempt).state is AttemptState.RUNNING)
    assert not control.exists()
    smaller = attempts.Resize(micro_batch=2, limit_bytes=GIB // 2, device_limits={}, why="for job 7")
    assert attempts.request_resize(stage.db, attempt.id, smaller, at=time.time())
    until(lambda: stage.attempt(attempt).heeded_number == 1)
    now = stage.attempt(attempt)
    assert json.loads(control.read_text()) == {"number": 1, "micro_batch": 2, "limit_bytes": GIB // 2}
    assert (now.micro_batch, now.accumulation_steps, now.reserved_bytes) == (2, 4, GIB // 2)
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    stage.end(attempt)
    assert "resized" in stage.kinds(attempt)


def test_term_to_the_shim_is_a_stop(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    assert attempt.shim_pid is not None
    os.kill(attempt.shim_pid, signal.SIGTERM)
    assert stage.end(attempt) == (EndReason.STOPPED, JobState.QUEUED)


def test_a_trainer_that_ignores_term_is_killed_with_its_children(stage: Stage) -> None:
    stage.grace_seconds = 1
    attempt = stage.running({"steps": 500, "pause": 1, "term": "ignore", "children": 2})
    assert attempt.pid is not None
    session = os.getsid(attempt.pid)
    until(lambda: len(group_members(attempt.pid, session)) == 3)
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)
    assert "killed because it did not stop" in (stage.attempt(attempt).message or "")
    until(lambda: group_members(attempt.pid, session) == [])


def test_children_left_by_a_trainer_that_ended_are_killed(stage: Stage) -> None:
    attempt = stage.running({"steps": 2, "lingers": True, "children": 2})
    assert attempt.pid is not None
    session = os.getsid(attempt.pid)
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    until(lambda: group_members(attempt.pid, session) == [])


def test_the_time_limit_stops_it(stage: Stage) -> None:
    attempt = stage.claimed({"steps": 500, "pause": 1}, time_limit=2)  # enough for it to listen to signals
    assert stage.shim(attempt) == 0
    assert stage.end(attempt) == (EndReason.TIME_LIMIT, JobState.FAILED)
    assert stage.attempt(attempt).exit_code == 75


def test_a_second_shim_for_the_same_attempt_does_nothing(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    assert stage.shim(attempt) == 0
    assert stage.shim(attempt, "--adopt") == 0
    now = stage.attempt(attempt)
    assert (now.state, now.shim_pid, now.pid) == (AttemptState.RUNNING, attempt.shim_pid, attempt.pid)


def test_an_attempt_that_the_store_has_closed_is_ended(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    with stage.db.transaction() as tx:
        tx.execute("UPDATE attempts SET state = 'ended', reason = 'lost' WHERE id = :a", a=attempt.id)
        tx.execute("DELETE FROM reservations")
    until(lambda: attempt.pid is not None and process_started(attempt.pid) is None)
    until(lambda: attempt.shim_pid is not None and process_started(attempt.shim_pid) is None)


def test_what_goes_wrong_before_the_trainer_is_recorded(stage: Stage) -> None:
    attempt = stage.claimed({})
    with stage.db.transaction() as tx:
        tx.execute("UPDATE attempts SET plan = '{}' WHERE id = :a", a=attempt.id)
    assert stage.shim(attempt) == 0
    reason, _ = stage.end(attempt)
    assert reason is EndReason.COULD_NOT_START
