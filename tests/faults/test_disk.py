"""A disk that fills up, kills at each single change of it, and what a cut of the power would take away."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.workplace import REPOSITORY, workplace
from tests.faults import power
from tests.faults.place import fault_place
from tests.faults.world import CHANGES, World


@pytest.mark.parametrize("how", ["kill", "full", "cut"])
@pytest.mark.parametrize(("subject", "least"), [("store", 20), ("checkpoint", 15), ("record", 3)])
def test_nothing_told_is_lost_at_any_change_of_the_disk(tmp_path: Path, subject: str, least: int, how: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    world = World.make(tmp_path, disk)
    changes = tmp_path / "changes"
    changes.touch()
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.walked", str(world.shared), str(disk), subject, how],
        cwd=REPOSITORY,
        env=os.environ | world.environment | ({CHANGES: str(changes)} if how == "cut" else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["changes"] >= least, found


DURABLE = ["write /d/.new", "sync /d/.new", "rename /d/.new /d/new", "sync /d", "told it"]


@pytest.mark.parametrize(
    ("left_out", "lost"),
    [
        (None, []),
        (1, ["/d/.new is renamed before it is synced"]),
        (3, ["it is told before /d is synced"]),
    ],
)
def test_a_sync_left_out_is_found(left_out: int | None, lost: list[str]) -> None:
    changes = [f"7 {line}".replace(" ", "\t") for number, line in enumerate(DURABLE) if number != left_out]
    assert list(power.losses(changes)) == lost


def test_a_trainer_that_finds_the_disk_full_says_so_and_goes_on_where_it_was_when_there_is_room(tmp_path: Path) -> None:
    with fault_place(scripted=False) as faulty:
        place = faulty.place
        world = World.make(tmp_path, place.settings.run_dir(2) / "checkpoints")
        place.environment |= world.environment
        place.up()
        expected = place.undisturbed
        world.full_from(70)  # within its second checkpoint: each takes some 45 changes
        job = faulty.submit("tiny.yaml")
        assert place.until_ended(job) == ["failed"]
        story = place.story(job)
        assert story["reason"] == "disk_full"
        assert "no room to write" in story["message"]
        assert [event["step"] for event in place.events(job, "checkpoint")] == [30]
        assert faulty.violations() == []

        world.calm()
        place.ok("retry", str(job))
        assert place.until_ended(job) == ["succeeded"]
        assert place.events(job, "started")[-1]["step"] == 30
        assert place.losses(job) == expected
        assert faulty.violations() == []


LEFT_IN_THE_LOG = """
import os
from scheduler.cli.run import run
from scheduler.config import Settings
from scheduler.store.opening import open_database
other = open_database(Settings.from_environment(), lean=True)
assert other.query("SELECT id FROM jobs") == [{"id": 1}]
assert run(["submit", "tiny.yaml", "--hold"]) == 0
os._exit(0)  # so that what it wrote stays beside the database, as a kill leaves it
"""
READING = ("status", "status 2", "status --json", "events", "logs 2", "gpus", "metrics")
WRITING = ("cancel 2", "submit tiny.yaml", "release 2", "up --detach")


def test_with_the_disk_full_and_the_service_down_what_is_stored_can_be_read_and_a_change_is_refused(
    tmp_path: Path,
) -> None:
    with workplace() as place:
        world = World.make(tmp_path, place.home)
        assert place.submit("tiny.yaml", "--hold") == 1
        place.start(command=("-c", LEFT_IN_THE_LOG)).communicate()
        (place.home / "mmq.db-shm").unlink(missing_ok=True)  # where readers would meet
        place.environment |= world.environment
        world.set(full=1)
        for words in READING:
            place.ok(*words.split())
        assert [row["id"] for row in json.loads(place.ok("status", "--json"))["jobs"]] == [1, 2]
        assert "database   its invariants hold" in place.mmq("doctor").out
        for words in WRITING:
            done = place.mmq(*words.split())
            assert (done.code, done.out) == (1, ""), done
            assert "hint: df -h" in done.err
            assert "Traceback" not in done.err
        world.calm()
        place.ok("cancel", "2")
        assert (place.state(1), place.state(2)) == ("held", "cancelled")
