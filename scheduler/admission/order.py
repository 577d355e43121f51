"""In which order jobs are considered. Pure.

By priority; then the shortest remaining time first, which is what keeps the mean completion low. The time of a job that
has waited counts less, by half after `ageing_seconds`; that of people who had more than their share lately counts more,
and of those who had less, less, by a factor of two at most. Before all of them comes the one job that has waited
longest, once its patience is over: so nobody waits for ever. How long that is depends on what is queued: where all must
wait long, one job's waiting is no reason to let it go before shorter ones.
"""

import heapq
from collections.abc import Iterable, Sequence

from scheduler.admission.facts import QueuedJob
from scheduler.admission.policy import Policy

_MOST = 2.0


def rank(job: QueuedJob, policy: Policy) -> tuple[int, float, int]:
    """Return what jobs are sorted by."""
    seconds = job.pace.fastest_seconds(job.wish.rows) / (1 + job.waited_seconds / policy.ageing_seconds)
    if job.overuse != 1.0:
        seconds *= min(_MOST, max(1 / _MOST, job.overuse))
    return -job.priority, seconds, job.job_id


def patience_seconds(jobs: Sequence[QueuedJob], devices: int, policy: Policy, *, more_seconds: float = 0.0) -> float:
    """Return what a job waits before a device is kept for it; `more_seconds` are those of queued jobs not given."""
    if all(job.waited_seconds < policy.patience_seconds for job in jobs):
        return policy.patience_seconds
    backlog = more_seconds + sum(job.pace.fastest_seconds(job.wish.effective_batch) for job in jobs)
    patience = max(policy.patience_seconds, policy.patience_backlogs * backlog / max(1, devices))
    return min(patience, policy.most_patience_seconds)


def overdue(jobs: Iterable[QueuedJob], patience: float) -> QueuedJob | None:
    """Return the job that has waited longest, if its patience (seconds) is over."""
    impatient = [job for job in jobs if job.waited_seconds >= patience]
    return max(impatient, key=lambda job: (job.waited_seconds, -job.job_id), default=None)


def first(jobs: Sequence[QueuedJob], number: int, policy: Policy, patience: float) -> list[QueuedJob]:
    """Return the first so many, in order."""
    heads = heapq.nsmallest(number, jobs, key=lambda job: rank(job, policy))
    hurried = overdue(jobs, patience)
    return heads if hurried is None else [hurried, *(job for job in heads if job is not hurried)][:number]
