"""A job on a device, or about to be: what it would need and how it would go with each micro-batch open to it. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from scheduler.admission.facts import UNKNOWN_PACE, Claim, QueuedJob, RunningJob, Untraced
from scheduler.admission.pace import RESUME_SECONDS, START_SECONDS, Pace
from scheduler.admission.plan import allowed, insisted, need_bytes
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes

_LESS = 1 - 1e-9  # by more than rounding: whatever the job's length, its times fall from rung to rung
_FLAT = 0.98  # beyond the rung that is so near to the fastest, a larger micro-batch is not worth its memory


class Tenant(Struct, frozen=True, kw_only=True, eq=False):
    """The rungs of its ladder need ever more memory and take ever less time."""

    job_id: int
    ladder: tuple[Candidate, ...]
    needs: tuple[int, ...]  # bytes of the device, by rung
    seconds: tuple[float, ...]  # still to go alone, by rung
    gains: tuple[float, ...]  # by each rung but the last: see `gains`
    utilisations: tuple[float, ...]
    starts_in: float  # seconds until its first step
    priority: int = 0
    rung: int | None = None  # where it is; None: it has not started
    surplus_bytes: int = 0  # of each need: what it was seen to hold beyond its reservation
    exclusive: bool = False
    preemptible: bool = False
    devices: int = 1  # that it runs on at once


class _Ladder(NamedTuple):
    """What jobs of one configuration have in common, however long they are."""

    candidates: tuple[Candidate, ...]
    needs: tuple[int, ...]
    slower: tuple[float, ...]  # what each multiplies their time by, and their utilisation
    busier: tuple[float, ...]


def newcomer(job: QueuedJob, footprint: Footprint | Untraced, kind: str, total_bytes: int) -> Tenant | None:
    """Describe a queued job on a device of this size and kind; None where no plan is known to fit there."""
    if isinstance(footprint, Untraced):
        return None
    ladder = _open(job.wish, footprint, kind, total_bytes, job.pace.micro_batch, job.pace.overhead)
    if ladder is None:
        return None
    return _tenant(
        job.job_id,
        ladder,
        job.pace,
        starts_in=START_SECONDS + (RESUME_SECONDS if job.resumes else 0.0),
        priority=job.priority,
        exclusive=job.wish.exclusive,
    )


def resident(job: RunningJob, claim: Claim, kind: str, *, elastic: bool) -> Tenant:
    """Describe a job that runs. Where it is, it has what it was promised; what it holds beyond stays with it."""
    surplus = max(0, claim.held_bytes - claim.reserved_bytes)
    here = (claim.taken_bytes, job.candidate)
    rungs = [here]
    if elastic:
        others = [(need_bytes(kind, one) + surplus, one) for one in job.ladder if one != job.candidate]
        smaller = [rung for rung in others if rung[1].micro_batch < job.candidate.micro_batch and rung[0] < here[0]]
        larger = [rung for rung in others if rung[1].micro_batch > job.candidate.micro_batch and rung[0] > here[0]]
        rungs = [*smaller, here, *larger]
    return _tenant(
        job.job_id,
        _ladder(rungs, job.pace),
        job.pace,
        starts_in=job.starts_in_seconds,
        priority=job.priority,
        rung=rungs.index(here),
        surplus_bytes=surplus,
        exclusive=claim.exclusive,
        preemptible=job.preemptible,
        devices=len(job.device_ids),
    )


def stranger(claim: Claim) -> Tenant:
    """Describe a claim of which nothing else is known: it stays as it is."""
    held = Candidate(
        micro_batch=1,
        modes=Modes(),
        allocated_bytes=claim.taken_bytes,
        reserved_bytes=claim.taken_bytes,
        process_bytes=claim.taken_bytes,
    )
    surplus = max(0, claim.held_bytes - claim.reserved_bytes)
    return _tenant(
        claim.job_id,
        _ladder([(claim.taken_bytes, held)], UNKNOWN_PACE),
        UNKNOWN_PACE,
        starts_in=0.0,
        priority=0,
        rung=0,
        surplus_bytes=surplus,
        exclusive=claim.exclusive,
    )


def _tenant(
    job_id: int,
    ladder: _Ladder,
    pace: Pace,
    *,
    starts_in: float,
    priority: int,
    rung: int | None = None,
    surplus_bytes: int = 0,
    exclusive: bool = False,
    preemptible: bool = False,
    devices: int = 1,
) -> Tenant:
    seconds = tuple([pace.seconds * slower for slower in ladder.slower])
    return Tenant(
        job_id=job_id,
        ladder=ladder.candidates,
        needs=ladder.needs,
        gains=gains(ladder.needs, seconds),
        seconds=seconds,
        utilisations=tuple([min(1.0, pace.utilisation * busier) for busier in ladder.busier]),
        starts_in=starts_in,
        priority=priority,
        rung=rung,
        surplus_bytes=surplus_bytes,
        exclusive=exclusive,
        preemptible=preemptible,
        devices=devices,
    )


def gains(needs: Sequence[int], seconds: Sequence[float]) -> tuple[float, ...]:
    """Return for each rung but the last the share of the time that the next one saves, per byte."""
    steps = zip(seconds, seconds[1:], needs, needs[1:], strict=False)
    return tuple([(slow - fast) / slow / max(1, more - less) for slow, fast, less, more in steps])


def _ladder(rungs: Sequence[tuple[int, Candidate]], pace: Pace) -> _Ladder:
    needs, candidates = zip(*rungs, strict=True)
    slower = tuple(pace.slower(candidate) for candidate in candidates)
    return _Ladder(
        candidates=candidates,
        needs=needs,
        slower=slower,
        busier=tuple(pace.busier(candidate) for candidate in candidates),
    )


@lru_cache(maxsize=1024)  # jobs of one kind have the same, however long they are, and the next cycle asks again
def _open(
    wish: Wish, footprint: Footprint, kind: str, total_bytes: int, micro_batch: int, overhead: float
) -> _Ladder | None:
    """Return the rungs open to a job that has not started; None where nothing fits."""
    pace = Pace(seconds=1.0, utilisation=1.0, micro_batch=micro_batch, overhead=overhead)
    if wish.insists:
        plan = insisted(wish, footprint, kind, total_bytes, total_bytes)
        rungs = [] if plan is None else [(plan.reserve_bytes, plan.candidate)]
    else:
        rungs = _worth_having(wish, footprint, kind, total_bytes, pace)
    return _ladder(rungs, pace) if rungs else None


def _worth_having(
    wish: Wish, footprint: Footprint, kind: str, total_bytes: int, pace: Pace
) -> list[tuple[int, Candidate]]:
    """Keep of what fits that which is faster than all that needs less, up to where it hardly gets any faster."""
    needs = ((need_bytes(kind, one), one) for one in allowed(wish, footprint, kind))
    fitting = (rung for rung in needs if rung[0] <= total_bytes)
    kept: list[tuple[float, tuple[int, Candidate]]] = []
    timed = ((rung, pace.seconds_at(rung[1])) for rung in fitting)
    for rung, seconds in sorted(timed, key=lambda one: (one[0][0], one[1])):  # of those that need as much, the fastest
        if not kept or seconds < kept[-1][0] * _LESS:
            kept.append((seconds, rung))
    if not kept:
        return []
    flat = kept[-1][0] / _FLAT
    last = next(number for number, (seconds, _) in enumerate(kept) if seconds <= flat)
    return [rung for _, rung in kept[: last + 1]]


def at(tenant: Tenant, rung: int) -> Tenant:
    """Describe the same job with no choice but this rung."""
    return replace(
        tenant,
        ladder=tenant.ladder[rung : rung + 1],
        needs=tenant.needs[rung : rung + 1],
        seconds=tenant.seconds[rung : rung + 1],
        utilisations=tenant.utilisations[rung : rung + 1],
        gains=(),
    )


def returning(tenant: Tenant) -> Tenant:
    """Describe a running job as it would be once it was stopped: it starts again, from its checkpoint."""
    return replace(tenant, starts_in=START_SECONDS + RESUME_SECONDS, rung=None, preemptible=False)
