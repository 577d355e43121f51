"""What no policy can beat on given devices: lower bounds of makespan and of mean completion."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.admission.wish import micro_batches
from scheduler.simulation.hardware import Hardware
from scheduler.simulation.physics import START_SECONDS
from scheduler.simulation.workload import Job


@dataclass(frozen=True, kw_only=True)
class Bounds:
    makespan_seconds: float
    mean_completion_seconds: float


@dataclass(frozen=True, kw_only=True)
class _Least:
    """The least that a job can take of each thing, whatever its micro-batch."""

    submit_seconds: float
    seconds: float
    busy_seconds: float
    byte_seconds: float
    alone_seconds: float  # for which it must have a device to itself, among those like it


def bounds(jobs: Sequence[Job], hardware: Hardware) -> Bounds:
    """Bound what can be done with the jobs that fit the largest of the devices at all."""
    largest = max(hardware.usable_bytes)
    least = [_least(job, sizes, largest) for job in jobs if (sizes := _fitting(job, largest))]
    if not least:
        return Bounds(makespan_seconds=0.0, mean_completion_seconds=0.0)
    return Bounds(
        makespan_seconds=_makespan(least, hardware), mean_completion_seconds=_mean_completion(least, hardware.devices)
    )


def _fitting(job: Job, usable_bytes: int) -> list[int]:
    sizes = micro_batches(job.effective_batch, min(job.user_micro_batch, job.effective_batch))
    return [size for size in sizes if job.bytes_at(size) <= usable_bytes]


def _least(job: Job, sizes: Sequence[int], largest_bytes: int) -> _Least:
    seconds = min(job.seconds_at(size) for size in sizes)
    return _Least(
        submit_seconds=job.submit_seconds,
        seconds=seconds,
        busy_seconds=min(job.busy_seconds_at(size) for size in sizes),
        byte_seconds=min(job.bytes_at(size) * job.seconds_at(size) for size in sizes),
        alone_seconds=seconds if 2 * job.bytes_at(sizes[0]) > largest_bytes else 0.0,
    )


def _makespan(jobs: Sequence[_Least], hardware: Hardware) -> float:
    """From the first submission: the longest job, and for each moment all that arrives from then on."""
    first = min(job.submit_seconds for job in jobs)
    bound = max(job.submit_seconds + START_SECONDS + job.seconds for job in jobs)
    busy = byte = alone = 0.0
    for job in sorted(jobs, key=lambda job: -job.submit_seconds):
        busy += job.busy_seconds / hardware.devices
        byte += job.byte_seconds / sum(hardware.usable_bytes)
        alone += job.alone_seconds / hardware.devices
        bound = max(bound, job.submit_seconds + max(busy, byte, alone))
    return bound - first


def _mean_completion(jobs: Sequence[_Least], devices: int) -> float:
    """Each job alone; or all of them, shortest remaining first, on one device as fast as all."""
    alone = sum(START_SECONDS + job.seconds for job in jobs)
    return max(alone, _shortest_remaining_first(jobs, devices)) / len(jobs)


def _shortest_remaining_first(jobs: Sequence[_Least], devices: int) -> float:
    """Return the sum of all completions."""
    arriving = sorted(jobs, key=lambda job: job.submit_seconds)
    waiting: list[tuple[float, float]] = []  # what remains, and since when it waits
    now = total = 0.0
    for number, job in enumerate(arriving):
        now = max(now, job.submit_seconds)
        heapq.heappush(waiting, (job.busy_seconds / devices, job.submit_seconds))
        until = arriving[number + 1].submit_seconds if number + 1 < len(arriving) else float("inf")
        while waiting and now < until:
            remaining, since = heapq.heappop(waiting)
            step = min(remaining, until - now)
            now += step
            if step < remaining:
                heapq.heappush(waiting, (remaining - step, since))
            else:
                total += now - since
    return total
