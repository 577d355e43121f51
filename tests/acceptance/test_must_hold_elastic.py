"""Running jobs make room, on a real service: for a job that waits, and for memory that others take."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from scheduler.processes.liveness import process_started
from tests.acceptance.workplace import Workplace, until

pytestmark = pytest.mark.timeout(300)

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


@contextlib.contextmanager
def foreign(place: Workplace, held_bytes: int) -> Iterator[None]:
    ledger = place.settings.ledger_dir / "virtual-0"
    entry = ledger / f"{os.getpid()}-{process_started(os.getpid())}"
    entry.write_text(f"{held_bytes:020d}")
    try:
        yield
    finally:
        entry.unlink()


def test_memory_that_a_foreign_process_takes_is_answered_by_a_shrink(narrow: Workplace, running: int) -> None:
    before = attempt(narrow, running)
    free = 256 * MIB - before["reserved_bytes"]
    with foreign(narrow, free + 40 * MIB):
        until(lambda: narrow.events(running, "resized"), "the shrink")
        until(lambda: attempt(narrow, running)["reserved_bytes"] < before["reserved_bytes"], "its memory given back")
        steps = narrow.until_steps(running, more=5)
        assert steps
    assert narrow.state(running) == "running"
    assert attempt(narrow, running)["number"] == 1
