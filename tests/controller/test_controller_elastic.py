"""Running jobs that make room: asked to shrink or to leave, given memory when they grow, held to what they use."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler.admission.pace import START_SECONDS
from scheduler.controller import record
from scheduler.controller.residents import UNHEEDED_SECONDS
from scheduler.jobs.states import EndReason, JobState
from scheduler.processes.liveness import boot_id, process_started
from scheduler.store import attempts, audit, devices, jobs
from scheduler.store.records import Attempt, Outcome, Progress
from tests.controller.bench import MIB, Bench
from tests.processes import hold

NO_MEANS = ("memory.optimizer_offload=off", "memory.activation_checkpointing=off")


def begin(bench: Bench, job_id: int, **progress: Any) -> Attempt:
    """Start what was admitted, as worker, shim and trainer would, up to its first steps."""
    attempt_id = bench.job(job_id).attempt_id
    assert attempt_id is not None, bench.job(job_id).waiting
    assert attempts.claim(bench.db, attempt_id, at=time.time()) is not None
    me, ticks = os.getpid(), process_started(os.getpid()) or 0
    attempts.started(
        bench.db,
        attempt_id,
        pid=me,
        pid_started=ticks,
        shim_pid=me,
        shim_started=ticks,
        boot_id=boot_id(),
        at=time.time(),
    )
    told = {"step": 5, "total_steps": 1000, "eta_seconds": 900.0, "busy_share": 0.3, "tokens_per_second": 10.0}
    attempts.heartbeat(bench.db, attempt_id, Progress(**(told | progress)), at=time.time())
    return attempts.get(bench.db, attempt_id)


def heed(bench: Bench, attempt: Attempt) -> Attempt:
    """Answer what is asked of an attempt, as its trainer would at the next step."""
    orders = attempts.heartbeat(bench.db, attempt.id, Progress(), at=time.time())
    assert orders.resize is not None
    progress = Progress(
        heeded_number=orders.resize.number, micro_batch=orders.resize.micro_batch, accumulation_steps=1, peak_bytes=0
    )
    attempts.heartbeat(bench.db, attempt.id, progress, at=time.time())
    return attempts.get(bench.db, attempt.id)


def promised(bench: Bench) -> int:
    return sum(one.reserved_bytes for one in devices.reservations(bench.db))


@pytest.fixture
def large(bench: Bench) -> Attempt:
    """A job that takes nearly all of the only device, and could do with half of it."""
    bench.tracer.base_mib, bench.tracer.row_mib = 200, 80
    job_id = bench.submit(*NO_MEANS, "train.max_steps=1000")
    bench.cycles()
    attempt = begin(bench, job_id)
    assert attempt.reserved_bytes > 512 * MIB
    return attempt


def test_a_running_job_shrinks_to_let_another_in(bench: Bench, large: Attempt) -> None:
    waiting = bench.submit(*NO_MEANS)
    for _ in range(3):  # the same decision each cycle, asked once
        bench.cycles()
        job = bench.job(waiting)
        assert (job.state, job.waiting_code) == (JobState.QUEUED, "shrinking"), job.waiting
        assert f"job {large.job_id} goes on with micro-batch" in (job.waiting or "")
    asked = attempts.get(bench.db, large.id)
    assert (asked.wanted_number, asked.reserved_bytes) == (1, large.reserved_bytes)
    now = heed(bench, large)
    assert now.reserved_bytes < large.reserved_bytes
    bench.cycles()
    assert bench.job(waiting).state is JobState.ADMITTED
    assert promised(bench) <= 1024 * MIB
    assert audit.violations(bench.db) == []


def test_it_grows_again_when_it_is_alone(bench: Bench, large: Attempt) -> None:
    waiting = bench.submit(*NO_MEANS)
    bench.cycles(3)
    small = heed(bench, large)
    bench.cycles()
    second = begin(bench, waiting)
    bench.cycles()
    attempts.finish(bench.db, second.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    bench.cycles(1)
    asked = attempts.get(bench.db, large.id)
    assert asked.resizing
    assert asked.reserved_bytes == asked.wanted_limit_bytes  # promised before it is asked for
    assert asked.reserved_bytes > small.reserved_bytes
    assert (heed(bench, large).micro_batch, promised(bench)) == (asked.wanted_micro_batch, asked.reserved_bytes)


def test_what_a_larger_plan_shows_before_the_store_hears_of_it_is_not_booked_on_the_old_one(
    bench: Bench, large: Attempt
) -> None:
    waiting = bench.submit(*NO_MEANS)
    bench.cycles(3)
    small = heed(bench, large)
    bench.cycles()
    second = begin(bench, waiting)
    attempts.finish(bench.db, second.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    entry = hold(bench.ledger, os.getpid(), small.reserved_bytes)
    bench.cycles(1)
    asked = attempts.get(bench.db, large.id)
    assert asked.resizing
    assert asked.measured_process_bytes == small.reserved_bytes
    assert asked.wanted_limit_bytes is not None
    hold(bench.ledger, os.getpid(), asked.wanted_limit_bytes)  # it grows at once, and its shim tells at the next beat
    bench.cycles(1)
    assert attempts.get(bench.db, large.id).measured_process_bytes == small.reserved_bytes
    heed(bench, large)
    bench.cycles(1)
    assert attempts.get(bench.db, large.id).measured_process_bytes == asked.wanted_limit_bytes
    left = bench.db.query("SELECT detail FROM events WHERE kind = 'plan_left' ORDER BY id DESC LIMIT 1")
    assert json.loads(left[0]["detail"])["measured_process_bytes"] == small.reserved_bytes
    entry.unlink()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("halved", [False, True])
def test_a_shrink_told_while_the_devices_are_read_leaves_the_larger_peak_to_the_larger_plan(
    bench: Bench, large: Attempt, monkeypatch: pytest.MonkeyPatch, halved: bool, late: bool
) -> None:
    """The beat that tells of the smaller plan comes just before, or just after, the device is read."""
    waiting = bench.submit(*NO_MEANS)
    bench.cycles(3)
    asked = attempts.get(bench.db, large.id)
    entry = hold(bench.ledger, os.getpid(), large.reserved_bytes)
    read = bench.devices.read

    def shrink() -> None:
        if halved:
            smaller = Progress(step=6, micro_batch=large.micro_batch // 2, accumulation_steps=2, peak_bytes=0)
            attempts.heartbeat(bench.db, large.id, smaller, at=time.time())
        else:
            heed(bench, large)

    def read_meanwhile():
        monkeypatch.setattr(bench.devices, "read", read)
        if not late:
            shrink()
        readings = read()
        if late:
            shrink()
        return readings

    monkeypatch.setattr(bench.devices, "read", read_meanwhile)
    bench.cycles(1)
    small = attempts.get(bench.db, large.id)
    assert small.micro_batch < large.micro_batch
    assert small.measured_process_bytes is None
    assert small.wanted_number == asked.wanted_number  # to make room for one job it is asked once
    if not halved:
        hold(bench.ledger, os.getpid(), small.reserved_bytes)
        bench.cycles(1)
        assert bench.job(waiting).state is JobState.ADMITTED
        assert attempts.get(bench.db, large.id).measured_process_bytes == small.reserved_bytes
    entry.unlink()


def test_one_that_does_not_answer_is_asked_no_more(bench: Bench, large: Attempt) -> None:
    waiting = bench.submit(*NO_MEANS)
    bench.cycles(3)
    assert bench.job(waiting).waiting_code == "shrinking"
    bench.controller.clock = lambda: time.time() + UNHEEDED_SECONDS + 1
    bench.cycles(1)
    assert bench.job(waiting).waiting_code != "shrinking"
    assert attempts.get(bench.db, large.id).wanted_number == 1


def test_a_longer_job_saves_and_leaves_for_a_short_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can shrink: one has to leave, and comes back without a retry used up."""
    bench.tracer.base_mib, bench.tracer.row_mib = 900, 0
    monkeypatch.setattr("scheduler.controller.snapshot.PREEMPTIONS_A_JOB", 1.0)
    long = bench.submit(*NO_MEANS, "train.max_steps=100000")
    bench.cycles()
    attempt = begin(bench, long, eta_seconds=90000.0)
    short = bench.submit(*NO_MEANS)
    bench.cycles()
    assert bench.job(short).waiting_code == "preempting", bench.job(short).waiting
    assert f"job {long} is saving and stopping to make room for it" in (bench.job(short).waiting or "")
    asked = attempts.get(bench.db, attempt.id)
    assert (asked.preempted_for, asked.stop_requested_at is not None) == (short, True)
    bench.cycles()
    told = bench.db.query("SELECT detail FROM events WHERE kind = 'preempted'")
    assert [row["detail"] for row in told] == [f'{{"for_job": {short}}}']
    attempts.finish(bench.db, attempt.id, Outcome(reason=EndReason.STOPPED, exit_code=75), at=time.time())
    bench.cycles()
    assert bench.job(short).state is JobState.ADMITTED
    back = bench.job(long)
    assert (back.state, back.crash_retries, back.out_of_memory_retries) == (JobState.QUEUED, 0, 0)


def test_a_job_over_several_devices_leaves_for_higher_priority_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, "virtual:2x1GiB")
    bench.tracer.base_mib, bench.tracer.row_mib = 900, 0
    monkeypatch.setattr("scheduler.controller.snapshot.PREEMPTIONS_A_JOB", 1.0)
    whole = (*NO_MEANS, "memory.sharding=none")
    gang = bench.submit(*whole, "resources.gpus=2", "train.max_steps=100000")
    bench.cycles()
    attempt = begin(bench, gang, eta_seconds=90000.0)
    equal = bench.submit(*whole)
    bench.cycles()
    assert bench.job(equal).waiting_code == "memory", bench.job(equal).waiting
    urgent = bench.submit(*whole, priority=1)
    bench.cycles()
    assert bench.job(urgent).waiting_code == "preempting", bench.job(urgent).waiting
    assert attempts.get(bench.db, attempt.id).preempted_for == urgent
    attempts.finish(bench.db, attempt.id, Outcome(reason=EndReason.STOPPED, exit_code=75), at=time.time())
    bench.cycles()
    for job_id in (urgent, equal):
        one = begin(bench, job_id)
        attempts.finish(bench.db, one.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    bench.cycles()
    back = bench.job(gang)
    assert (back.state, back.crash_retries, back.out_of_memory_retries) == (JobState.ADMITTED, 0, 0)
    assert attempts.get(bench.db, back.attempt_id or 0).device == "virtual:0,1"


@pytest.fixture
def gang(tmp_path: Path) -> tuple[Bench, Attempt]:
    """A job that takes nearly all of two devices, and could do with half of each."""
    bench = Bench(tmp_path, "virtual:2x1GiB")
    bench.tracer.base_mib, bench.tracer.row_mib = 200, 80
    several = ("resources.gpus=2", "memory.sharding=none", "train.batch_size=16", "train.max_steps=1000")
    job_id = bench.submit(*NO_MEANS, *several)
    bench.cycles()
    attempt = begin(bench, job_id)
    assert set(parts(bench, attempt).values()) == {attempt.reserved_bytes // 2}
    assert attempt.reserved_bytes > 2 * 512 * MIB
    return bench, attempt


def parts(bench: Bench, attempt: Attempt) -> dict[str, int]:
    return attempts.reserved(bench.db, attempt.id)


def test_a_job_over_several_devices_changes_on_all_of_them_for_one_that_waits_for_one(
    gang: tuple[Bench, Attempt],
) -> None:
    bench, attempt = gang
    before = parts(bench, attempt)
    waiting = bench.submit(*NO_MEANS, "resources.devices=1")
    bench.cycles(3)
    assert bench.job(waiting).waiting_code == "shrinking", bench.job(waiting).waiting
    asked = attempts.get(bench.db, attempt.id)
    assert (asked.wanted_number, parts(bench, attempt)) == (1, before)
    small = heed(bench, attempt)
    assert set(parts(bench, attempt).values()) == {asked.wanted_limit_bytes}
    assert small.micro_batch < attempt.micro_batch
    bench.cycles()
    assert bench.job(waiting).state is JobState.ADMITTED
    second = begin(bench, waiting)
    bench.cycles()
    assert not attempts.get(bench.db, attempt.id).resizing  # what is free on the other device is of no use to it

    attempts.finish(bench.db, second.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    bench.cycles(1)
    grows = attempts.get(bench.db, attempt.id)
    assert grows.resizing
    assert set(parts(bench, attempt).values()) == {grows.wanted_limit_bytes}  # promised on both before it is asked for
    assert heed(bench, attempt).micro_batch > small.micro_batch
    assert audit.violations(bench.db) == []


def test_reservations_of_a_job_over_several_devices_follow_what_one_of_its_processes_uses(
    gang: tuple[Bench, Attempt],
) -> None:
    bench, attempt = gang
    peak = attempt.reserved_bytes // 2 * 6 // 10
    attempts.heartbeat(bench.db, attempt.id, Progress(step=110, peak_bytes=peak, peak_step=4), at=time.time())
    bench.cycles(1)
    asked = attempts.get(bench.db, attempt.id)
    assert peak < (asked.wanted_limit_bytes or 0) < peak * 1.1
    heed(bench, attempt)
    assert set(parts(bench, attempt).values()) == {asked.wanted_limit_bytes}
    bench.cycles(1)
    assert not attempts.get(bench.db, attempt.id).resizing


def test_a_job_that_has_lost_sight_of_one_of_its_devices_stays_as_it_is(
    gang: tuple[Bench, Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, attempt = gang
    there = bench.devices.discover()[1:]
    monkeypatch.setattr(bench.devices, "discover", lambda: there)
    bench.controller.reconcile()
    bench.cycles()
    assert not attempts.get(bench.db, attempt.id).resizing


def test_nobody_leaves_for_a_job_that_was_cancelled_meanwhile(bench: Bench, large: Attempt) -> None:
    waiting = bench.submit(*NO_MEANS)
    jobs.request_cancel(bench.db, waiting, by="ada", at=time.time())
    attempts.request_stop(bench.db, large.id, at=time.time(), preempted_for=waiting)
    assert attempts.get(bench.db, large.id).stop_requested_at is None


def test_a_clock_set_back_does_not_make_a_start_last_for_days(bench: Bench) -> None:
    bench.submit(*NO_MEANS)
    bench.cycles()
    bench.controller.clock = lambda: time.time() - 86400.0
    bench.cycles(1)
    kept = record.read(bench.settings.cycle_record)
    assert kept is not None
    (running,) = kept.running
    assert running.starts_in_seconds <= START_SECONDS


def test_at_most_one_job_in_ten_is_made_to_leave(bench: Bench) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 900, 0
    long = bench.submit(*NO_MEANS, "train.max_steps=100000")
    bench.cycles()
    begin(bench, long, eta_seconds=90000.0)
    short = bench.submit(*NO_MEANS)
    bench.cycles()
    assert bench.job(short).waiting_code not in ("preempting", None)


def test_a_reservation_follows_what_is_used_once_past_its_peak(bench: Bench, large: Attempt) -> None:
    peak = large.reserved_bytes * 6 // 10
    attempts.heartbeat(bench.db, large.id, Progress(step=50, peak_bytes=peak, peak_step=4), at=time.time())
    bench.cycles()
    assert not attempts.get(bench.db, large.id).resizing  # it may still come to its peak
    attempts.heartbeat(bench.db, large.id, Progress(step=104), at=time.time())
    bench.cycles()
    asked = attempts.get(bench.db, large.id)
    assert asked.resizing
    assert asked.wanted_micro_batch == large.micro_batch
    assert peak < (asked.wanted_limit_bytes or 0) < peak * 1.1
    assert heed(bench, large).reserved_bytes == asked.wanted_limit_bytes


def test_a_halving_in_the_trainer_gives_back_what_it_no_longer_needs(bench: Bench, large: Attempt) -> None:
    halved = Progress(step=6, micro_batch=large.micro_batch // 2, accumulation_steps=2, peak_bytes=0)
    attempts.heartbeat(bench.db, large.id, halved, at=time.time())
    bench.cycles(1)
    asked = attempts.get(bench.db, large.id)
    assert asked.wanted_micro_batch is not None
    assert heed(bench, large).reserved_bytes == asked.wanted_limit_bytes
