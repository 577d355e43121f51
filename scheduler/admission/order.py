"""In which order jobs are considered. Pure.

By priority; then the shortest remaining time first, which is what keeps the mean completion low. A job that leaves the
device idle for much of its time costs others little: its time counts less. So does the time of a job that has waited,
by half after `ageing_seconds`; that of people who had more than their share lately counts more, and of those who had
less, less, by a factor of two at most. Before all of them comes the one job that has waited longest, once its patience
is over: so nobody waits for ever. How long that is depends on what is queued: where all must wait long, one job's
waiting is no reason to let it go before shorter ones.
"""

import heapq
from collections.abc import Iterable, Sequence

from scheduler.admission.facts import QueuedJob
from scheduler.admission.policy import Policy

_MOST = 2.0


def remaining_seconds(job: QueuedJob) -> float:
    """Return what a job still takes at the least, on devices to itself."""
    return job.pace.fastest_seconds(job.wish.rows)


def rank(job: QueuedJob, remaining: float, policy: Policy) -> tuple[int, float, int]:
    """Return what jobs are sorted by; `remaining` are the job's seconds still to go."""
    seconds = remaining / (1 + job.waited_seconds / policy.ageing_seconds)
    seconds *= job.pace.utilisation**policy.utilisation_power
    if job.overuse != 1.0:
        seconds *= min(_MOST, max(1 / _MOST, job.overuse))
    return -job.priority, seconds, job.job_id


def patience_seconds(backlog_seconds: float, devices: int, policy: Policy) -> float:
    """Return what a job waits before a device is kept for it, with so much work in the queue."""
    patience = max(policy.patience_seconds, policy.patience_backlogs * backlog_seconds / max(1, devices))
    return min(patience, policy.most_patience_seconds)


def overdue(jobs: Iterable[QueuedJob], patience: float) -> QueuedJob | None:
    """Return the job that has waited longest, if its patience (seconds) is over."""
    impatient = [job for job in jobs if job.waited_seconds >= patience]
    return max(impatient, key=lambda job: (job.waited_seconds, -job.job_id), default=None)


def first(
    jobs: Sequence[QueuedJob], remaining: Sequence[float], number: int, policy: Policy, patience: float
) -> list[QueuedJob]:
    """Return the first so many, in order."""
    ranks = [rank(job, seconds, policy) for job, seconds in zip(jobs, remaining, strict=True)]
    heads = [job for _, job in heapq.nsmallest(number, zip(ranks, jobs, strict=True))]
    hurried = overdue(jobs, patience)
    return heads if hurried is None else [hurried, *(job for job in heads if job is not hurried)][:number]
