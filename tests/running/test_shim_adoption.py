"""Shims killed, trainers left alone, records left unread: what the next shim makes of it."""

import dataclasses
import json
import signal
import subprocess
import time

import pytest

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.interpreter import python_command
from scheduler.processes.liveness import boot_id, process_started
from scheduler.processes.locks import holders, lock_held
from scheduler.store import attempts, jobs
from scheduler.store.records import Attempt, Outcome
from tests.running.stage import Stage, kill, until
from worker import launch


def orphaned(stage: Stage, attempt: Attempt) -> Attempt:
    kill(attempt.shim_pid)
    assert lock_held(stage.run(attempt).trainer_lock)
    until(lambda: not lock_held(stage.run(attempt).shim_lock))  # what the shim was just starting held it, too
    return attempt


def make_old(stage: Stage, attempt: Attempt) -> None:
    """Claimed a minute ago: nobody is on the way to it any more."""
    with stage.db.transaction() as tx:
        tx.execute("UPDATE attempts SET claimed_at = claimed_at - 60 WHERE id = :a", a=attempt.id)


def test_a_trainer_whose_shim_was_killed_goes_on_and_is_adopted(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 6, "pause": 0.3, "lingers": True, "out_of_memory_at": 1}))
    assert stage.shim(attempt, "--adopt") == 0
    until(lambda: stage.attempt(attempt).shim_pid != attempt.shim_pid)
    adopted = stage.attempt(attempt)
    assert (adopted.pid, adopted.pid_started) == (attempt.pid, attempt.pid_started)
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    assert stage.attempt(attempt).step == 6
    steps = [json.loads(line)["step"] for line in stage.run(attempt).events.read_text().splitlines()]
    assert steps == [0, 1, 1, 2, 3, 4, 5, 6, 6]  # each once: started, out_of_memory at 1 and finished say theirs too
    assert stage.kinds(attempt).count("out_of_memory") == 1


def test_an_adopted_trainer_is_cancelled_like_any_other(stage: Stage) -> None:
    stage.grace_seconds = 1
    attempt = orphaned(stage, stage.running({"steps": 500, "pause": 1, "term": "ignore", "children": 1}))
    assert stage.shim(attempt, "--adopt") == 0
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)
    assert holders(stage.run(attempt).trainer_lock) == []


def test_an_adopted_trainer_that_fails_has_its_own_reason(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 3, "lingers": True, "exit": 81, "message": "NaN at step 3"}))
    assert stage.shim(attempt, "--adopt") == 0
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.NON_FINITE_LOSS, JobState.FAILED)
    assert (stage.attempt(attempt).exit_code, stage.attempt(attempt).message) == (81, "NaN at step 3")


def test_a_trainer_killed_while_adopted_is_lost(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 500, "pause": 1}))
    assert stage.shim(attempt, "--adopt") == 0
    until(lambda: stage.attempt(attempt).shim_pid != attempt.shim_pid)
    kill(attempt.pid)
    assert stage.end(attempt) == (EndReason.LOST, JobState.QUEUED)


def test_a_trainer_that_ended_while_nobody_looked_is_done(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 2, "lingers": True, "out_of_memory_at": 2}))
    stage.let_go(attempt)
    until(lambda: process_started(attempt.pid or 0) is None)
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    assert stage.kinds(attempt).count("out_of_memory") == 1


def test_both_killed_is_lost(stage: Stage) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    kill(attempt.shim_pid)
    kill(attempt.pid)
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt) == (EndReason.LOST, JobState.QUEUED)


def test_a_trainer_started_by_a_shim_that_died_before_saying_so_is_found(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 4, "lingers": True}))
    with stage.db.transaction() as tx:
        tx.execute(
            "UPDATE attempts SET state = 'claimed', pid = NULL, pid_started = NULL, shim_pid = NULL WHERE id = :a",
            a=attempt.id,
        )
    make_old(stage, attempt)
    assert stage.shim(attempt, "--adopt") == 0
    assert until(lambda: stage.attempt(attempt).pid) == attempt.pid
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)


def test_a_record_that_never_reached_the_store_does_now(stage: Stage) -> None:
    attempt = stage.claimed({})
    make_old(stage, attempt)
    run = stage.run(attempt)
    run.create()
    run.exit.write_text(json.dumps({"attempt": 1, "reason": "out_of_memory", "exit_code": 80, "message": "at step 4"}))
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt) == (EndReason.OUT_OF_MEMORY, JobState.QUEUED)
    assert stage.attempt(attempt).message == "at step 4"


def test_a_record_cut_short_is_no_record(stage: Stage) -> None:
    attempt = stage.claimed({})
    make_old(stage, attempt)
    run = stage.run(attempt)
    run.create()
    run.exit.write_text('{"attempt": 1, "rea')
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt)[0] is EndReason.LOST


@pytest.mark.parametrize("boot", ["this one", "the one before"])
def test_a_reboot_before_the_shim_has_named_itself_is_no_crash_of_the_job_s(
    stage: Stage, boot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = stage.admitted({})
    monkeypatch.setattr(launch, "spawn_shim", lambda *_: None)
    assert launch.start(stage.settings, stage.db, attempt.job_id, attempt.id)
    make_old(stage, attempt)
    if boot == "the one before":
        with stage.db.transaction() as tx:
            tx.execute("UPDATE attempts SET boot_id = :boot WHERE boot_id = :now", boot=boot, now=boot_id())
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt) == (EndReason.LOST, JobState.QUEUED)
    assert jobs.get(stage.db, attempt.job_id).crash_retries == (1 if boot == "this one" else 0)


def test_a_shim_s_own_log_is_bounded_while_it_watches_and_when_another_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.settings = dataclasses.replace(stage.settings, run_log_bytes=1 << 16)
    monkeypatch.setenv("MMQ_RUN_LOG_BYTES", "64KiB")
    attempt = stage.running({"steps": 500, "pause": 1})
    run = stage.run(attempt)
    older = run.shim_log.with_name("shim.log.1")
    run.shim_log.write_text("the store can't be written\n" * 10_000)
    until(lambda: older.exists() and run.shim_log.stat().st_size == 0)
    assert older.stat().st_size < 2 << 16
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    stage.end(attempt)

    run.shim_log.write_text("a shim looks after it\n" * 10_000)
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    assert launch.adopt(stage.settings, stage.db, attempt.job_id, attempt.id)
    assert "has ended" in run.shim_log.read_text()
    assert run.shim_log.stat().st_size < 1000


def test_what_is_still_on_its_way_is_left_alone(stage: Stage) -> None:
    attempt = stage.claimed({})
    assert stage.shim(attempt, "--adopt") == 0
    until(lambda: "still on the way" in (stage.settings.home / "shims.log").read_text())
    assert stage.attempt(attempt).state is AttemptState.CLAIMED


@pytest.mark.parametrize("boot", ["same", "another"])
def test_a_reused_pid_is_never_signalled(stage: Stage, boot: str) -> None:
    attempt = stage.running({"steps": 500, "pause": 1})
    kill(attempt.shim_pid)
    kill(attempt.pid)
    stranger = subprocess.Popen(["sleep", "300"], process_group=0)
    started = (process_started(stranger.pid) or 0) - (1 if boot == "same" else 0)
    with stage.db.transaction() as tx:
        tx.execute(
            "UPDATE attempts SET pid = :pid, pid_started = :started WHERE id = :a",
            pid=stranger.pid,
            started=started,
            a=attempt.id,
        )
        if boot == "another":
            tx.execute("UPDATE attempts SET boot_id = 'another' WHERE id = :a", a=attempt.id)
    assert stage.shim(attempt, "--adopt") == 0
    assert stage.end(attempt) == (EndReason.LOST, JobState.QUEUED)
    assert ("rebooted" in (stage.attempt(attempt).message or "")) is (boot == "another")
    assert stranger.poll() is None
    stranger.send_signal(signal.SIGKILL)
    stranger.wait()


def test_six_adoptions_at_once_make_one_shim(stage: Stage) -> None:
    attempt = orphaned(stage, stage.running({"steps": 500, "pause": 1}))
    command = python_command("worker.shim", str(attempt.id), "--adopt")
    many = [subprocess.Popen(command, env=stage.environment, stderr=subprocess.DEVNULL) for _ in range(6)]
    assert {one.wait(60) for one in many} == {0}
    until(lambda: stage.attempt(attempt).shim_pid != attempt.shim_pid)
    until(lambda: len(holders(stage.run(attempt).shim_lock)) == 1)
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    assert stage.end(attempt) == (EndReason.CANCELLED, JobState.CANCELLED)


def test_a_trainer_of_an_ended_attempt_makes_way_for_the_next(stage: Stage) -> None:
    stage.grace_seconds = 1
    attempt = orphaned(stage, stage.running({"steps": 500, "pause": 1, "term": "ignore"}))
    lost = attempts.finish(stage.db, attempt.id, Outcome(reason=EndReason.LOST), at=time.time())
    assert lost.state is AttemptState.ENDED
    again = attempts.claim(stage.db, stage.admit(jobs.get(stage.db, attempt.job_id)).id, at=time.time())
    assert again is not None
    (stage.run(again).root / "scenario.json").write_text('{"steps": 1}')
    assert stage.shim(again) == 0
    assert stage.end(again) == (EndReason.DONE, JobState.SUCCEEDED)
    assert process_started(attempt.pid or 0) is None
