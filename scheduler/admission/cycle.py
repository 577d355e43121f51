"""One admission cycle: from a snapshot of queue and devices to a decision about every job. Pure, deterministic.

A job starts on a device if the completions there, its own included, then come to less in sum than if it began once
another there has ended: sharing pays where the jobs leave each other time, and not where they queue for the same
cores. Running jobs are asked for smaller micro-batches to let it in, and given larger ones when there is room.

No job waits for ever: the one that has waited longest comes before all others once its patience is over, and a device
is kept for it, on which nothing starts that would delay it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from scheduler.admission.decisions import Admit, Decision, Refuse, Resize, Wait
from scheduler.admission.eligibility import devices_for, gate, named
from scheduler.admission.facts import DeviceView, QueuedJob, RunningJob
from scheduler.admission.order import first, patience_seconds, remaining_seconds
from scheduler.admission.places import Option, Place, Places
from scheduler.admission.plan import may_do_better, plan_of
from scheduler.admission.policy import Policy
from scheduler.admission.reasons import better_later, passed_over, resize_sentence, still_tracing, why_not
from scheduler.admission.refusal import deciding, refusal
from scheduler.admission.room import Room, room_of
from scheduler.admission.tenant import Tenant
from scheduler.footprint.curve import Footprint
from scheduler.jobs.states import WaitCode

HEADS = 128  # jobs looked at in one cycle
_WORTH_GROWING = 0.98  # a running job is left alone unless it would take less than this share of its time


def decide(
    queue: Iterable[QueuedJob],
    running: Sequence[RunningJob],
    devices: Sequence[DeviceView],
    *,
    preemptions_left: float = 0.0,
    more_seconds: float = 0.0,
    policy: Policy = Policy(),  # noqa: B008  a value
) -> list[Decision]:
    """Decide about every queued job, in the order of the queue, and about what running jobs are to change.

    Never promises more of a device than is there beside its foreign processes, nor anything of a device with a
    problem; never starts a job that is cancelled, or waits for another. `more_seconds` is the work of queued jobs that
    are not in `queue`.
    """
    # 1. heads: settle those that no device could help, look at the first of the rest
    heads = heads_of(queue, len(devices), policy, more_seconds=more_seconds)
    # 2. nominate, 3. admit, one after the other; each takes its room before the next is looked at
    cycle = Cycle(running, devices, heads, preemptions_left=preemptions_left, policy=policy)
    for position, job in enumerate(heads.jobs, start=1):
        cycle.consider(job, position)
    # 4. requeue, with the reason
    rest = [*heads.settled, *(_behind(job) for job in heads.behind)]
    return [*cycle.decisions(), *sorted(rest, key=lambda decision: decision.job_id)]


class Heads(NamedTuple):
    settled: list[Wait | Refuse]  # whatever the devices
    jobs: list[QueuedJob]  # to look at, in order
    behind: list[QueuedJob]
    patience_seconds: float


def heads_of(queue: Iterable[QueuedJob], devices: int, policy: Policy, *, more_seconds: float = 0.0) -> Heads:
    """Settle what can be, and find the first of the rest."""
    settled: list[Wait | Refuse] = []
    ready: list[QueuedJob] = []
    for job in queue:
        decision = gate(job)
        if decision is None:
            ready.append(job)
        else:
            settled.append(decision)
    remaining = [remaining_seconds(job) for job in ready]
    patience = patience_seconds(more_seconds + sum(remaining), devices, policy)
    heads = first(ready, remaining, HEADS, policy, patience)
    looked_at = {job.job_id for job in heads}
    return Heads(settled, heads, [job for job in ready if job.job_id not in looked_at], patience)


@dataclass(frozen=True, kw_only=True)
class _Placement:
    job: QueuedJob
    tenant: Tenant
    device_ids: tuple[str, ...]
    preempts: tuple[int, ...]


class _Seat(NamedTuple):
    """A job on one of its devices, and the rung that it could have there."""

    room: Room
    tenant: Tenant
    rung: int


class Cycle:
    """What has been decided so far, and what that leaves."""

    def __init__(
        self,
        running: Sequence[RunningJob],
        devices: Sequence[DeviceView],
        heads: Heads,
        *,
        preemptions_left: float,
        policy: Policy,
    ) -> None:
        known = {job.job_id: job for job in running}
        self._devices = devices
        self._patience_seconds = heads.patience_seconds
        self._plans = len(heads.jobs) + len(heads.behind) <= policy.planned
        self._preemptions_left = preemptions_left
        self._policy = policy
        usable = [device for device in devices if device.problem is None]
        self.places = Places([room_of(device, known, policy) for device in usable], policy)
        self._kinds: dict[tuple[int, frozenset[str] | None], list[DeviceView]] = {}  # by how many, and of which
        self._compared = {True: 0, False: 0}  # jobs that had room and did better to wait; jobs that had none
        self._waits: list[Wait | Refuse] = []
        self._placed: list[_Placement] = []
        self._positions: dict[int, int] = {}
        self._expected: dict[int, tuple[QueuedJob, Option]] = {}  # jobs that wait and are planned for

    def consider(self, job: QueuedJob, position: int) -> Wait | Refuse | None:
        """Place the job and return nothing, or why not."""
        self._positions[job.job_id] = position
        decision = self._never(job) or self._place(job)
        if isinstance(decision, Wait):
            decision = replace(decision, position=position)
        if decision is not None:
            self._waits.append(decision)
        return decision

    def decisions(self) -> list[Decision]:
        """Return all that was decided."""
        changes = self._changes()
        admitted = [self._admit(placement, changes) for placement in self._placed]
        shrinks = {one.job_id for admit in admitted for one in admit.shrinks}
        alone = [one for job_id, one in changes.items() if job_id not in shrinks]
        return [*admitted, *alone, *self._waits]

    def _place(self, job: QueuedJob) -> Wait | None:
        if job.gpus > 1:
            return self._place_gang(job)
        free = self.places.open_to(job)
        hurried = self._is_hurried(job)
        has_room = bool(free)
        if self._compared[has_room] >= self._policy.considered and not hurried:
            return passed_over(job) if free else self._why_not(job)
        now = self.places.best_now(free)
        later = self.places.best_later(job, below_seconds=_cost(now))
        start = self._swap(job, now, later) or (now if _cost(now) <= _cost(later) else None)
        if start is not None:
            earlier = self._alike_before(job, start.place)
            return self._put(job, start) if earlier is None else self._trade(earlier, job)
        self._compared[has_room] += 1
        if later is not None and self._plans:
            self.places.expect(later)
            self._expected[job.job_id] = job, later
        if hurried:
            self.places.keep(job, _OVERDUE)
        if now is None or later is None:
            return replace(self._why_not(job), starts_in_seconds=None if later is None else later.starts_in)
        return better_later(job, now, later)

    def _alike_before(self, job: QueuedJob, place: Place) -> QueuedJob | None:
        """Return the first job that waits, comes before this one, and would be just what it is in its place."""
        for other, _ in self._expected.values():
            before = self._positions[other.job_id] < self._positions[job.job_id]
            alike = (other.devices, other.apart_from) == (job.devices, job.apart_from)
            if before and alike and self.places.are_alike(place, other):
                return other
        return None

    def _trade(self, earlier: QueuedJob, job: QueuedJob) -> Wait:
        """Let a job wait in the place of one just like it that comes before it: that one may start in its stead."""
        _, later = self._expected.pop(earlier.job_id)
        wait = next(one for one in self._waits if isinstance(one, Wait) and one.job_id == earlier.job_id)
        self._waits.remove(wait)
        self._expected[job.job_id] = job, self.places.expect_instead(later, job)
        self.consider(earlier, self._positions[earlier.job_id])
        return replace(wait, job_id=job.job_id)

    def _swap(self, job: QueuedJob, now: Option | None, later: Option | None) -> Option | None:
        if self._preemptions_left < 1:
            return None
        worth_seconds = min(_cost(now), _cost(later)) - self._policy.preemption_gain_seconds
        swap = self.places.best_swap(job, worth_seconds)
        return swap if swap is not None and swap.added_seconds < worth_seconds else None

    def _put(self, job: QueuedJob, option: Option) -> Wait | None:
        """Place the job, unless it would do much better with memory means that are not traced yet."""
        room, tenant = option.place
        footprint = job.footprints[room.device.target]
        if isinstance(footprint, Footprint) and may_do_better(job.wish, footprint, self.places.candidate(option)):
            return still_tracing(job)
        preempts = () if option.preempts is None else (option.preempts.job_id,)
        self._preemptions_left -= len(preempts)
        self._placed.append(_Placement(job=job, tenant=tenant, device_ids=(room.device.device_id,), preempts=preempts))
        self.places.put(option)
        return None

    def _place_gang(self, job: QueuedJob) -> Wait | None:
        """Place a job that needs several devices at once: on all of them, as soon as they have room for one plan."""
        gang = self.places.gang(job)
        if gang:
            room, tenant = gang[0]
            footprint = job.footprints[room.device.target]
            if isinstance(footprint, Footprint) and may_do_better(job.wish, footprint, tenant.ladder[0]):
                return still_tracing(job)
            ids = tuple(place.room.device.device_id for place in gang)
            self._placed.append(_Placement(job=job, tenant=tenant, device_ids=ids, preempts=()))
            for place in gang:
                self.places.put(Option(place))
            return None
        why = _OVERDUE if self._is_hurried(job) else f"which needs {job.gpus} devices at once and comes before it"
        starts_in = self.places.keep(job, why)
        return replace(self._why_not(job), starts_in_seconds=_known(starts_in))

    def _is_hurried(self, job: QueuedJob) -> bool:
        return job.waited_seconds >= self._patience_seconds and self.places.kept is None

    def _never(self, job: QueuedJob) -> Wait | Refuse | None:
        """Return why there are no devices for the job, or none that it could ever fit."""
        key = job.gpus, job.devices
        if key not in self._kinds:
            self._kinds[key] = deciding(self._named(job), job.gpus)
        return devices_for(job, self._named(job)) or refusal(job, self._kinds[key])

    def _named(self, job: QueuedJob) -> Sequence[DeviceView]:
        """Return the devices that the job may have, be they usable or not."""
        return named(self._devices, job.devices)

    def _why_not(self, job: QueuedJob) -> Wait:
        devices = self._named(job)
        ids = {device.device_id for device in devices}
        return why_not(job, devices, [room for room in self.places if room.device.device_id in ids])

    def _admit(self, placement: _Placement, changes: Mapping[int, Resize]) -> Admit:
        job, rooms = placement.job, [self.places[device_id] for device_id in placement.device_ids]
        tenant = placement.tenant
        rung = min(self.places.rungs(room)[room.tenants.index(tenant)] for room in rooms if tenant in room.tenants)
        neighbours = dict.fromkeys(one.job_id for room in rooms for one in room.tenants)
        return Admit(
            job_id=job.job_id,
            device_ids=placement.device_ids,
            plan=plan_of(job.wish, tenant.ladder[rung], tenant.needs[rung]),
            limits={room.device.device_id: room.limit_bytes for room in rooms},
            exclusive=job.wish.exclusive,
            shrinks=tuple(changes[job_id] for job_id in neighbours if job_id in changes),
            preempts=placement.preempts,
        )

    def _changes(self) -> dict[int, Resize]:
        """Return by job what running jobs are to change, for newcomers or now that there is room."""
        seats: dict[int, list[_Seat]] = defaultdict(list)
        for room in self.places:
            for tenant, rung in zip(room.tenants, self.places.rungs(room), strict=True):
                seats[tenant.job_id].append(_Seat(room, tenant, rung))
        for victim in (one for placement in self._placed for one in placement.preempts):
            seats.pop(victim, None)  # one that leaves a device leaves all of its devices
        changes = (self._change(there) for there in seats.values() if there[0].tenant.rung is not None)
        return {change.job_id: change for change in changes if change is not None}

    def _change(self, seats: Sequence[_Seat]) -> Resize | None:
        """Return what a job is to change on all of its devices: to as much as the narrowest of them has for it."""
        room, tenant, rung = min(seats, key=lambda seat: seat.tenant.ladder[seat.rung].micro_batch)
        may_grow = len(seats) == tenant.devices and not any(seat.room.newcomers for seat in seats)
        if not _changes_rung(tenant, tenant.rung or 0, rung, may_grow=may_grow):
            return None
        return Resize(
            job_id=tenant.job_id,
            candidate=tenant.ladder[rung],
            reserve_bytes=tenant.needs[rung] - tenant.surplus_bytes,
            limits={seat.room.device.device_id: seat.room.limit_bytes for seat in seats},
            sentence=resize_sentence(room, tenant, rung),
        )


def _changes_rung(tenant: Tenant, now: int, new: int, *, may_grow: bool) -> bool:
    worth = tenant.seconds[new] < _WORTH_GROWING * tenant.seconds[now]
    return new < now or (new > now and may_grow and worth)


def _known(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) else None


def _cost(option: Option | None) -> float:
    return math.inf if option is None else option.added_seconds


_OVERDUE = "which has waited longer"
_BEHIND = f"is behind the first {HEADS} jobs of the queue that could start"


def _behind(job: QueuedJob) -> Wait:
    return Wait(job_id=job.job_id, code=WaitCode.BEHIND, sentence=_BEHIND)
