"""Fit one job to the devices: the best place and plan for it, or why there is none now. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.admission.decisions import Wait
from scheduler.admission.facts import NOT_TRACED, DeviceView, QueuedJob, Untraced
from scheduler.admission.plan import FLAT, Plan, choose, wanted_bytes
from scheduler.admission.room import Room
from scheduler.jobs.states import WaitCode
from scheduler.units import format_bytes

_NAMED_DEVICES = 4  # in one sentence


@dataclass(frozen=True, kw_only=True)
class Nomination:
    room: Room
    plan: Plan


def nominate(job: QueuedJob, rooms: Sequence[Room]) -> Nomination | None:
    """Return the best place for the job now: the fastest plan (within 5 %), the fewest neighbours, the tightest fit."""
    options = [Nomination(room=room, plan=plan) for room in rooms if (plan := _plan_on(job, room)) is not None]
    if not options:
        return None
    best = max(option.plan.speed for option in options)
    return min(
        (option for option in options if option.plan.speed >= FLAT * best),
        key=lambda option: (
            len(option.room.claims),
            option.room.available_bytes - option.plan.reserve_bytes,
            option.room.device.device_id,
        ),
    )


def wanted_on(job: QueuedJob, room: Room) -> int | None:
    """Return what must be free on this device for the job to start; None where it can't beside foreign memory."""
    return _wanted(job, room, room.usable_bytes)


def _wanted(job: QueuedJob, room: Room, usable_bytes: int) -> int | None:
    footprint = job.footprints.get(room.device.target, NOT_TRACED)
    if isinstance(footprint, Untraced):
        return None
    wanted = wanted_bytes(job.wish, footprint, room.device.kind, usable_bytes)
    return usable_bytes if wanted is not None and job.wish.exclusive else wanted


def why_not(job: QueuedJob, devices: Sequence[DeviceView], rooms: Mapping[str, Room]) -> Wait:
    """Say in numbers why the job did not start in this cycle."""
    usable = [(room, wanted) for room in rooms.values() if (wanted := wanted_on(job, room)) is not None]
    known = [job.footprints.get(device.target, NOT_TRACED) for device in devices]
    untraced = next((one.sentence for one in known if isinstance(one, Untraced)), None)
    if not usable and untraced:
        return Wait(job_id=job.job_id, code=WaitCode.TRACING, sentence=untraced)
    broken = [device for device in devices if device.problem is not None]
    if not usable and broken:
        told = "; ".join(f"{device.label}: {device.problem}" for device in broken[:_NAMED_DEVICES])
        return Wait(job_id=job.job_id, code=WaitCode.DEVICE_ERROR, sentence=told)
    short = _short(job, usable or _when_empty(job, rooms.values()))
    if short is None:
        sentence = untraced or "its memory with checkpointing or offload is being worked out"
        return Wait(job_id=job.job_id, code=WaitCode.TRACING, sentence=sentence)
    return short


def _when_empty(job: QueuedJob, rooms: Iterable[Room]) -> list[tuple[Room, int]]:
    """Return the devices that the job would fit once what is foreign there has gone too."""
    return [(room, wanted) for room in rooms if (wanted := _wanted(job, room, room.device.total_bytes)) is not None]


def _short(job: QueuedJob, usable: Sequence[tuple[Room, int]]) -> Wait | None:
    """Say what is in the way of a job that fits these devices; None if nothing is but a footprint not whole yet."""
    free = [(room, wanted) for room, wanted in usable if wanted <= room.available_bytes]
    kept = next((room for room, _ in free if room.kept_for not in (None, job.job_id)), None)
    if kept:
        sentence = f"{kept.device.label} is kept for job {kept.kept_for}, which has waited longer for memory"
        return Wait(job_id=job.job_id, code=WaitCode.KEPT, sentence=sentence)
    taken = next((room for room, _ in free if room.exclusive_to is not None), None)
    if taken:
        sentence = f"job {taken.exclusive_to} has {taken.device.label} to itself"
        return Wait(job_id=job.job_id, code=WaitCode.EXCLUSIVE, sentence=sentence)
    if free or not usable:
        return None
    places = "; ".join(room.describe() for room, _ in usable[:_NAMED_DEVICES])
    more = f"; and {len(usable) - _NAMED_DEVICES} more" if len(usable) > _NAMED_DEVICES else ""
    if job.wish.exclusive:
        needs = "needs a device to itself"
    else:
        needs = f"needs {format_bytes(min(wanted for _, wanted in usable))}"
    return Wait(job_id=job.job_id, code=WaitCode.MEMORY, sentence=f"{needs}; {places}{more}")


def _plan_on(job: QueuedJob, room: Room) -> Plan | None:
    footprint = job.footprints.get(room.device.target, NOT_TRACED)
    if isinstance(footprint, Untraced) or room.kept_for not in (None, job.job_id):
        return None
    if room.exclusive_to is not None or (job.wish.exclusive and room.claims):
        return None
    return choose(
        job.wish,
        footprint,
        room.device.kind,
        available_bytes=room.available_bytes,
        usable_bytes=room.usable_bytes,
    )
