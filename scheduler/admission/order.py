"""In which order jobs are considered. Pure.

Overdue jobs first, the longest-waiting of them before the others, so that nobody waits for ever. Then by priority; then
the shortest remaining time first, which is what keeps the mean completion low, with the time of people who had more
than their share lately counted longer, and of those who had less shorter, by a factor of two at most.
"""

import heapq
from collections.abc import Iterable

from scheduler.admission.facts import QueuedJob
from scheduler.admission.policy import Policy

_MOST = 2.0


def rank(job: QueuedJob, policy: Policy) -> tuple[float, float, float, int]:
    """Return what jobs are sorted by."""
    if overdue(job, policy):
        return -1.0, -job.waited_seconds, 0.0, job.job_id
    seconds = job.pace.fastest_seconds(job.wish.effective_batch)
    if job.overuse != 1.0:
        seconds *= min(_MOST, max(1 / _MOST, job.overuse))
    return 0.0, -job.priority, seconds, job.job_id


def overdue(job: QueuedJob, policy: Policy) -> bool:
    return job.waited_seconds >= policy.patience_seconds


def first(jobs: Iterable[QueuedJob], number: int, policy: Policy) -> list[QueuedJob]:
    """Return the first so many, in order."""
    return heapq.nsmallest(number, jobs, key=lambda job: rank(job, policy))
