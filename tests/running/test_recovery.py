"""A backup is put in the store's place while jobs went on: what their directories know more is entered anew."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.cli import recovery
from scheduler.cli.fixes import apply_fixes
from scheduler.errors import MmqError
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.locks import take_lock
from scheduler.store import attempts, audit, jobs, upgrade
from scheduler.store.records import Attempt
from scheduler.store.restore import restore
from tests.running.stage import Stage, kill, until
from worker import launch

Start = Callable[[Attempt], Attempt]


@pytest.fixture
def start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Do what a worker does on a message."""
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)

    def started(attempt: Attempt) -> Attempt:
        assert launch.start(stage.settings, stage.db, attempt.job_id, attempt.id)
        return attempt

    yield started
    assert audit.violations(stage.db) == []


def backed_up(stage: Stage, tmp_path: Path) -> Path:
    return upgrade.backup(stage.settings, tmp_path / "copy.db")


def restored(stage: Stage, copy: Path) -> list[str]:
    """Put the copy in place; what the doctor finds."""
    stage.db.close()
    kept = restore(stage.settings, copy)
    assert kept is not None
    assert kept.exists()
    stage.reopen()
    return [gap.sentence for gap in recovery.gaps(stage.db, stage.settings)]


def put_in_place_by_hand(stage: Stage, copy: Path) -> None:
    stage.db.close()
    upgrade.copy_file(copy, stage.settings.home / "mmq.db")
    for ending in ("-wal", "-shm"):
        (stage.settings.home / f"mmq.db{ending}").unlink(missing_ok=True)
    stage.reopen()


def fixed(stage: Stage) -> list[str]:
    told = list(apply_fixes(stage.settings))
    assert list(apply_fixes(stage.settings)) == []  # once is enough
    assert [gap for gap in recovery.gaps(stage.db, stage.settings) if gap.restorable] == []
    return told


def state(stage: Stage, job_id: int) -> JobState:
    return jobs.get(stage.db, job_id).state


def test_a_result_of_a_job_that_the_backup_has_queued_is_recorded(stage: Stage, start: Start, tmp_path: Path) -> None:
    job = stage.submit({"steps": 2})
    copy = backed_up(stage, tmp_path)
    stage.end(start(stage.admit(job)))
    found = restored(stage, copy)
    assert found == ["the database does not know attempt 1 of job 1, whose directory does (ended: done)"]
    assert fixed(stage) == ["restored attempt 1 of job 1: it is succeeded"]
    (attempt,) = attempts.of_job(stage.db, job.id)
    assert (attempt.state, attempt.reason, attempt.device) == (AttemptState.ENDED, EndReason.DONE, "virtual:0")


def test_a_job_that_the_backup_does_not_know_comes_back_with_all_its_attempts(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    copy = backed_up(stage, tmp_path)
    job = stage.submit({"steps": 2, "die_at": 1})
    first = start(stage.admit(job))
    stage.end(first)
    (stage.run(first).root / "scenario.json").write_text('{"steps": 2}')
    stage.end(start(stage.admit(job)))
    assert restored(stage, copy) == [
        "the database knows no job 1 (job), but its run directory exists (ended: done)",
    ]
    assert fixed(stage) == ["restored job 1, attempt 1 of job 1, attempt 2 of job 1: it is succeeded"]
    again = jobs.get(stage.db, 1)
    assert (again.spec, again.submitted_at, again.user_name) == (job.spec, job.submitted_at, job.user_name)
    assert [one.reason for one in attempts.of_job(stage.db, 1)] == [EndReason.KILLED, EndReason.DONE]
    assert stage.submit({}).id == 2


def test_a_job_that_comes_back_unfinished_is_held(stage: Stage, start: Start, tmp_path: Path) -> None:
    copy = backed_up(stage, tmp_path)
    stage.end(start(stage.admit(stage.submit({"steps": 2, "die_at": 1}))))
    restored(stage, copy)
    assert fixed(stage) == ["restored job 1, attempt 1 of job 1: it is held; `mmq release 1` lets it go on"]


def test_a_trainer_that_went_on_all_the_time_is_known_again_and_nothing_is_doubled(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    copy = backed_up(stage, tmp_path)
    attempt = start(stage.admit(stage.submit({"steps": 6, "lingers": True})))
    until(lambda: stage.attempt(attempt).state is AttemptState.RUNNING)
    found = restored(stage, copy)
    assert found == ["the database knows no job 1 (job), but its run directory exists (it may be running)"]
    assert fixed(stage) == ["restored job 1, attempt 1 of job 1: it is admitted"]
    (again,) = attempts.of_job(stage.db, 1)
    assert attempts.reserved(stage.db, again.id) == {"virtual-0@here": 1 << 30}
    until(lambda: state(stage, 1) is JobState.RUNNING)  # by its own shim's word
    stage.let_go(again)
    assert stage.end(again) == (EndReason.DONE, JobState.SUCCEEDED)
    assert stage.run(again).events.read_text().count('"started"') == 1


def test_a_shim_writes_nothing_to_another_attempt_that_has_its_id_now(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    copy = backed_up(stage, tmp_path)
    attempt = start(stage.admit(stage.submit({"steps": 4, "lingers": True})))
    until(lambda: stage.attempt(attempt).state is AttemptState.RUNNING)
    put_in_place_by_hand(stage, copy)  # `mmq db restore` sees to it that no id is given again
    other = attempts.claim(stage.db, stage.admitted_elsewhere().id, at=9.0)
    assert other is not None
    assert (other.id, other.job_id) == (attempt.id, attempt.job_id)
    shim_log = stage.run(attempt).shim_log
    until(lambda: "the store does not know attempt 1 any more" in shim_log.read_text())
    stage.let_go(attempt)
    until(lambda: stage.run(attempt).exit.exists())
    untouched = stage.attempt(other)
    assert (untouched.state, untouched.step, untouched.heartbeat_at) == (AttemptState.CLAIMED, None, None)
    (gap,) = recovery.gaps(stage.db, stage.settings)
    assert "belongs to another job that had this number" in gap.sentence


def test_what_the_backup_takes_for_alive_and_was_followed_by_another_is_closed(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    job = stage.submit({"steps": 500, "pause": 1})
    first = start(stage.admit(job))
    until(lambda: stage.attempt(first).state is AttemptState.RUNNING)
    copy = backed_up(stage, tmp_path)
    kill(stage.attempt(first).pid)
    assert stage.end(first)[0] is EndReason.KILLED
    (stage.run(first).root / "scenario.json").write_text('{"steps": 2}')
    stage.end(start(stage.admit(job)))
    restored(stage, copy)
    assert state(stage, 1) is JobState.RUNNING
    assert fixed(stage) == ["restored attempt 2 of job 1: it is succeeded"]
    assert [one.reason for one in attempts.of_job(stage.db, 1)] == [EndReason.KILLED, EndReason.DONE]


def test_an_end_of_the_attempt_that_had_the_number_before_is_not_taken_for_ones_own(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    job = stage.submit({"steps": 2, "die_at": 1})
    copy = backed_up(stage, tmp_path)
    stage.end(start(stage.admit(job)))
    restored(stage, copy)
    first, second = (stage.settings.run_dir(job.id) / "attempts" / number for number in "12")
    second.mkdir()
    kept = json.loads((first / "attempt.json").read_text())
    (second / "attempt.json").write_text(json.dumps(kept | {"number": 2}))  # it had a second attempt, even
    again = attempts.claim(stage.db, stage.admit(job).id, at=1.0)  # nobody mended; its shim never came
    assert again is not None
    assert fixed(stage) == []  # too late: the store is past what the directory knows
    assert stage.shim(again, "--adopt") == 0
    assert stage.end(again)[0] is EndReason.LOST


def test_broken_run_records_are_told_and_do_no_harm(stage: Stage, start: Start) -> None:
    for number, text in ((7, "{"), (8, '{"id": "x"}'), (9, "[" * 10_000)):
        root = stage.settings.run_dir(number)
        (root / "attempts" / "1").mkdir(parents=True)
        for name in ("job.json", "attempts/1/attempt.json", "attempts/1/exit.json"):
            (root / name).write_text(text)
    found = [gap.sentence for gap in recovery.gaps(stage.db, stage.settings)]
    assert len(found) == 3
    assert all("does not say enough to restore it" in sentence for sentence in found)
    assert fixed(stage) == []


def test_the_database_is_not_replaced_under_a_service_nor_by_what_is_none(
    stage: Stage, start: Start, tmp_path: Path
) -> None:
    copy = backed_up(stage, tmp_path)
    held = take_lock(stage.settings.service_lock)
    with pytest.raises(MmqError, match="the service is running"):
        restore(stage.settings, copy)
    assert held is not None
    import os

    os.close(held)
    (tmp_path / "torn.db").write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(MmqError):
        restore(stage.settings, tmp_path / "torn.db")
    assert stage.db.query("SELECT id FROM jobs") == []
