"""The checker that the fault tests trust finds what they would have to find."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.processes.liveness import boot_id, process_started
from scheduler.store import attempts
from scheduler.store.database import Database
from scheduler.store.opening import open_database
from tests.faults import invariants
from tests.faults.curve import undisturbed
from tests.store.samples import admitted, queued, running, settings_at, with_device


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_at(tmp_path)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with closing(open_database(settings, lean=True, create=True)) as database:
        with_device(database)
        yield database


def test_an_empty_home_is_in_order(db: Database, settings: Settings) -> None:
    assert invariants.violations(settings, lasting_seconds=0.03) == []


def test_a_lost_job_and_one_that_waits_are_found(db: Database, settings: Settings) -> None:
    queued(db)
    lost, waits = invariants.violations(settings, accepted=[1, 7], lasting_seconds=0.03)
    assert lost == "job 7 was acknowledged and is lost"
    assert waits.startswith("job 1 waits though nothing runs")


def test_attempts_without_their_processes_are_found(db: Database, settings: Settings) -> None:
    running(db, queued(db))
    admitted(db, queued(db))
    trainerless = running(db, queued(db), reservations={})
    me = {"shim_pid": os.getpid(), "shim_started": process_started(os.getpid()) or 0, "boot_id": boot_id()}
    attempts.started(db, trainerless.id, pid=1, pid_started=1, at=1.0, **me)
    found = invariants.violations(settings, lasting_seconds=0.03)
    assert [sentence.partition(", and ")[2] for sentence in found] == [
        "no shim looks after it",
        "nobody has claimed it",
        "its trainer is gone",
    ]


def test_a_stray_trainer_and_a_stray_shim_are_found(db: Database, settings: Settings) -> None:
    sleeps = "import time; time.sleep(60)"
    environment = os.environ | {"MMQ_RUN_DIR": str(settings.run_dir(3)), "MMQ_HOME": str(settings.home)}
    with (
        subprocess.Popen([sys.executable, "-c", sleeps], env=environment, process_group=0) as trainer,
        subprocess.Popen([sys.executable, "-c", sleeps, "worker.shim", "9"], env=environment) as shim,
    ):
        try:
            found = invariants.violations(settings, lasting_seconds=0.03)
        finally:
            trainer.kill()
            shim.kill()
    assert f"process {trainer.pid} of job 3 belongs to no running attempt" in found
    assert f"shim {shim.pid} looks after attempt 9, which is not alive" in found


def test_doubled_trainers_and_damaged_checkpoints_are_found(db: Database, settings: Settings) -> None:
    run = settings.run_dir(1)
    newest = run / "checkpoints" / "step-3"
    newest.mkdir(parents=True)
    told = [{"event": "started", "attempt": 1}] * 2 + [{"event": "doubled", "attempt": 2}]
    (run / "events.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in told) + '{"event": "sta')
    (newest / "state.json").write_text("{}")
    (newest / "manifest.json").write_text('{"files": {"state.json": {"sha256": "another"}}}')
    assert invariants.violations(settings, lasting_seconds=0.03) == [
        "1: attempt 1 was started 2 times",
        "1: two trainers at once",
        "1: step-3: state.json not as written",
    ]


def test_the_curve_tells_of_any_step_that_was_done_twice_or_left_out() -> None:
    assert undisturbed(3) == dict(list(undisturbed(5).items())[:3])
    assert len(set(undisturbed(50).values())) == 50
