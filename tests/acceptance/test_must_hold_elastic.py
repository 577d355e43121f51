"""Running jobs make room, on a real service: for a job that waits, and for memory that others take."""

import msgspec
import pytest

from scheduler.admission.decisions import Wait
from scheduler.controller import record
from tests.acceptance.workplace import Workplace, until
from tests.processes import PATIENCE_SECONDS, memory_taken

pytestmark = pytest.mark.timeout(600)

MIB = 1024**2


@pytest.fixture
def narrow(place: Workplace) -> Workplace:
    """One device, on which two jobs fit that make themselves small."""
    on_one = {"data": {"max_seq_len": 512}, "resources": {"devices": 0}}
    sizes = {"batch_size": 64, "max_steps": 100_000}
    place.job_file("long", train=sizes, **on_one)
    place.job_file("short", train=sizes | {"max_steps": 4}, **on_one)
    return place


@pytest.fixture
def running(narrow: Workplace) -> int:
    job = narrow.submit("long.yaml")
    narrow.until_steps(job, more=3)
    return job


def attempt(place: Workplace, job: int) -> dict[str, int]:
    return place.query("SELECT * FROM attempts WHERE job_id = :job ORDER BY number DESC LIMIT 1", job=job)[0]


def test_a_job_that_waits_is_let_in_by_one_that_shrinks(narrow: Workplace, running: int) -> None:
    before = attempt(narrow, running)
    short = narrow.submit("short.yaml")
    assert narrow.until_ended(short) == ["succeeded"]
    assert narrow.state(running) == "running"
    resized = narrow.events(running, "resized")[0]
    assert resized["micro_batch"] < before["micro_batch"]
    assert resized["limit_bytes"] < before["reserved_bytes"]
    (peak,) = narrow.query("SELECT COUNT(*) AS attempts FROM attempts WHERE job_id = :job", job=running)
    assert peak["attempts"] == 1  # the same process all the time
    assert {event["effective_batch"] for event in narrow.events(running, "started")} == {64}
    until(lambda: narrow.events(running, "step")[-1]["micro_batch"] > resized["micro_batch"], "its growth, being alone")
    assert narrow.events(running, "out_of_memory") == []


def test_memory_that_a_foreign_process_takes_is_answered_by_a_shrink(narrow: Workplace, running: int) -> None:
    before = attempt(narrow, running)
    free = 256 * MIB - before["reserved_bytes"]
    with memory_taken(narrow.settings.ledger_dir / "virtual-0", free + 40 * MIB):
        until(lambda: narrow.events(running, "resized"), "the shrink")
        until(lambda: attempt(narrow, running)["reserved_bytes"] < before["reserved_bytes"], "its memory given back")
        narrow.until_steps(running, more=5)
    assert narrow.state(running) == "running"
    assert attempt(narrow, running)["number"] == 1


def ten_have_run(place: Workplace, example: int) -> None:
    """Write down ten jobs that have run, as the example did: of so many one may be made to leave for another."""
    array = place.ok("submit", "tiny.yaml", "--hold", "--sweep", "train.seed=1,2,3,4,5,6,7,8,9,10").strip()
    same = "state, host, device, plan, micro_batch, accumulation_steps, reserved_bytes, admitted_at, ended_at, reason"
    with place.store() as database, database.transaction() as tx:
        tx.execute(
            f"INSERT INTO attempts (job_id, number, {same}) SELECT others.id, 1, {same} FROM attempts,"
            " (SELECT id FROM jobs WHERE array_id = :first) others WHERE job_id = :example",
            example=example,
            first=int(array.partition("-")[0]),
        )
        tx.execute(
            "UPDATE jobs SET attempt_id = (SELECT id FROM attempts WHERE job_id = jobs.id) WHERE array_id = :first",
            first=int(array.partition("-")[0]),
        )
    place.ok("cancel", array)
    place.ok("estimate", "tiny.yaml")  # so that the one it leaves for waits for no trace, and finds it still running


@pytest.mark.timeout(900)
def test_a_job_that_leaves_for_a_short_one_comes_back_and_its_curve_does_not_show_it(place: Workplace) -> None:
    """By its steps it has hours to go; in truth it ends early, since it soon gets no better."""
    place.job_file(
        "curve",
        data={"validation": 0.25},
        train={"max_steps": 100_000, "learning_rate": 1e-2, "eval_interval": 20, "early_stop": 4},
    )
    undisturbed = place.submit("curve.yaml")
    assert place.until_ended(undisturbed) == ["succeeded"]
    ten_have_run(place, undisturbed)

    long = place.submit(
        "curve.yaml", "-o", "data.row_wait_seconds=0.02", "-o", "resources.devices=0", "-o", "priority=-1"
    )
    place.until_steps(long, more=3)
    short = place.submit(
        "tiny.yaml", "-o", "train.max_steps=4", "-o", "resources.devices=0", "-o", "resources.exclusive=true"
    )
    within_seconds = 3 * PATIENCE_SECONDS  # three starts, one after the other
    assert place.until_ended(short, long, within_seconds=within_seconds) == ["succeeded", "succeeded"]

    place.assert_made_way(long, short, undisturbed)
    assert place.losses(long) == place.losses(undisturbed)
    weights = [place.settings.run_dir(job) / "final/model.safetensors" for job in (long, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_reservation_follows_and_what_the_service_decided_is_decided_again_from_its_record(narrow: Workplace) -> None:
    """Rows are shorter than they may be: the peak stays below what was predicted for the longest."""
    place, seen = narrow, {}

    def look() -> bool:
        cycle = record.read(place.settings.cycle_record)
        if cycle is not None:
            seen[cycle.at] = cycle
        asked = any(event["kind"] == "resize_asked" for event in place.story(job)["events"])
        return asked and any(isinstance(one, Wait) for cycle in seen.values() for one in cycle.decisions)

    job = place.submit("long.yaml")
    place.until_steps(job, more=1)
    look()
    at_first = place.story(job)["attempts"][0]["predicted_process_bytes"]
    place.submit("long.yaml", "-o", "resources.exclusive=true")
    place.submit("tiny.yaml", "--after", str(job))
    until(look, "a lower reservation, and others that wait")
    until(lambda: attempt(place, job)["reserved_bytes"] < at_first, "that its memory is given back")
    assert place.events(job, "out_of_memory") == []
    assert any(cycle.running for cycle in seen.values())
    for cycle in seen.values():
        assert msgspec.json.encode(cycle.decided().decisions) == msgspec.json.encode(cycle.decisions)
