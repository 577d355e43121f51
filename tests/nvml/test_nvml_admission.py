"""Failures seen in other schedulers, over the stand-in library: a controller that sees GPUs through the real pynvml."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.devices.nvml import NvmlDevices
from scheduler.devices.nvml_child import ProbeChild
from scheduler.jobs.states import JobState
from scheduler.store import attempts, devices
from tests.controller.bench import Bench
from tests.controller.test_controller_elastic import NO_MEANS, begin, heed
from tests.nvml.standin import GIB, Gpu, Machine

FREE = Gpu(used=0, utilisation=0)
SECOND = FREE.but(uuid="GPU-1")
MIB = 1024**2


@pytest.fixture
def bench(machine: Machine, probe: ProbeChild, tmp_path: Path) -> Iterator[Bench]:
    """One GPU of 24 GB, and jobs that take 12 of it."""
    machine.show(FREE)
    made = Bench(tmp_path, "cuda", NvmlDevices(probe))
    made.tracer.base_mib, made.tracer.row_mib = 11_000, 0
    yield made
    made.close()


def test_nothing_starts_beside_a_foreign_process_with_23_of_24_gb(bench: Bench, machine: Machine) -> None:
    """A foreign process holds 23 of 24 GB, and a 12 GB job is started beside a job that shares."""
    first = bench.submit(*NO_MEANS)
    bench.cycles()
    assert bench.job(first).state is JobState.ADMITTED
    machine.show(FREE.but(f"compute 4194304 {23 * GIB}", used=23 * GIB))
    second = bench.submit(*NO_MEANS)
    bench.cycles(3)
    job = bench.job(second)
    assert (job.state, job.waiting_code) == (JobState.QUEUED, "memory")
    assert "processes that are not mmq's hold" in (job.waiting or "")
    machine.show(FREE)
    bench.cycles(2)
    assert bench.job(second).state is JobState.ADMITTED


def test_what_has_not_allocated_yet_is_counted(bench: Bench) -> None:
    """Several jobs start before the first has allocated: the device reads as empty all the time."""
    waiting = [bench.submit(*NO_MEANS) for _ in range(8)]
    bench.cycles(4)
    states = [bench.job(job_id).state for job_id in waiting]
    assert states.count(JobState.ADMITTED) == 2
    assert sum(one.reserved_bytes for one in devices.reservations(bench.db)) <= 24 * GIB - GIB // 4


def test_a_job_for_another_device_waits_behind_nobody(bench: Bench, machine: Machine) -> None:
    """A CPU job waits behind GPU jobs. Here: one for a free device, behind many for a full one."""
    bench.tracer.base_mib = 20_000
    machine.show(FREE, SECOND)
    bench.controller.reconcile()
    for _ in range(12):
        bench.submit(*NO_MEANS, "resources.devices=0", priority=5)
    last = bench.submit(*NO_MEANS, "resources.devices=1")
    bench.cycles(3)
    assert bench.job(last).state is JobState.ADMITTED, bench.job(last).waiting


def test_a_foreign_process_that_takes_memory_is_answered_by_a_shrink(bench: Bench, machine: Machine) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 4_000, 1_800
    job_id = bench.submit(*NO_MEANS, "train.max_steps=1000")
    bench.cycles()
    attempt = begin(bench, job_id)
    assert attempt.reserved_bytes > 16_000 * MIB
    machine.show(FREE.but(f"compute 4194304 {10 * GIB}", used=10 * GIB))
    bench.cycles()
    shrunk = heed(bench, attempt)
    assert shrunk.reserved_bytes + 11 * GIB <= 24 * GIB
    assert bench.job(job_id).state is JobState.RUNNING
    assert attempts.get(bench.db, attempt.id).stop_requested_at is None
