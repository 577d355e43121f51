"""Foreign memory: counted by pid with its recent peak and a tenth, as it is where it can't grow, told if left."""

import os
import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler.controller.foreign import GROWTH, RECENT_SECONDS, Foreign
from scheduler.controller.leftovers import PATIENCE_SECONDS, Leftovers
from scheduler.devices.device import DeviceReading
from scheduler.jobs.states import EndReason, JobState
from scheduler.processes.liveness import process_started
from scheduler.store import attempts
from scheduler.store.records import Outcome
from tests.controller.bench import MIB, Bench
from tests.controller.test_controller_elastic import NO_MEANS, begin
from tests.processes import hold

NOBODY = {"pid": 1 << 22, "pid_started": 1, "shim_pid": 1 << 22, "shim_started": 1}  # our children are not the job's


def reading(*processes: tuple[int, int], total: int = 10_000) -> DeviceReading:
    used = sum(size for _, size in processes)
    return DeviceReading(
        device_id="gpu", at=0.0, total_bytes=total, used_bytes=used, processes=processes, utilisation=None
    )


def no_parent(pid: int) -> int | None:
    return None


def test_a_foreign_process_is_held_at_its_recent_peak_and_a_tenth() -> None:
    now = 0.0
    foreign = Foreign(lambda: now, ignored=frozenset({8}), parent=no_parent)
    assert foreign.look(reading((7, 1000)), {}) == 1100
    assert foreign.look(reading((7, 400)), {}) == 1100
    now += RECENT_SECONDS + 1
    assert foreign.look(reading((7, 400)), {}) == 440  # that peak was long ago
    assert foreign.look(reading((7, 400), (8, 500)), {}) == 940  # named as one that does not grow
    assert foreign.look(reading((7, 400), (9, 500)), {9: 1}) == 440  # ours
    assert foreign.look(reading(), {}) == 0  # gone, and forgotten
    assert foreign.look(reading((7, 9_900)), {}) == 10_000  # there is no more than the device has
    assert foreign.look(replace(reading((7, 400)), error="lost"), {}) == 0
    assert foreign.look(None, {}) == 0


@given(
    st.lists(st.lists(st.tuples(st.integers(2, 5), st.integers(1, 5_000)), max_size=4, unique_by=lambda one: one[0]))
)
def test_never_less_than_is_held_and_never_more_than_a_tenth_above_the_peak(looks: list[list[tuple[int, int]]]) -> None:
    foreign = Foreign(lambda: 0.0, parent=no_parent)
    peaks: dict[int, int] = {}
    for processes in looks:
        there = dict(processes)
        peaks = {pid: max(size, peaks.get(pid, 0)) for pid, size in there.items()}
        left = foreign.look(reading(*processes, total=1 << 40), {})
        assert sum(there.values()) <= left <= sum(peaks.values()) * GROWTH


def test_foreign_memory_that_grows_into_ours_is_answered_by_a_shrink(bench: Bench, bystander) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 200, 80
    job_id = bench.submit(*NO_MEANS, "train.max_steps=1000")
    bench.cycles()
    attempt = begin(bench, job_id)
    attempts.started(bench.db, attempt.id, **NOBODY, boot_id="b", at=time.time())
    hold(bench.ledger, bystander.pid, 400 * MIB)
    bench.cycles()
    asked = attempts.get(bench.db, attempt.id)
    assert asked.resizing
    assert (asked.wanted_limit_bytes or 0) + 440 * MIB <= 1024 * MIB
    assert bench.job(job_id).state is JobState.RUNNING


def test_what_an_ended_job_s_process_still_holds_is_waited_for_and_then_reported(bench: Bench, bystander) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 600, 0
    first = bench.submit(*NO_MEANS)
    bench.cycles()
    attempt = begin(bench, first)
    pid, ticks = bystander.pid, process_started(bystander.pid) or 0
    me = os.getpid()
    attempts.started(
        bench.db, attempt.id, pid=pid, pid_started=ticks, shim_pid=me, shim_started=1, boot_id="b", at=time.time()
    )
    entry = hold(bench.ledger, pid, 600 * MIB)
    attempts.finish(bench.db, attempt.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    second = bench.submit(*NO_MEANS)
    bench.cycles(3)
    assert (bench.job(second).state, bench.job(second).waiting_code) == (JobState.QUEUED, "memory")
    assert "processes that are not mmq's hold 600 MiB" in (bench.job(second).waiting or "")  # and no tenth
    assert told(bench) == 0
    late = time.time() + 61
    bench.controller._leftovers.clock = lambda: late
    bench.cycles(3)
    assert told(bench) == 1
    entry.unlink()
    bench.cycles()
    assert bench.job(second).state is JobState.ADMITTED


def test_a_process_met_before_its_attempt_was_is_known_once_that_has_ended(bench: Bench, bystander) -> None:
    """It starts between the reading of the store and that of the devices."""
    now, pid, started = time.time(), bystander.pid, process_started(bystander.pid) or 0
    leftovers = Leftovers(bench.db, lambda: now, lambda _: started)
    assert not leftovers.is_ours(pid)
    job_id = bench.submit(*NO_MEANS)
    bench.cycles()
    attempt = begin(bench, job_id)
    me = os.getpid()
    attempts.started(
        bench.db, attempt.id, pid=pid, pid_started=started, shim_pid=me, shim_started=1, boot_id="b", at=now
    )
    attempts.finish(bench.db, attempt.id, Outcome(reason=EndReason.DONE, exit_code=0), at=now)
    now += PATIENCE_SECONDS
    assert leftovers.is_ours(pid)
    leftovers.report([reading((pid, 600 * MIB))])
    assert told(bench) == 1
    started += 1
    assert not leftovers.is_ours(pid)  # another process has the pid by now


def told(bench: Bench) -> int:
    return len(bench.db.query("SELECT id FROM events WHERE kind = 'still_holds'"))
