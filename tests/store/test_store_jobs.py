"""Jobs through the store: taken in once, found by any name, cancelled, held, released, retried."""

import json
import random
from typing import Any

import pytest

from scheduler.errors import MmqError, NoSuchJob, UsageError
from scheduler.jobs.retries import REBOOTS_FORGIVEN, AttemptFacts, JobFacts, verdict
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, audit, jobs
from scheduler.store.database import Database
from scheduler.store.records import Job, Progress
from scheduler.store.shortages import exhausted_host_memory
from scheduler.store.transitions import IllegalTransition, move, record
from tests.store.samples import admitted, ends, new_attempt, new_job, queued, running

JOB = JobFacts(out_of_memory_allowed=2, crash_allowed=1)  # as the samples' own
ATTEMPT = AttemptFacts(micro_batch=8)


def test_what_was_counted_before_a_retry_counts_no_more(db: Database) -> None:
    """Reboots are forgiven anew, and the optimizer may be laid on the host again."""
    job = queued(db, spec=json.dumps({"retries": {"crash": 1}}))
    offloaded = json.dumps({"optimizer_offload": True})

    def end(reason: EndReason, **changes: Any) -> Job:
        attempt = running(db, job, plan=offloaded)
        attempts.finish(db, attempt.id, ends(reason, **changes), at=9.0)
        return jobs.get(db, job.id)

    for _ in range(REBOOTS_FORGIVEN):
        assert end(EndReason.LOST, rebooted=True).crash_retries == 0
    used = end(EndReason.HOST_OUT_OF_MEMORY, exit_signal=9)
    assert (used.crash_retries, exhausted_host_memory(db, used)) == (1, True)
    assert end(EndReason.LOST, rebooted=True).state is JobState.FAILED
    jobs.retry(db, job.id, at=10.0)
    for _ in range(REBOOTS_FORGIVEN):
        assert end(EndReason.LOST, rebooted=True).crash_retries == 0
    used = end(EndReason.EXIT_CODE, exit_code=1)
    assert (used.crash_retries, exhausted_host_memory(db, used)) == (1, False)


@pytest.mark.parametrize("seed", range(4))
def test_a_job_s_attempts_come_to_an_end_and_each_keeps_its_first_reason(db: Database, seed: int) -> None:
    """Whatever ends them, told by two: retries, reboots and steps run out."""
    dice = random.Random(seed)
    may_follow = [reason for reason in EndReason if verdict(JOB, ATTEMPT, ends(reason)).state is JobState.QUEUED]
    job, told, steps = queued(db), [], 3
    while jobs.get(db, job.id).state is JobState.QUEUED:
        attempt = running(db, job)
        attempts.heartbeat(db, attempt.id, Progress(step=dice.randint(0, steps)), at=5.0)
        told.append(dice.choice(may_follow))
        attempts.finish(db, attempt.id, ends(told[-1], rebooted=dice.random() < 0.5), at=6.0)
        attempts.finish(db, attempt.id, ends(EndReason.DONE), at=7.0)
    assert [attempt.reason for attempt in attempts.of_job(db, job.id)] == told
    assert 2 <= len(told) <= 1 + JOB.out_of_memory_allowed + JOB.crash_allowed + REBOOTS_FORGIVEN + steps
    assert jobs.get(db, job.id).state is JobState.FAILED
    assert audit.violations(db) == []


def test_a_submitted_job_is_there_with_its_first_event(db: Database) -> None:
    job = jobs.submit(db, new_job(name="first", priority=3), at=10.5)
    assert (job.state, job.name, job.priority, job.submitted_at) == (JobState.QUEUED, "first", 3, 10.5)
    assert job.waiting
    events = db.query("SELECT kind, from_state, to_state, at FROM events WHERE job_id = :id", id=job.id)
    assert events == [{"kind": "state", "from_state": None, "to_state": "queued", "at": 10.5}]


def test_the_same_key_gives_the_same_job(db: Database) -> None:
    first = queued(db, submit_key="k")
    assert queued(db, submit_key="k", name="other").id == first.id
    assert queued(db).id != queued(db).id
    assert len(jobs.queue(db)) == 3


def test_ids_are_never_given_twice(db: Database, driver: str) -> None:
    last = queued(db).id
    with db.transaction() as tx:
        tx.execute("DELETE FROM events")
        tx.execute("DELETE FROM jobs")
    assert queued(db).id > last


def test_the_queue_is_by_priority_then_age(db: Database) -> None:
    low, first, second = queued(db), queued(db, priority=5), queued(db, priority=5)
    assert [job.id for job in jobs.queue(db)] == [first.id, second.id, low.id]


@pytest.mark.parametrize(
    ("refs", "expected"),
    [
        (["2"], [2]),
        (["1-3"], [1, 2, 3]),
        (["3,1"], [3, 1]),
        (["2-9,1"], [2, 3, 1]),
        (["one"], [1]),
        (["@"], [3]),
        (["@~1", "@~1"], [2]),
        (["@", "1-2"], [3, 1, 2]),
    ],
)
def test_references_name_jobs(db: Database, refs: list[str], expected: list[int]) -> None:
    for name in ("one", "same", "same"):
        queued(db, name=name)
    assert jobs.resolve(db, refs) == expected


def test_references_that_name_nothing_or_too_much(db: Database) -> None:
    for ref in ("7", "5-9", "@~9", "none"):
        with pytest.raises(NoSuchJob):
            jobs.resolve(db, [ref])
    first, second = queued(db, name="same").id, queued(db, name="same").id
    with pytest.raises(UsageError, match=f"{second}, {first}"):
        jobs.resolve(db, ["same"])


def test_cancel_before_it_runs_is_at_once(db: Database) -> None:
    waiting, held, promised = queued(db), queued(db, hold=True), queued(db)
    attempt = admitted(db, promised)
    for job in (waiting, held, promised):
        cancelled = jobs.request_cancel(db, job.id, by="ada", at=5.0)
        assert (cancelled.state, cancelled.reason) == (JobState.CANCELLED, EndReason.CANCELLED)
    assert attempts.claim(db, attempt.id, at=6.0) is None
    assert db.query("SELECT * FROM reservations") == []
    assert audit.violations(db) == []


def test_cancel_of_what_runs_is_a_request(db: Database) -> None:
    job = queued(db)
    attempt = running(db, job)
    asked = jobs.request_cancel(db, job.id, by="ada", at=5.0)
    assert (asked.state, asked.cancel_requested_by, asked.cancel_requested_at) == (JobState.RUNNING, "ada", 5.0)
    assert jobs.request_cancel(db, job.id, by="bob", at=6.0).cancel_requested_by == "ada"
    attempts.finish(db, attempt.id, ends(EndReason.KILLED, exit_signal=15), at=7.0)
    assert jobs.get(db, job.id).state is JobState.CANCELLED
    assert audit.violations(db) == []


def test_hold_and_release(db: Database) -> None:
    job = queued(db)
    assert jobs.hold(db, job.id, at=2.0).state is JobState.HELD
    assert attempts.admit(db, job.id, new_attempt(), at=3.0) is None
    assert jobs.release(db, job.id, at=4.0).state is JobState.QUEUED
    running(db, job)
    with pytest.raises(MmqError, match="it is running"):
        jobs.hold(db, job.id, at=5.0)


def test_retry_starts_afresh(db: Database) -> None:
    job = queued(db)
    for _ in range(2):
        attempts.finish(db, running(db, job).id, ends(EndReason.EXIT_CODE, exit_code=1), at=5.0)
    failed = jobs.get(db, job.id)
    assert (failed.state, failed.crash_retries, failed.ended_at) == (JobState.FAILED, 1, 5.0)
    again = jobs.retry(db, job.id, at=6.0)
    assert (again.state, again.crash_retries, again.reason, again.ended_at) == (JobState.QUEUED, 0, None, None)
    with pytest.raises(MmqError, match="it is queued"):
        jobs.retry(db, job.id, at=7.0)
    assert running(db, job).number == 3
    assert audit.violations(db) == []


def test_a_bad_end_takes_all_that_come_after(db: Database) -> None:
    first = queued(db, name="first")
    second = queued(db, depends_on=(first.id, first.id))
    third = queued(db, depends_on=(second.id,), hold=True)
    other = queued(db)
    assert jobs.dependencies(db, [second.id, other.id]) == {second.id: [(first.id, JobState.QUEUED)]}
    jobs.request_cancel(db, first.id, by="ada", at=5.0)
    for job, parent in ((second, first), (third, second)):
        ended = jobs.get(db, job.id)
        assert (ended.state, ended.reason) == (JobState.FAILED, EndReason.DEPENDENCY_FAILED)
        assert f"job {parent.id} ({parent.name})" in str(ended.message)
    assert jobs.get(db, other.id).state is JobState.QUEUED
    assert audit.violations(db) == []
    with pytest.raises(MmqError, match=f"comes after job {first.id}"):
        jobs.retry(db, second.id, at=6.0)
    jobs.retry(db, first.id, at=7.0)
    assert jobs.retry(db, second.id, at=8.0).state is JobState.QUEUED


def test_a_long_chain_of_dependents_fails_in_one_go(db: Database) -> None:
    parent = first = queued(db)
    for _ in range(60):
        parent = queued(db, depends_on=(parent.id,))
    jobs.request_cancel(db, first.id, by="ada", at=5.0)
    assert jobs.queue(db) == []
    assert len(str(jobs.get(db, parent.id).message)) <= 500


def test_no_job_comes_after_one_that_ended_badly_or_is_not_there(db: Database) -> None:
    first = queued(db)
    jobs.request_cancel(db, first.id, by="ada", at=2.0)
    with pytest.raises(UsageError, match="is cancelled"):
        queued(db, depends_on=(first.id,))
    with pytest.raises(NoSuchJob):
        queued(db, depends_on=(99,))
    assert jobs.queue(db) == []


def test_waiting_reasons_are_written_where_they_changed(db: Database) -> None:
    job, held = queued(db), queued(db, hold=True)
    jobs.explain_waiting(db, {job.id: ("no_room", "needs 9 GiB"), held.id: ("no_room", "x"), 99: ("a", "b")})
    now = jobs.get(db, job.id)
    assert (now.waiting_code, now.waiting) == ("no_room", "needs 9 GiB")
    assert jobs.get(db, held.id).waiting_code == "held"


def test_an_illegal_move_tells_the_story_and_changes_nothing(db: Database) -> None:
    job = queued(db)
    with pytest.raises(IllegalTransition, match=r"queued: it can't become succeeded.*story: queued"):
        _note_and_move(db, job.id, JobState.SUCCEEDED, EndReason.DONE)
    with pytest.raises(IllegalTransition):
        _note_and_move(db, job.id, JobState.FAILED, None)  # an end without a reason
    assert jobs.get(db, job.id).state is JobState.QUEUED
    assert [row["kind"] for row in db.query("SELECT kind FROM events")] == ["state"]


def _note_and_move(db: Database, job_id: int, to: JobState, reason: EndReason | None) -> None:
    with db.transaction() as tx:
        record(tx, job_id, "note", at=2.0)
        move(tx, job_id, to, at=2.0, reason=reason)
