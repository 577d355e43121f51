"""Say in numbers why a job did not start in this cycle. Pure."""

from collections.abc import Iterable, Sequence

from scheduler.admission.colocation import in_words
from scheduler.admission.decisions import Wait
from scheduler.admission.facts import NOT_TRACED, DeviceView, QueuedJob, Untraced
from scheduler.admission.places import Option
from scheduler.admission.plan import wanted_bytes
from scheduler.admission.room import Room
from scheduler.admission.tenant import Tenant
from scheduler.jobs.states import WaitCode
from scheduler.units import format_bytes, format_duration

_NAMED_DEVICES = 4  # in one sentence


def why_not(job: QueuedJob, devices: Sequence[DeviceView], rooms: Iterable[Room]) -> Wait:
    """Return the reason of a job that no device has room for."""
    usable = [(room, wanted) for room in rooms if (wanted := _wanted(job, room, room.usable_bytes))]
    known = [job.footprints.get(device.target, NOT_TRACED) for device in devices]
    untraced = next((one.sentence for one in known if isinstance(one, Untraced)), None)
    if not usable and untraced:
        return Wait(job_id=job.job_id, code=WaitCode.TRACING, sentence=untraced)
    broken = [device for device in devices if device.problem is not None]
    if not usable and broken:
        told = "; ".join(f"{device.label}: {device.problem}" for device in broken[:_NAMED_DEVICES])
        return Wait(job_id=job.job_id, code=WaitCode.DEVICE_ERROR, sentence=told)
    return _short(job, usable or _when_empty(job, rooms)) or still_tracing(job)


def better_later(job: QueuedJob, now: Option, later: Option) -> Wait:
    """Return the reason of a job that could start, to the loss of all."""
    room = now.place.room
    sentence = (
        f"could start on {room.device.label} beside {_named(room.tenants)}, but that would add "
        f"{format_duration(now.added_seconds)} to the total of their completion times; starting on "
        f"{later.place.room.device.label} in about {format_duration(later.starts_in)} adds "
        f"{format_duration(later.added_seconds)}"
    )
    return Wait(job_id=job.job_id, code=WaitCode.SHARING, sentence=sentence, starts_in_seconds=later.starts_in)


def passed_over(job: QueuedJob) -> Wait:
    """Return the reason of a job that has room, behind others that have and do better to wait."""
    sentence = "has room, but jobs ahead of it have room too, and are better off waiting for others to end"
    return Wait(job_id=job.job_id, code=WaitCode.BEHIND, sentence=sentence)


def resize_sentence(room: Room, tenant: Tenant, rung: int) -> str:
    """Say how and why a running job gets another micro-batch."""
    before, after = tenant.ladder[tenant.rung or 0].micro_batch, tenant.ladder[rung].micro_batch
    if after > before:
        reason = f"there is room on {room.device.label}"
    elif room.newcomers:
        reason = f"makes room on {room.device.label} for {_named(room.newcomers)}"
    else:
        reason = f"{room.foreign} on {room.device.label}"
    return f"micro-batch {before} becomes {after}: {reason}"


def _named(tenants: Sequence[Tenant]) -> str:
    return " and ".join(f"job {tenant.job_id}" for tenant in tenants)


def still_tracing(job: QueuedJob) -> Wait:
    """Return the reason of a job that would have a better plan with means not traced yet."""
    means = "checkpointing, offload or sharding" if job.gpus > 1 else "checkpointing or offload"
    sentence = f"its memory with {means} is being worked out"
    return Wait(job_id=job.job_id, code=WaitCode.TRACING, sentence=sentence)


def _wanted(job: QueuedJob, room: Room, usable_bytes: int) -> int | None:
    """Return what must be free on this device for the job to start; None where it never can."""
    footprint = job.footprints.get(room.device.target, NOT_TRACED)
    if isinstance(footprint, Untraced):
        return None
    wanted = wanted_bytes(job.wish, footprint, room.device.kind, usable_bytes)
    return usable_bytes if wanted is not None and job.wish.exclusive else wanted


def _when_empty(job: QueuedJob, rooms: Iterable[Room]) -> list[tuple[Room, int]]:
    """Return the devices that the job would fit once what is foreign there has gone too."""
    return [(room, wanted) for room in rooms if (wanted := _wanted(job, room, room.device.total_bytes))]


def _short(job: QueuedJob, usable: Sequence[tuple[Room, int]]) -> Wait | None:
    """Say what is in the way of a job that fits these devices; None if nothing is but a footprint not whole yet."""
    free = [(room, wanted) for room, wanted in usable if wanted <= room.available_bytes]
    kept = next((room for room, _ in free if room.kept is not None), None)
    if kept and kept.kept and kept.kept.tenant.job_id != job.job_id:
        sentence = f"{kept.device.label} is kept for job {kept.kept.tenant.job_id}, {kept.kept.why}"
        return Wait(job_id=job.job_id, code=WaitCode.KEPT, sentence=sentence)
    taken = next((room for room, _ in free if room.exclusive_to is not None), None)
    if taken:
        sentence = f"job {taken.exclusive_to} has {taken.device.label} to itself"
        return Wait(job_id=job.job_id, code=WaitCode.EXCLUSIVE, sentence=sentence)
    apart = next(((room, claim) for room, _ in free for claim in room.claims if claim.job_id in job.apart_from), None)
    if apart:
        room, claim = apart
        sentence = f"could start on {room.device.label}, but {in_words(claim.job_id, job.apart_from[claim.job_id])}"
        return Wait(job_id=job.job_id, code=WaitCode.SHARING, sentence=sentence)
    if len(free) >= job.gpus or not usable:
        return None
    places = "; ".join(room.description for room, _ in usable[:_NAMED_DEVICES])
    more = f"; and {len(usable) - _NAMED_DEVICES} more" if len(usable) > _NAMED_DEVICES else ""
    if job.wish.exclusive:
        needs = "needs a device to itself"
    else:
        needs = f"needs {format_bytes(min(wanted for _, wanted in usable))}"
        needs += f" on each of {job.gpus} devices at once" if job.gpus > 1 else ""
    return Wait(job_id=job.job_id, code=WaitCode.MEMORY, sentence=f"{needs}; {places}{more}")
