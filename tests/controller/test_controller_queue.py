"""A queue longer than a cycle looks at: those that it would take first are among those that it is shown."""

import pytest

from scheduler.admission.policy import Policy
from scheduler.controller import snapshot
from scheduler.jobs.states import JobState
from tests.controller.bench import Bench

LOOKED_AT = 8
LONG = "train.max_steps=100000"


@pytest.fixture
def crowded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One device with room for one job, and forty long ones for it."""
    monkeypatch.setattr(snapshot, "HEADS", LOOKED_AT)
    bench.tracer.base_mib, bench.tracer.row_mib = 400, 80
    for _ in range(5 * LOOKED_AT):
        bench.submit(LONG, "memory.micro_batch=8")
    return bench


def started(bench: Bench) -> list[int]:
    """The jobs that start once their footprints are there, which they are not when all are first looked at."""
    bench.cycles(2)
    admitted = bench.db.query("SELECT id FROM jobs WHERE state = :state ORDER BY id", state=JobState.ADMITTED.value)
    return [row["id"] for row in admitted]


def test_a_short_job_behind_many_long_ones_is_seen(crowded: Bench) -> None:
    short = crowded.submit("train.max_steps=10", "memory.micro_batch=8")
    assert started(crowded) == [short]


def test_so_is_one_that_another_attempt_has_made_short(crowded: Bench) -> None:
    crowded.cycles(1)
    known = crowded.job(3)
    assert known.remaining_seconds > 0
    with crowded.db.transaction() as tx:
        tx.execute("UPDATE jobs SET remaining_seconds = 0.5 WHERE id = 3")
    crowded.cycles(1)
    assert crowded.job(3).remaining_seconds == known.remaining_seconds  # looked at, and put right


def test_a_user_with_many_short_jobs_hides_nobody_else(crowded: Bench) -> None:
    for _ in range(5 * LOOKED_AT):
        crowded.submit("train.max_steps=10", "memory.micro_batch=8")
    other = crowded.submit("train.max_steps=12", "memory.micro_batch=8", user_name="bob")
    crowded.cycles(1)
    shown: list[int] = []
    with crowded.db.snapshot() as reader:
        shown += [one.id for one in snapshot.queueing.heads(reader, limit=LOOKED_AT)]
    assert other in shown
    assert len(shown) < 4 * LOOKED_AT


def test_one_that_has_waited_longest_is_seen_whatever_its_priority(crowded: Bench) -> None:
    old = crowded.submit(LONG, "memory.micro_batch=8", priority=-5)
    with crowded.db.transaction() as tx:
        tx.execute(
            "UPDATE jobs SET submitted_at = submitted_at - :seconds WHERE id = :id",
            seconds=Policy().most_patience_seconds + 60,
            id=old,
        )
    assert started(crowded) == [old]
