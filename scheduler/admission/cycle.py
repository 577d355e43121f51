"""One admission cycle: from a snapshot of queue and devices to a decision about every job. Pure, deterministic.

Fairness, first form. Jobs are taken by priority, then by id; one that can't start does not block those behind it
(backfill). The bound: a job that has been short of memory alone for `PATIENCE_SECONDS` gets a device kept for it, the
one where it is nearest to starting; nothing behind it starts there until it has. One job at a time is so favoured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scheduler.admission.decisions import Admit, Decision, Wait
from scheduler.admission.eligibility import gate
from scheduler.admission.facts import Claim, DeviceView, QueuedJob
from scheduler.admission.fitting import Nomination, nominate, wanted_on, why_not
from scheduler.admission.refusal import refusal
from scheduler.admission.room import Room, room_of
from scheduler.jobs.states import WaitCode

HEADS = 256  # jobs looked at in one cycle
PATIENCE_SECONDS = 600.0


def decide(jobs: Iterable[QueuedJob], devices: Sequence[DeviceView], *, now: float) -> list[Decision]:
    """Decide about every job, in the order of the queue.

    Never promises more of a device than is there beside its foreign processes, nor anything of a device with a
    problem; never starts a job that is cancelled, or waits for another. `now` is by the clock of `short_since`.
    """
    queue = sorted(jobs, key=lambda job: (-job.priority, job.job_id))
    # 1. heads: settle those that no memory could help, look at the first of the rest
    gated = {job.job_id: gate(job, devices) for job in queue}
    ready = [job for job in queue if gated[job.job_id] is None]
    heads = {job.job_id for job in ready[:HEADS]}
    # 2. snapshot
    rooms = {device.device_id: room_of(device) for device in devices if device.problem is None}
    decisions: list[Decision] = []
    for job in queue:
        settled = gated[job.job_id]
        if settled is None and job.job_id in heads:
            # 3. nominate, 4. in the order of the queue, 5. admit
            settled = _consider(job, devices, rooms, now)
        # 6. requeue, with the reason
        decisions.append(settled or _behind(job))
    return decisions


def _consider(job: QueuedJob, devices: Sequence[DeviceView], rooms: dict[str, Room], now: float) -> Decision:
    refused = refusal(job, devices)
    if refused:
        return refused
    chosen = nominate(job, list(rooms.values()))
    if chosen:
        rooms[chosen.room.device.device_id] = _claim(job, chosen)
        return Admit(
            job_id=job.job_id,
            device_id=chosen.room.device.device_id,
            plan=chosen.plan,
            limit_bytes=chosen.room.limit_bytes,
            exclusive=job.wish.exclusive,
        )
    waits = why_not(job, devices, rooms)
    if waits.code is WaitCode.MEMORY and _impatient(job, now):
        _keep_device(job, rooms)
    return waits


def _claim(job: QueuedJob, chosen: Nomination) -> Room:
    claim = Claim(job_id=job.job_id, reserved_bytes=chosen.plan.reserve_bytes, exclusive=job.wish.exclusive)
    return chosen.room.with_claim(claim)


def _impatient(job: QueuedJob, now: float) -> bool:
    return job.short_since is not None and now - job.short_since >= PATIENCE_SECONDS


def _keep_device(job: QueuedJob, rooms: dict[str, Room]) -> None:
    """Keep the device on which the least is missing, unless one is kept for another job already."""
    if any(room.kept_for is not None for room in rooms.values()):
        return
    missing = {
        device_id: wanted - room.available_bytes
        for device_id, room in rooms.items()
        if (wanted := wanted_on(job, room)) is not None
    }
    if missing:
        nearest = min(missing, key=lambda device_id: (missing[device_id], device_id))
        rooms[nearest] = replace(rooms[nearest], kept_for=job.job_id)


def _behind(job: QueuedJob) -> Wait:
    return Wait(
        job_id=job.job_id,
        code=WaitCode.BEHIND,
        sentence=f"is behind the first {HEADS} jobs of the queue that could start",
    )
