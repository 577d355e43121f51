"""A store that begins again at job 1 finds the run directories of the jobs before, and takes none for its own."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scheduler.jobs.states import EndReason, JobState
from scheduler.store import jobs
from scheduler.store.records import Attempt
from tests.processes import gone
from tests.running.stage import Stage
from worker import launch
from worker.ownership import MARK

Start = Callable[[Attempt], tuple[EndReason | None, JobState]]


@pytest.fixture
def start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Do what a worker does on a message, and wait for the attempt's end."""
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)

    def started(attempt: Attempt) -> tuple[EndReason | None, JobState]:
        launch.start(stage.settings, stage.db, attempt.job_id, attempt.id)
        return stage.end(attempt)

    return started


def trained_by_another(root: Path) -> None:
    (root / "final").mkdir(parents=True)
    (root / "final/model.safetensors").write_bytes(b"another's weights")
    (root / "final/config.json").write_text("{}")
    (root / "events.jsonl").write_text('{"attempt": 1, "event": "finished"}\n')


def set_aside(root: Path) -> list[Path]:
    return list(root.parent.glob(f"{root.name}.*"))


def test_a_run_directory_from_before_is_set_aside(stage: Stage, start: Start) -> None:
    attempt = stage.admitted({})
    root = stage.run(attempt).root
    trained_by_another(root)
    reason, _ = start(attempt)
    assert reason is not EndReason.DONE  # the stand-in's script went with the directory
    (aside,) = set_aside(root)
    assert (aside / "final/model.safetensors").read_bytes() == b"another's weights"
    assert not (root / "final").exists()


def test_a_marked_run_directory_of_another_job_is_set_aside_at_any_attempt(stage: Stage, start: Start) -> None:
    attempt = stage.admitted({"steps": 1})
    root = stage.run(attempt).root
    (root / MARK).write_text(json.dumps({"id": attempt.job_id, "submitted_at": time.time() - 1000}))
    trained_by_another(root)
    start(attempt)
    assert len(set_aside(root)) == 1


def test_an_attempt_goes_on_in_its_jobs_own_directory(stage: Stage, start: Start) -> None:
    attempt = stage.admitted({"steps": 2, "die_at": 1})
    assert start(attempt) == (EndReason.KILLED, JobState.QUEUED)
    root = stage.run(attempt).root
    (root / "scenario.json").write_text('{"steps": 2}')
    second = stage.admit(jobs.get(stage.db, attempt.job_id))
    assert start(second) == (EndReason.DONE, JobState.SUCCEEDED)
    assert set_aside(root) == []
    assert '"attempt": 1' in stage.run(attempt).events.read_text()


def test_who_still_trains_in_another_jobs_directory_is_ended_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    before = stage.running({"steps": 2, "pause": 60})
    root = stage.run(before).root
    (root / MARK).write_text(json.dumps({"id": before.job_id, "submitted_at": 0}))
    assert launch.adopt(stage.settings, stage.db, before.job_id, before.id)
    assert gone(before.pid)
    (aside,) = set_aside(root)
    assert (aside / "events.jsonl").exists()
    assert not (root / "events.jsonl").exists()
    assert stage.ended(before).reason is EndReason.LOST
