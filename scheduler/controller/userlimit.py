"""How many jobs of one user may run at once: those of theirs that are next in order are considered. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scheduler.admission.decisions import Wait
from scheduler.admission.eligibility import gate
from scheduler.admission.facts import QueuedJob
from scheduler.admission.order import rank, remaining_seconds
from scheduler.admission.policy import Policy
from scheduler.jobs.states import WaitCode


def within_limit(
    queue: Sequence[QueuedJob], running: Iterable[int], users: Mapping[int, str], limit: int | None
) -> tuple[list[QueuedJob], list[Wait]]:
    """Return the jobs to be considered, and what is said of those beyond their user's limit."""
    if limit is None:
        return list(queue), []
    policy, count = Policy(), Counter(users.get(job_id, "") for job_id in running)
    ready: dict[str, list[QueuedJob]] = defaultdict(list)
    for job in queue:
        if gate(job) is None:
            ready[users.get(job.job_id, "")].append(job)

    def place(job: QueuedJob) -> tuple[int, float, int]:
        return rank(job, remaining_seconds(job), policy)

    beyond = {
        job.job_id: Wait(job_id=job.job_id, code=WaitCode.USER_LIMIT, sentence=_sentence(user, count[user], limit))
        for user, jobs in ready.items()
        for job in sorted(jobs, key=place)[max(0, limit - count[user]) :]
    }
    return [job for job in queue if job.job_id not in beyond], list(beyond.values())


def _sentence(user: str, running: int, limit: int) -> str:
    jobs = "1 job" if running == 1 else f"{running} jobs"
    return f"{user} has {jobs} running, of {limit} allowed at once, and other jobs of theirs are ahead of it"
