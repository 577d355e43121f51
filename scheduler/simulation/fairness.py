"""How fairly users were served: against an ideal fluid that shares the devices max-min between them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.simulation.workload import Job


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """By user, total completion in the fluid over that in fact, at most 1; and Jain's index of these ratios."""

    ratios: Mapping[str, float]
    jain: float

    @property
    def worst(self) -> float:
        return min(self.ratios.values(), default=1.0)


def fairness(ideal: Mapping[str, float], actual: Mapping[str, float]) -> Fairness:
    """Compare the users' total completion times."""
    ratios = {user: min(1.0, ideal[user] / seconds) for user, seconds in sorted(actual.items()) if seconds > 0}
    return Fairness(ratios=ratios, jain=jain(list(ratios.values())))


def jain(values: Sequence[float]) -> float:
    """Return 1 for equal values, down to 1/n where one has all."""
    squares = sum(value**2 for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def ideal_completions(jobs: Sequence[Job], devices: int) -> dict[str, float]:
    """Return each user's total completion time in the fluid: a job has at most one device, users share max-min."""
    arriving = sorted(jobs, key=lambda job: job.submit_seconds)
    left: dict[str, dict[int, float]] = defaultdict(dict)  # by user and job, seconds of a whole device
    totals = dict.fromkeys((job.user for job in arriving), 0.0)
    now, arrived = 0.0, 0
    while arrived < len(arriving) or any(left.values()):
        rates = _rates({user: len(own) for user, own in left.items() if own}, devices)
        until = arriving[arrived].submit_seconds if arrived < len(arriving) else math.inf
        step = min([until - now, *(min(left[user].values()) / rate for user, rate in rates.items())])
        now += step
        for user, rate in rates.items():
            own = left[user]
            for job_id in own:
                own[job_id] -= step * rate
            totals[user] += step * len(own)
            left[user] = {job_id: seconds for job_id, seconds in own.items() if seconds > _NOTHING}
        while arrived < len(arriving) and arriving[arrived].submit_seconds <= now:
            job = arriving[arrived]
            left[job.user][job.job_id] = job.alone_seconds
            arrived += 1
    return totals


_NOTHING = 1e-6  # seconds


def _rates(jobs: Mapping[str, int], devices: int) -> dict[str, float]:
    """Return by user how fast each job goes: those who can't use an equal share leave the rest to the others."""
    rates: dict[str, float] = {}
    free = float(devices)
    for served, user in enumerate(sorted(jobs, key=lambda user: (jobs[user], user))):
        share = min(float(jobs[user]), free / (len(jobs) - served))
        rates[user] = share / jobs[user]
        free -= share
    return rates
