"""A running attempt that is asked to shrink or grow: memory follows, nothing is promised twice, nothing asked twice."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store import attempts, audit, devices, jobs
from scheduler.store.attempts import Resize
from scheduler.store.database import Database
from scheduler.store.records import Progress, Resizing
from tests.store.samples import DEVICE, GIB, ends, new_attempt, queued, running

Move = tuple[int, str, int, int]  # which of three, what, micro-batch, GiB


def resize(micro_batch: int, size: int, limit: int = 20 * GIB) -> Resize:
    return Resize(micro_batch=micro_batch, limit_bytes=size, device_limits={DEVICE: limit}, why="for job 9")


def promised(db: Database) -> int:
    return sum(reservation.reserved_bytes for reservation in devices.reservations(db))


def heeds(db: Database, attempt_id: int, number: int, micro_batch: int) -> None:
    progress = Progress(heeded_number=number, micro_batch=micro_batch, accumulation_steps=16 // micro_batch)
    attempts.heartbeat(db, attempt_id, progress, at=9.0)


def test_a_shrink_gives_back_when_it_is_acknowledged(db: Database) -> None:
    attempt = running(db, queued(db))
    assert attempts.request_resize(db, attempt.id, resize(2, GIB), at=5.0)
    orders = attempts.heartbeat(db, attempt.id, Progress(step=3), at=6.0)
    assert orders.resize == Resizing(number=1, micro_batch=2, limit_bytes=GIB)
    assert promised(db) == 4 * GIB
    heeds(db, attempt.id, 1, 2)
    now = attempts.get(db, attempt.id)
    assert (now.micro_batch, now.accumulation_steps, now.reserved_bytes, now.resizing) == (2, 8, GIB, False)
    assert promised(db) == GIB
    assert attempts.heartbeat(db, attempt.id, Progress(), at=10.0).resize is None
    assert audit.violations(db) == []


def test_a_growth_is_reserved_before_it_is_asked_for_or_not_at_all(db: Database) -> None:
    attempt, other = running(db, queued(db)), running(db, queued(db))
    assert not attempts.request_resize(db, attempt.id, resize(16, 17 * GIB), at=5.0)
    assert attempts.heartbeat(db, attempt.id, Progress(), at=6.0).resize is None
    assert attempts.request_resize(db, attempt.id, resize(16, 16 * GIB), at=7.0)
    assert promised(db) == 20 * GIB
    assert attempts.admit(db, queued(db).id, new_attempt(reservations={DEVICE: 1}), at=7.0) is None
    heeds(db, attempt.id, 1, 16)
    assert promised(db) == 20 * GIB
    assert attempts.get(db, other.id).reserved_bytes == 4 * GIB
    assert audit.violations(db) == []


def test_the_same_is_not_asked_twice_and_another_takes_its_place(db: Database) -> None:
    job = queued(db)
    attempt = running(db, job)
    for _ in range(3):
        assert attempts.request_resize(db, attempt.id, resize(4, 2 * GIB), at=5.0)
    assert attempts.get(db, attempt.id).wanted_number == 1
    assert attempts.request_resize(db, attempt.id, resize(2, GIB), at=6.0)
    heeds(db, attempt.id, 1, 4)  # the first, too late: the second is still to come
    assert (promised(db), attempts.get(db, attempt.id).micro_batch) == (4 * GIB, 4)
    heeds(db, attempt.id, 2, 2)
    assert promised(db) == GIB
    assert attempts.request_resize(db, attempt.id, resize(2, GIB), at=7.0)  # is so already
    assert attempts.get(db, attempt.id).wanted_number == 2
    asked = db.query("SELECT detail FROM events WHERE kind = 'resize_asked' AND job_id = :id", id=job.id)
    assert len(asked) == 2
    assert "for job 9" in asked[0]["detail"]


def test_what_does_not_run_or_is_to_stop_is_not_asked(db: Database) -> None:
    job = queued(db)
    attempt = attempts.admit(db, job.id, new_attempt(), at=2.0)
    assert attempt is not None
    assert not attempts.request_resize(db, attempt.id, resize(2, GIB), at=3.0)
    other = running(db, queued(db))
    attempts.request_stop(db, other.id, at=5.0, preempted_for=queued(db).id)
    assert not attempts.request_resize(db, other.id, resize(2, GIB), at=6.0)


def test_preempted_for_a_job_it_goes_back_and_uses_up_no_retry(db: Database) -> None:
    job, waiting = queued(db), queued(db)
    attempt = running(db, job)
    for at in (5.0, 6.0):
        attempts.request_stop(db, attempt.id, at=at, preempted_for=waiting.id)
    rows = db.query("SELECT kind, detail FROM events WHERE job_id = :id AND kind = 'preempted'", id=job.id)
    assert [row["detail"] for row in rows] == [f'{{"for_job": {waiting.id}}}']
    assert attempts.heartbeat(db, attempt.id, Progress(), at=7.0).stop
    ended = attempts.finish(db, attempt.id, ends(EndReason.STOPPED, exit_code=75), at=8.0)
    assert (ended.state, ended.preempted_for) == (AttemptState.ENDED, waiting.id)
    now = jobs.get(db, job.id)
    assert (now.state, now.crash_retries, now.out_of_memory_retries) == (JobState.QUEUED, 0, 0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["ask", "heed"]), st.integers(1, 16), st.integers(1, 12)),
        max_size=25,
    )
)
def test_no_order_of_requests_and_answers_promises_too_much(db: Database, moves: list[Move]) -> None:
    ids = [running(db, queued(db)).id for _ in range(3)]
    for index, what, micro_batch, size in moves:
        attempt = attempts.get(db, ids[index])
        if what == "ask":
            attempts.request_resize(db, attempt.id, resize(micro_batch, size * GIB), at=5.0)
        elif attempt.resizing:
            heeds(db, attempt.id, attempt.wanted_number or 0, attempt.wanted_micro_batch or 1)
        assert promised(db) <= 20 * GIB
    assert audit.violations(db) == []
    for attempt_id in ids:
        attempts.finish(db, attempt_id, ends(EndReason.DONE, exit_code=0), at=20.0)
    assert promised(db) == 0
