"""Attempts through the store: memory never promised twice, one winner, one end, orders heeded."""

import pytest

from scheduler.devices.device import DeviceReading
from scheduler.errors import MmqError
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.store import attempts, audit, devices, jobs
from scheduler.store.database import Database
from scheduler.store.records import Orders, Progress
from tests.store.samples import DEVICE, GIB, admitted, ends, new_attempt, queued, running, start


def test_admission_reserves_and_moves(db: Database) -> None:
    job = queued(db)
    attempt = admitted(db, job)
    assert (attempt.number, attempt.state, attempt.reserved_bytes) == (1, AttemptState.ADMITTED, 4 * GIB)
    assert [(r.attempt_id, r.device_id, r.reserved_bytes) for r in devices.reservations(db)] == [
        (attempt.id, DEVICE, 4 * GIB)
    ]
    now = jobs.get(db, job.id)
    assert (now.state, now.attempt_id, now.waiting) == (JobState.ADMITTED, attempt.id, None)
    assert attempts.admit(db, job.id, new_attempt(), at=3.0) is None


def test_no_more_is_promised_than_the_limit(db: Database) -> None:
    sizes = [9 * GIB, 9 * GIB, 3 * GIB, 2 * GIB]
    given = [attempts.admit(db, queued(db).id, new_attempt(reservations={DEVICE: size}), at=2.0) for size in sizes]
    assert [attempt is not None for attempt in given] == [True, True, False, True]
    assert sum(r.reserved_bytes for r in devices.reservations(db)) == 20 * GIB


def test_a_job_waits_for_what_it_comes_after(db: Database) -> None:
    first = queued(db)
    second = queued(db, depends_on=(first.id,))
    assert attempts.admit(db, second.id, new_attempt(), at=2.0) is None
    attempts.finish(db, running(db, first).id, ends(EndReason.DONE, exit_code=0), at=5.0)
    assert attempts.admit(db, second.id, new_attempt(), at=6.0) is not None


def test_a_claim_is_won_once(db: Database) -> None:
    attempt = admitted(db, queued(db))
    won = attempts.claim(db, attempt.id, at=3.0)
    assert won is not None
    assert (won.state, won.claimed_at) == (AttemptState.CLAIMED, 3.0)
    assert attempts.claim(db, attempt.id, at=3.5) is None
    assert attempts.claim(db, 999, at=3.5) is None


def test_orders_reach_the_shim_before_the_trainer_starts(db: Database) -> None:
    job = queued(db)
    attempt = admitted(db, job)
    assert attempts.claim(db, attempt.id, at=3.0)
    shim = {"shim_pid": 9, "shim_started": 1, "boot_id": "b"}
    assert attempts.shim_alive(db, attempt.id, **shim, at=3.1) == Orders()
    jobs.request_cancel(db, job.id, by="ada", at=3.2)
    assert attempts.shim_alive(db, attempt.id, **shim, at=3.3) == Orders(cancel=True)
    attempts.finish(db, attempt.id, ends(EndReason.CANCELLED), at=4.0)
    assert attempts.shim_alive(db, attempt.id, **shim, at=5.0) == Orders(cancel=True, stop=True, ended=True)
    assert jobs.get(db, job.id).state is JobState.CANCELLED


def test_a_late_start_of_an_ended_attempt_changes_nothing(db: Database) -> None:
    job = queued(db)
    attempt = admitted(db, job)
    attempts.finish(db, attempt.id, ends(EndReason.COULD_NOT_START, message="no worker came"), at=3.0)
    start(db, attempt.id, at=4.0)
    assert attempts.get(db, attempt.id).pid is None
    assert jobs.get(db, job.id).state is JobState.QUEUED
    assert audit.violations(db) == []


def test_nothing_starts_without_a_claim(db: Database) -> None:
    attempt = admitted(db, queued(db))
    with pytest.raises(MmqError, match="never claimed"):
        start(db, attempt.id)
    assert attempts.get(db, attempt.id).state is AttemptState.ADMITTED


def test_heartbeats_keep_what_they_do_not_tell_and_peaks_grow(db: Database) -> None:
    attempt = running(db, queued(db))
    attempts.heartbeat(db, attempt.id, Progress(step=5, loss=2.5, measured_process_bytes=700), at=10.0)
    attempts.heartbeat(db, attempt.id, Progress(step=6, measured_process_bytes=300), at=11.0)
    now = attempts.get(db, attempt.id)
    assert (now.step, now.loss, now.micro_batch, now.accumulation_steps) == (6, 2.5, 8, 2)
    assert (now.measured_process_bytes, now.heartbeat_at) == (700, 11.0)


def test_a_stop_sends_the_job_back_uncounted(db: Database) -> None:
    job = queued(db)
    attempt = running(db, job)
    attempts.request_stop(db, attempt.id, at=5.0)
    attempts.request_stop(db, attempt.id, at=6.0)
    assert attempts.heartbeat(db, attempt.id, Progress(), at=7.0) == Orders(stop=True)
    attempts.finish(db, attempt.id, ends(EndReason.STOPPED, exit_code=75), at=8.0)
    now = jobs.get(db, job.id)
    assert (now.state, now.crash_retries) == (JobState.QUEUED, 0)


def test_the_first_end_counts(db: Database) -> None:
    job = queued(db)
    attempt = running(db, job)
    first = attempts.finish(db, attempt.id, ends(EndReason.DONE, exit_code=0, measured_process_bytes=5), at=8.0)
    again = attempts.finish(db, attempt.id, ends(EndReason.LOST), at=9.0)
    assert again == first
    assert (again.reason, again.exit_code, again.measured_process_bytes) == (EndReason.DONE, 0, 5)
    assert jobs.get(db, job.id).state is JobState.SUCCEEDED
    assert db.query("SELECT * FROM reservations") == []


def test_done_before_anybody_wrote_that_it_started(db: Database) -> None:
    job = queued(db)
    attempt = admitted(db, job)
    attempts.claim(db, attempt.id, at=3.0)
    attempts.finish(db, attempt.id, ends(EndReason.DONE, exit_code=0), at=4.0)
    assert jobs.get(db, job.id).state is JobState.SUCCEEDED
    assert audit.violations(db) == []


def test_out_of_memory_halves_from_what_was_last_in_use(db: Database) -> None:
    job = queued(db)
    attempt = running(db, job)
    attempts.heartbeat(db, attempt.id, Progress(micro_batch=4, accumulation_steps=4), at=5.0)
    attempts.finish(db, attempt.id, ends(EndReason.OUT_OF_MEMORY, exit_code=80), at=6.0)
    now = jobs.get(db, job.id)
    assert (now.state, now.micro_batch_limit, now.out_of_memory_retries) == (JobState.QUEUED, 2, 1)
    assert "micro-batch 2" in str(now.waiting)


def test_live_attempts_and_those_of_a_job(db: Database) -> None:
    job = queued(db)
    first = running(db, job)
    other = admitted(db, queued(db), host="there")
    assert [a.id for a in attempts.live(db)] == [first.id, other.id]
    assert [a.id for a in attempts.live(db, "there")] == [other.id]
    attempts.finish(db, first.id, ends(EndReason.EXIT_CODE, exit_code=1), at=5.0)
    second = admitted(db, job)
    assert [(a.id, a.number) for a in attempts.of_job(db, job.id)] == [(first.id, 1), (second.id, 2)]
    with pytest.raises(MmqError, match="no attempt 999"):
        attempts.get(db, 999)


@pytest.mark.parametrize("gone", [True, False])
def test_a_failure_on_a_device_that_is_gone_or_in_error_is_put_down_to_it(db: Database, gone: bool) -> None:
    job = queued(db)
    attempt = running(db, job)
    if gone:
        devices.upsert(db, [], "here")
    else:
        devices.write_readings(db, [a_reading(error="it has fallen off the bus")])
    ended = attempts.finish(db, attempt.id, ends(EndReason.EXIT_CODE, exit_code=1, message="CUDA error"), at=9.0)
    what = "is not there any more" if gone else "it has fallen off the bus"
    assert (ended.reason, ended.message) == (EndReason.DEVICE_LOST, f"virtual:0 {what}; CUDA error")
    again = jobs.get(db, job.id)
    assert (again.state, again.crash_retries) == (JobState.QUEUED, 1)
    assert audit.violations(db) == []


def test_a_failure_on_a_device_that_is_well_is_its_own(db: Database) -> None:
    devices.write_readings(db, [a_reading(error=None)])
    ended = attempts.finish(db, running(db, queued(db)).id, ends(EndReason.EXIT_CODE, exit_code=1), at=9.0)
    assert ended.reason is EndReason.EXIT_CODE


def a_reading(error: str | None) -> DeviceReading:
    return DeviceReading(
        device_id=DEVICE, at=8.0, total_bytes=20 * GIB, used_bytes=0, processes=(), utilisation=None, error=error
    )
