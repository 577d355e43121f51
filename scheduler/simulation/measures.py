"""What came of a simulation, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from scheduler.simulation.bounds import Bounds
from scheduler.simulation.fairness import fairness
from scheduler.simulation.physics import Course, Outcome


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Times are of jobs from their submission; a wait is up to the first start; no policy goes below a bound."""

    jobs: int
    refused: int
    makespan_seconds: float
    makespan_bound_seconds: float
    mean_completion_seconds: float
    mean_completion_bound_seconds: float
    p95_completion_seconds: float
    mean_wait_seconds: float
    p95_wait_seconds: float
    longest_wait_seconds: float
    utilisation: float
    preemptions: int
    over_commits: int
    out_of_memory: int  # jobs that ran out at least once
    jain: float
    worst_user: float
    users: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measures(outcome: Outcome, bounds: Bounds, ideal: Mapping[str, float]) -> Measures:
    """Measure a simulation; `ideal` is each user's total completion time in the fluid."""
    served = [course for course in outcome.courses if not course.refused]
    completions = sorted(course.completion_seconds for course in served)
    waits = sorted(course.first_waited_seconds for course in served)
    makespan = _makespan(served)
    fair = fairness(ideal, _by_user(served))
    return Measures(
        jobs=len(outcome.courses),
        refused=len(outcome.courses) - len(served),
        makespan_seconds=makespan,
        makespan_bound_seconds=bounds.makespan_seconds,
        mean_completion_seconds=_mean(completions),
        mean_completion_bound_seconds=bounds.mean_completion_seconds,
        p95_completion_seconds=_p95(completions),
        mean_wait_seconds=_mean(waits),
        p95_wait_seconds=_p95(waits),
        longest_wait_seconds=max(waits, default=0.0),
        utilisation=_utilisation(outcome, makespan),
        preemptions=outcome.preemptions,
        over_commits=outcome.over_commits,
        out_of_memory=sum(course.ran_out for course in outcome.courses),
        jain=fair.jain,
        worst_user=fair.worst,
        users=fair.ratios,
    )


def _makespan(served: Sequence[Course]) -> float:
    first = min((course.job.submit_seconds for course in served), default=0.0)
    return max((course.ended_at or first for course in served), default=first) - first


def _by_user(served: Sequence[Course]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for course in served:
        totals[course.job.user] = totals.get(course.job.user, 0.0) + course.completion_seconds
    return totals


def _utilisation(outcome: Outcome, makespan: float) -> float:
    """The share of the devices' time between first submission and last end in which they computed."""
    computed = sum(before.busy * (after.at - before.at) for before, after in pairwise(outcome.moments))
    return computed / (outcome.hardware.devices * makespan) if makespan else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _p95(ordered: Sequence[float]) -> float:
    return ordered[int(0.95 * len(ordered))] if ordered else 0.0
