"""The admission cycle against what others do, in simulation: on workloads drawn by seed, and on files of such.

Prints a line for each workload and policy, then a line a bar. `make bench-simulate` draws its workloads;
`make bench-simulate WORKLOADS=DIR` also takes `standard-*.jsonl`, `utilisation-*.jsonl` and `all-at-once-*.jsonl`.
"""

import math
import os
import re
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Bar, judged, machine
from scheduler.simulation.comparison import compare
from scheduler.simulation.hardware import parse
from scheduler.simulation.knowledge import Oracle
from scheduler.simulation.measures import Measures
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.source import open_workload

DEVICES = "4x24GiB"
FOOTPRINT_ERROR = 0.05
DRAWN = (
    *(f"standard:{seed}" for seed in range(1, 6)),
    *(f"utilisation-0.95:{seed}" for seed in range(1, 4)),
    *(f"all-at-once:{seed}" for seed in range(1, 4)),
    "utilisation-0.3:1",
    "utilisation-0.7:1",
)
_NAME = re.compile(r"(standard|all-at-once|utilisation-0\.\d+)(?:[-:]\d+)?(?:\.jsonl)?")
FAMILIES = ("standard", "utilisation-0.95", "all-at-once")


@dataclass(frozen=True, kw_only=True)
class Run:
    """All policies on one workload."""

    family: str | None
    name: str
    by_policy: Mapping[str, Measures]
    with_error: Measures  # ours, with footprints that are off
    seconds: float

    def over(self, policy: str) -> float:
        """Our mean completion, as a multiple of another's."""
        return self.by_policy["mmq"].mean_completion_seconds / self.by_policy[policy].mean_completion_seconds


def main(folder: str | None = None) -> int:
    print(machine())
    bars = _judge("drawn", DRAWN)
    if folder:
        files = sorted(Path(folder).glob("*.jsonl"))
        bars += _judge("files", [str(path) for path in files if _family(str(path))])
    return judged(bars)


def _judge(label: str, names: Sequence[str]) -> list[Bar]:
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        runs = []
        for run in pool.map(measure, names):
            _told(run)
            runs.append(run)
    return [bar._replace(name=f"{label}_{bar.name}") for bar in _bars(runs)]


def measure(name: str) -> Run:
    """Run all policies on one workload."""
    began, jobs, hardware = time.perf_counter(), open_workload(name), [parse(DEVICES)]
    found = {result.policy: result.measures for result in compare(jobs, hardware, list(POLICIES))}
    seconds = time.perf_counter() - began
    oracle = Oracle(footprint_error=FOOTPRINT_ERROR)
    (off,) = compare(jobs, hardware, ["mmq"], oracle=oracle)
    short = Path(name).stem if name.endswith(".jsonl") else name
    return Run(family=_family(name), name=short, by_policy=found, with_error=off.measures, seconds=seconds)


def _family(name: str) -> str | None:
    """Return what is drawn alike: `standard` of `standard:3` and of `standard-3.jsonl`."""
    match = _NAME.fullmatch(Path(name).name)
    return match[1] if match else None


def _told(run: Run) -> None:
    print(f"{run.name}, {run.seconds:.0f} s")
    for policy, found in run.by_policy.items():
        print(
            f"  {policy:<9} completion {found.mean_completion_seconds:>7.0f} s"
            f" = {found.mean_completion_seconds / found.mean_completion_bound_seconds:>5.2f} x bound"
            f"  makespan {found.makespan_seconds / found.makespan_bound_seconds:>4.2f} x bound"
            f"  longest wait {found.longest_wait_seconds:>6.0f} s  used {found.utilisation:>4.0%}"
            f"  preempted {found.preemptions:>3}  over {found.over_commits}  out of memory {found.out_of_memory}"
            f"  Jain {found.jain:.3f}  worst user {found.worst_user:.2f}",
            flush=True,
        )


def _bars(runs: Sequence[Run]) -> list[Bar]:
    standard, busy, at_once = ([run for run in runs if run.family == family] for family in FAMILIES)
    ours, every = [run.by_policy["mmq"] for run in standard], [run.by_policy["mmq"] for run in runs]
    waits = [run.by_policy["mmq"].longest_wait_seconds / run.by_policy["fcfs"].longest_wait_seconds for run in standard]
    makespans = [run.by_policy["mmq"].makespan_seconds / run.by_policy["mmq"].makespan_bound_seconds for run in at_once]
    touched = [run.with_error.out_of_memory / run.with_error.jobs for run in runs]
    return [
        Bar("completion_over_fcfs", _geometric(run.over("fcfs") for run in standard), 0.27),
        Bar("completion_over_declared", _geometric(run.over("declared") for run in standard), 0.38),
        Bar("completion_over_shortest", _geometric(run.over("shortest") for run in standard), 0.58),
        Bar("completion_over_fcfs_worst_seed", max(run.over("fcfs") for run in standard), 0.5),
        Bar("completion_over_fcfs_at_0.95", max(run.over("fcfs") for run in busy), 0.45),
        Bar("completion_over_shortest_at_0.95", max(run.over("shortest") for run in busy), 1.0),
        Bar("makespan_over_bound_all_at_once", statistics.mean(makespans), 1.27),
        Bar("jain_mean", statistics.mean(found.jain for found in ours), 0.97, at_least=True),
        Bar("jain_worst_seed", min(found.jain for found in ours), 0.93, at_least=True),
        Bar("worst_user_mean", statistics.mean(found.worst_user for found in ours), 0.6, at_least=True),
        Bar("longest_wait_over_fcfs_worst_seed", max(waits), 0.9),
        Bar("preemptions_a_job_worst", max(found.preemptions / found.jobs for found in every), 0.1),
        Bar("over_commits", sum(found.over_commits for found in every), 0),
        Bar("over_commits_footprints_off_by_5_percent", sum(run.with_error.over_commits for run in runs), 0),
        Bar("out_of_memory", sum(found.out_of_memory for found in every), 0),
        Bar("touched_footprints_off_by_5_percent", 100 * max(touched), 1.0),
    ]


def _geometric(values: Iterable[float]) -> float:
    found = list(values)
    return math.exp(statistics.mean(math.log(value) for value in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
