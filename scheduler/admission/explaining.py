"""The whole reasoning about one job in a cycle, in lines for people: `mmq why`. Pure.

The cycle is gone through again up to the job, by the code that decided: what is told is what was weighed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from scheduler.admission.colocation import in_words
from scheduler.admission.cycle import HEADS, Cycle, heads_of
from scheduler.admission.facts import DeviceView, QueuedJob, RunningJob
from scheduler.admission.future import Future
from scheduler.admission.order import remaining_seconds
from scheduler.admission.places import Place
from scheduler.admission.policy import Policy
from scheduler.units import format_bytes, format_duration


def explain(
    job_id: int,
    queue: Iterable[QueuedJob],
    running: Sequence[RunningJob],
    devices: Sequence[DeviceView],
    *,
    preemptions_left: float = 0.0,
    more_seconds: float = 0.0,
    policy: Policy = Policy(),  # noqa: B008  a value
) -> list[str]:
    """Return why the job starts or waits in this cycle; nothing if it is not in the queue."""
    heads = heads_of(queue, len(devices), policy, more_seconds=more_seconds)
    jobs = len(heads.jobs) + len(heads.behind)
    for decision in heads.settled:
        if decision.job_id == job_id:
            return [decision.sentence]
    if any(job.job_id == job_id for job in heads.behind):
        return [f"{jobs} jobs could start; it is not among the first {HEADS}, which are looked at"]
    cycle = Cycle(running, devices, heads, preemptions_left=preemptions_left, policy=policy)
    for position, job in enumerate(heads.jobs, start=1):
        if job.job_id == job_id:
            return [
                *_order(job, position, jobs, heads.patience_seconds),
                *_devices(job, cycle),
                _verdict(cycle, job, position),
            ]
        cycle.consider(job, position)
    return []


def _order(job: QueuedJob, position: int, jobs: int, patience_seconds: float) -> Iterator[str]:
    yield (
        f"it is number {position} of {jobs} in the queue: priority {job.priority}, about "
        f"{format_duration(remaining_seconds(job))} to go with a device to itself"
    )
    if job.overuse != 1.0:
        yield f"its user had {job.overuse:.2g} times an equal share of memory lately, which counts in that order"
    if position == 1 and job.waited_seconds >= patience_seconds:
        yield f"it has waited longest, {format_duration(job.waited_seconds)}, and so comes before the others"


def _devices(job: QueuedJob, cycle: Cycle) -> Iterator[str]:
    for place, now, later in cycle.places.compared(job):
        before = cycle.places.future(place.room)
        yield f"{place.room.description}; {_least(place)}"
        for claim in place.room.claims:
            if claim.job_id in job.apart_from:
                yield f"  {in_words(claim.job_id, job.apart_from[claim.job_id])}"
        if now is not None:
            yield f"  if it starts there now: {_ends(now, before)}"
        if place.room.tenants:
            yield f"  if it starts there when one has ended: {_ends(later, before)}"


def _least(place: Place) -> str:
    tenant = place.tenant
    least, most = tenant.ladder[0], tenant.ladder[-1]
    return (
        f"it would take from {format_bytes(tenant.needs[0])} (micro-batch {least.micro_batch}) to "
        f"{format_bytes(tenant.needs[-1])} (micro-batch {most.micro_batch})"
    )


def _ends(future: Future, before: Future) -> str:
    if not math.isfinite(future.total_seconds):
        return "it would not fit"
    ends = ", ".join(f"job {job_id} ends in {format_duration(seconds)}" for seconds, job_id in future.ends)
    return f"{ends}; adds {format_duration(future.total_seconds - before.total_seconds)} in sum"


def _verdict(cycle: Cycle, job: QueuedJob, position: int) -> str:
    decision = cycle.consider(job, position)
    return "so it starts" if decision is None else f"so it waits: {decision.sentence}"
