"""What one admission cycle costs, by the length of the queue and the number of devices: CPU time on one core.

The devices are busy with one to three jobs each, and the queue is drawn by seed: footprints of twelve sizes, lengths
from a log-normal distribution. `make bench-cycle` runs it.
"""

import gc
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.measure import Bar, judged, machine
from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit
from scheduler.admission.facts import Claim, DeviceView, QueuedJob, RunningJob
from scheduler.admission.pace import Pace
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes

GIB = 1 << 30
TOTAL_BYTES = int(23.5 * GIB)
ROUNDS = 5
SIZES = ((1_000, 8), (10_000, 8), (100_000, 8), (100_000, 1_000))
WISH = Wish(effective_batch=256, max_seq_len=512)


@dataclass(frozen=True)
class World:
    queue: list[QueuedJob]
    running: list[RunningJob]
    devices: list[DeviceView]


def main() -> int:
    print(f"{machine()}\n")
    print(f"{'queued':>8}{'devices':>9}{'started':>9}{'fastest ms':>12}{'median ms':>11}{'us a queued job':>17}")
    found = {}
    for jobs, devices in SIZES:
        seconds, started = _measured(_world(jobs, devices))
        found[jobs, devices] = seconds[0]
        print(
            f"{jobs:>8}{devices:>9}{started:>9}{seconds[0] * 1e3:>12.1f}{seconds[len(seconds) // 2] * 1e3:>11.1f}"
            f"{seconds[0] / jobs * 1e6:>17.2f}"
        )
    growth = (found[100_000, 8] / 100_000) / (found[10_000, 8] / 10_000)
    return judged(
        [
            Bar("cycle_10k_jobs_8_devices_ms", found[10_000, 8] * 1e3, 50.0),
            Bar("cycle_100k_jobs_1000_devices_ms", found[100_000, 1_000] * 1e3, 500.0),
            Bar("cost_per_job_at_100k_over_10k", growth, 1.0),
        ]
    )


def _measured(world: World) -> tuple[list[float], int]:
    """The CPU seconds of some cycles, the fastest first, and how many jobs each of them starts."""
    seconds, started = [], 0
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        decisions = decide(world.queue, world.running, world.devices, preemptions_left=5)
        seconds.append(time.process_time() - began)
        started = sum(isinstance(one, Admit) for one in decisions)
    return sorted(seconds), started


def _world(jobs: int, devices: int, seed: int = 1) -> World:
    draw = random.Random(seed)
    footprints = [_footprint((1 + size) * GIB, int((0.1 + 0.13 * size) * GIB)) for size in range(12)]
    queue = [
        QueuedJob(
            job_id=1_000_000 + number,
            wish=WISH,
            footprints={"virtual": draw.choice(footprints)},
            pace=_pace(draw),
            priority=draw.choice([0, 0, 0, 1]),
            waited_seconds=draw.random() * 1e5,
        )
        for number in range(jobs)
    ]
    running: list[RunningJob] = []
    views = [_device(number, draw, footprints, running) for number in range(devices)]
    return World(queue, running, views)


def _device(number: int, draw: random.Random, footprints: list[Footprint], running: list[RunningJob]) -> DeviceView:
    """A device with one to three jobs, which are added to those that run."""
    claims: list[Claim] = []
    free = TOTAL_BYTES
    for place in range(draw.choice([1, 2, 3])):
        footprint = draw.choice(footprints)
        fitting = [candidate for candidate in footprint.candidates if candidate.process_bytes <= free]
        if not fitting:
            continue
        candidate = draw.choice(fitting)
        free -= candidate.process_bytes
        job_id = 10 * number + place
        running.append(
            RunningJob(
                job_id=job_id,
                device_ids=(str(number),),
                candidate=candidate,
                ladder=footprint.candidates,
                pace=_pace(draw),
                effective_batch=256,
                preemptible=True,
            )
        )
        claims.append(Claim(job_id=job_id, reserved_bytes=candidate.process_bytes, held_bytes=candidate.process_bytes))
    return DeviceView(
        device_id=str(number),
        label=f"GPU {number}",
        kind="virtual",
        target="virtual",
        total_bytes=TOTAL_BYTES,
        used_bytes=TOTAL_BYTES - free,
        claims=tuple(claims),
    )


def _pace(draw: random.Random) -> Pace:
    return Pace(
        seconds=draw.lognormvariate(6.8, 1.8), utilisation=draw.random(), micro_batch=8, overhead=5 * draw.random()
    )


def _footprint(fixed: int, row: int) -> Footprint:
    return Footprint(candidates=tuple(_candidates(fixed, row)), parameters=1, torch="2")


def _candidates(fixed: int, row: int) -> Iterable[Candidate]:
    for power in range(9):
        peak = fixed + 2**power * row
        yield Candidate(
            micro_batch=2**power, modes=Modes(), allocated_bytes=peak, reserved_bytes=peak, process_bytes=peak
        )


if __name__ == "__main__":
    sys.exit(main())
