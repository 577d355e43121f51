"""What one admission cycle costs, by the length of the queue and the number of devices: CPU time on one core.

The devices are busy with one to three jobs each, and the queue is drawn by seed: footprints of twelve sizes, lengths
from a log-normal distribution. Then the controller's whole cycle, with all that it reads from the store and writes
there, by the length of the queue alone. `make bench-cycle` runs it.
"""

import gc
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from benchmarks.measure import Bar, judged, machine
from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit
from scheduler.admission.facts import Claim, DeviceView, QueuedJob, RunningJob
from scheduler.admission.pace import Pace
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.jobs.spec import JobSpec, encode
from scheduler.store.jobs import submit_array
from scheduler.store.records import NewJob
from tests.controller.bench import Bench, spec_of

GIB = 1 << 30
TOTAL_BYTES = int(23.5 * GIB)
ROUNDS = 5
SIZES = ((1_000, 8), (10_000, 8), (100_000, 8), (100_000, 1_000))
QUEUES = (1_000, 10_000)
DEVICES = "virtual:8x24GiB"
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
    whole = {jobs: _controller_seconds(jobs) for jobs in QUEUES}
    told = ", ".join(f"{seconds * 1e3:.0f} ms with {jobs:,} queued" for jobs, seconds in whole.items())
    print(f"\nthe controller's whole cycle on {DEVICES}, all of it explained: {told}")
    growth = (found[100_000, 8] / 100_000) / (found[10_000, 8] / 10_000)
    return judged(
        [
            Bar("cycle_10k_jobs_8_devices_ms", found[10_000, 8] * 1e3, 50.0),
            Bar("cycle_100k_jobs_1000_devices_ms", found[100_000, 1_000] * 1e3, 500.0),
            Bar("cost_per_job_at_100k_over_10k", growth, 1.0),
            Bar("controller_cost_per_job_at_10k_over_1k", whole[10_000] / 10_000 / (whole[1_000] / 1_000), 1.0),
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


def _controller_seconds(jobs: int) -> float:
    """The CPU seconds of the fastest of some cycles in which nothing changes any more."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="mmq-bench-") as folder, closing(Bench(Path(folder), DEVICES)) as bench:
        bench.tracer.base_mib, bench.tracer.row_mib = 6_000, 500
        spec = spec_of(Path(folder))
        submit_array(bench.db, [_new_job(spec, draw) for _ in range(jobs)], at=time.time())
        while bench.db.query("SELECT 1 AS one FROM jobs WHERE waiting_code = 'new' LIMIT 1"):
            bench.cycles(1)
        bench.cycles(ROUNDS)
        seconds = []
        for _ in range(ROUNDS):
            began = time.process_time()
            bench.cycles(1)
            seconds.append(time.process_time() - began)
    return min(seconds)


def _new_job(spec: JobSpec, draw: random.Random) -> NewJob:
    train = replace(spec.train, max_steps=1 + int(draw.lognormvariate(8, 1.8)), batch_size=draw.choice([4, 8, 16, 32]))
    spec = replace(spec, train=train)
    return NewJob(
        name="queued",
        kind=spec.kind,
        user_name=draw.choice("abcdef"),
        spec=encode(spec),
        source="",
        source_path="job.yaml",
        code_version="1",
        effective_batch=spec.effective_batch,
    )


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
