"""A service in a world that turns on it: a clock that jumps by two hours, a disk without room, a database locked for
20 s, a reboot. What runs goes on or resumes, what is submitted runs, and all the invariants hold.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.store.sqlite import SqliteDatabase
from tests.faults.place import FaultPlace, fault_place
from tests.faults.world import World
from tests.processes import PATIENCE_SECONDS, kill, until

TWO_HOURS_SECONDS = 7200


@pytest.fixture(scope="module")
def inhabited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultPlace, World]]:
    with fault_place() as faulty:
        world = World.make(tmp_path_factory.mktemp("world"), faulty.place.home)
        faulty.place.environment |= world.environment
        yield faulty, world
        world.calm()


@pytest.fixture
def place(inhabited: tuple[FaultPlace, World]) -> Iterator[FaultPlace]:
    faulty, world = inhabited
    faulty.place.up()
    faulty.job_file("long", steps=100)
    yield faulty
    world.calm()
    faulty.place.up()
    faulty.place.end_jobs()
    assert faulty.violations() == []


@pytest.fixture
def world(inhabited: tuple[FaultPlace, World]) -> World:
    return inhabited[1]


def test_a_clock_that_jumps_ends_nothing_and_holds_up_nothing(place: FaultPlace, world: World) -> None:
    """Also where a shim adopts a trainer after it: the time limit is of hours that have passed."""
    for offset_seconds in (TWO_HOURS_SECONDS, -TWO_HOURS_SECONDS, 0):
        job = place.submit("long.yaml", "-o", "resources.time_limit=30m")
        place.place.until_steps(job, more=3)
        world.set(clock_offset_seconds=offset_seconds)
        kill(place.place.shim(job))
        after = place.submit("job.yaml")
        assert place.undisturbed(after)  # which has patience for minutes, not for hours
        assert place.undisturbed(job, steps=100)
        assert [attempt["reason"] for attempt in place.place.story(job)["attempts"]] == ["done"]


def test_a_full_disk_loses_nothing_that_was_acknowledged(place: FaultPlace, world: World) -> None:
    running, waiting = place.submit("long.yaml"), place.submit("job.yaml", "--hold")
    place.place.until_steps(running, more=3)
    world.set(full=1)
    refused = place.place.mmq("submit", "job.yaml")
    assert (refused.code, refused.out) == (1, "")
    assert "no space is left" in refused.err or "is full, or fails" in refused.err
    assert "hint: df -h" in refused.err
    assert "Traceback" not in refused.err
    time.sleep(4)  # for everybody to meet it
    world.calm()
    place.place.ok("release", str(waiting))
    assert place.undisturbed(waiting)
    assert place.undisturbed(running, steps=100)


def test_a_database_locked_for_20_s_is_waited_for(place: FaultPlace) -> None:
    place.job_file("long", steps=100, pause=0.01, lingers=True)
    job = place.submit("long.yaml")
    place.place.until_steps(job, more=3)
    database = SqliteDatabase(place.place.home / "mmq.db")
    with database.transaction() as tx:
        tx.execute("UPDATE jobs SET name = name")
        locked_at = time.monotonic()
        submitting = place.place.start("submit", "job.yaml")
        place.place.until_steps(job, more=10)
        assert place.place.ok("status", "--all"), "who only reads does not wait"
        with pytest.raises(subprocess.TimeoutExpired):
            submitting.wait(max(0.1, locked_at + 20 - time.monotonic()))
    database.close()
    place.hurry()
    out, err = submitting.communicate(timeout=PATIENCE_SECONDS)
    assert submitting.returncode == 0, err
    place.accepted.append(int(out))
    assert place.undisturbed(int(out))
    assert place.undisturbed(job, steps=100)


def test_after_a_reboot_what_ran_resumes(place: FaultPlace, tmp_path: Path) -> None:
    job = place.submit("long.yaml")
    until(lambda: place.place.events(job, "checkpoint"), "a checkpoint")
    place.place.crash()
    with place.place.store() as db, db.transaction() as tx:  # as the pids then were of the boot before
        tx.execute("UPDATE attempts SET boot_id = 'the boot before' WHERE job_id = :job", job=job)
    place.place.up()
    assert place.undisturbed(job, steps=100)
    first, *_, last = place.place.story(job)["attempts"]
    assert (first["reason"], last["reason"]) == ("lost", "done")
    assert place.place.query("SELECT crash_retries FROM jobs WHERE id = :job", job=job)[0]["crash_retries"] == 0
    assert place.place.events(job, "started")[-1]["step"] > 0
