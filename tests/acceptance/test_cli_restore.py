"""A database restored from a backup: jobs that were submitted after it come back, with what they come after."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.jobs.states import EndReason
from scheduler.store import attempts
from scheduler.store.database import Database
from tests.acceptance.conftest import Mmq
from tests.store.samples import ends, running, with_device


@pytest.fixture
def backup(mmq: Mmq, store: Database, job_file: Path, tmp_path: Path) -> Path:
    """A copy that knows job 1 alone; after it came an array, one that comes after it, and one with a key."""
    mmq("submit", job_file, "--name", "first")
    copy = tmp_path / "copy.db"
    assert mmq("db", "backup", copy).code == 0
    assert mmq("submit", job_file, "--name", "rates", "--sweep", "train.seed=1,2").out == "2-3\n"
    assert mmq("submit", job_file, "--name", "last", "--after", "first,rates", "--priority", "7").out == "4\n"
    assert mmq("submit", job_file, "--name", "known", "--key", "k").out == "5\n"
    return copy


def told(mmq: Mmq, *jobs: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mmq("status", *jobs, "--json").out)["jobs"]
    unlike = ("events", "attempts", "state", "waiting", "waiting_code")
    return [{key: value for key, value in job.items() if key not in unlike} for job in found]


def test_what_never_started_comes_back_held_with_what_it_comes_after(
    mmq: Mmq, store: Database, backup: Path, job_file: Path
) -> None:
    before = told(mmq, "2-5")
    store.close()
    done = mmq("db", "restore", backup)
    assert done.err.endswith("their run directories know more than it does\n  hint: mmq doctor --fix\n")
    assert mmq("status", "2").code == 3
    assert "the database knows no job 4 (last), but its run directory exists (never started)" in mmq("doctor").out
    fixed = json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]
    assert fixed == ["restored jobs 2-5: they are held; `mmq release 2-5` lets them go on"]
    assert told(mmq, "2-5") == before
    assert [job["depends_on"] for job in before] == [[], [], [1, 2, 3], []]
    assert mmq("release", "2-5").out == "2 queued\n3 queued\n4 queued\n5 queued\n"
    assert mmq("submit", job_file, "--key", "k").out == "5\n"
    assert mmq("submit", job_file).out == "6\n"


def test_what_came_after_a_job_that_failed_fails_with_it(mmq: Mmq, store: Database, backup: Path) -> None:
    store.close()
    mmq("db", "restore", backup)
    mmq("cancel", "first")
    fixed = json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]
    assert fixed[-1] == "restored job 4: it is failed"
    assert mmq("wait", "4").out == "4 failed (dependency failed): job 1, which it comes after, is cancelled\n"


def test_no_id_is_given_that_a_directory_has(mmq: Mmq, store: Database, backup: Path, job_file: Path) -> None:
    store.close()
    mmq("db", "restore", backup)
    assert mmq("submit", job_file).out == "6\n"
    assert json.loads(mmq("doctor", "--fix", "--json").out)["fixed"][0].startswith("restored jobs 2-5")


def put_in_place_by_hand(store: Database, settings: Settings, backup: Path) -> None:
    store.close()
    for ending in ("-wal", "-shm"):
        (settings.home / f"mmq.db{ending}").unlink(missing_ok=True)
    shutil.copy(backup, settings.home / "mmq.db")


def test_no_id_is_given_that_a_directory_has_also_under_a_copy_put_there_by_hand(
    mmq: Mmq, store: Database, settings: Settings, backup: Path, job_file: Path
) -> None:
    put_in_place_by_hand(store, settings, backup)
    assert mmq("submit", job_file).out == "6\n"
    assert mmq("submit", job_file, "--sweep", "train.seed=1,2").out == "7-8\n"
    fixed = json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]
    assert fixed == ["restored jobs 2-5: they are held; `mmq release 2-5` lets them go on"]


def test_a_directory_that_another_job_makes_as_this_one_is_stored_is_told_and_costs_nobody_anything(
    mmq: Mmq, store: Database, settings: Settings, backup: Path, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place_by_hand(store, settings, backup)
    monkeypatch.setattr("scheduler.cli.submit._has_directory", lambda *_: False)
    kept = (settings.run_dir(2) / "job.json").read_text()
    done = mmq("submit", job_file)
    assert (done.code, done.out) == (0, "2\n")
    assert "belongs to a job that the database does not know\n  hint: mmq doctor\n" in done.err
    assert (settings.run_dir(2) / "job.json").read_text() == kept


def test_a_lost_database_is_made_anew_beside_its_directories(
    mmq: Mmq, store: Database, settings: Settings, backup: Path, job_file: Path
) -> None:
    store.close()
    for path in settings.home.glob("mmq.db*"):
        path.unlink()
    assert mmq("submit", job_file).out == "6\n"
    assert len(json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]) == 1
    assert [job["id"] for job in json.loads(mmq("status", "--all", "--json").out)["jobs"]] == [1, 2, 3, 4, 5, 6]


def test_a_submit_that_can_t_write_beside_the_database_says_so(
    mmq: Mmq, store: Database, settings: Settings, job_file: Path
) -> None:
    settings.jobs_dir.write_text("no folder")
    done = mmq("submit", job_file)
    assert (done.code, done.out) == (0, "1\n")
    assert "warning: job 1 is stored, in the database alone: " in done.err


def test_a_sweep_that_can_t_write_beside_the_database_names_all_of_it(
    mmq: Mmq, store: Database, settings: Settings, job_file: Path
) -> None:
    settings.jobs_dir.write_text("no folder")
    done = mmq("submit", job_file, "--sweep", "train.seed=1,2,3")
    assert (done.code, done.out) == (0, "1-3\n")
    assert "warning: jobs 1-3 are stored, perhaps some of them in the database alone: " in done.err


def test_a_store_that_fails_after_the_commit_takes_nothing_of_the_answer(
    mmq: Mmq, store: Database, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MmqError("the disk is full")

    monkeypatch.setattr("scheduler.store.jobs.dependencies", fails)
    done = mmq("submit", job_file)
    assert (done.code, done.out) == (0, "1\n")
    assert "warning: job 1 is stored, in the database alone: the disk is full" in done.err


def test_one_that_ran_elsewhere_lacks_no_result_here(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file)
    with_device(store)
    from scheduler.store.jobs import get

    attempt = running(store, get(store, 1))
    attempts.finish(store, attempt.id, ends(EndReason.DONE, exit_code=0), at=9.0)
    assert "its result is not in" not in mmq("doctor").out
