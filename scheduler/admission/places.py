"""Where a job could go, now or later, and what that would cost all jobs there in waiting. Pure.

The cost of a choice is what it adds to the sum of the completions on its device, the job's own included. Of many
devices only a few are compared, those where the least is going on.
"""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter, itemgetter
from typing import NamedTuple

from msgspec import structs

from scheduler.admission.facts import NOT_TRACED, QueuedJob
from scheduler.admission.future import Future, Outlook
from scheduler.admission.gangs import hold_to_narrowest
from scheduler.admission.policy import Policy
from scheduler.admission.room import Kept, Room
from scheduler.admission.tenant import Tenant, at, newcomer, returning
from scheduler.footprint.curve import Candidate

_COMPARED = 4  # devices
_KEPT_AMONG = 64  # devices among which those are found that are kept
_NO_DELAY_SECONDS = 1.0
_ROUNDED_SECONDS = 1.0  # costs no further apart may be compared as equal


class Place(NamedTuple):
    room: Room
    tenant: Tenant  # the job, as it would be there


@dataclass(frozen=True, slots=True)
class Option:
    place: Place
    added_seconds: float = 0.0
    starts_in: float = 0.0
    preempts: Tenant | None = None


class Places:
    """The devices of a cycle, as its decisions change them."""

    def __init__(self, rooms: Iterable[Room], policy: Policy) -> None:
        self._policy = policy
        self._outlook = Outlook()
        self._rooms = {room.device.device_id: room for room in hold_to_narrowest(rooms)}
        self._by_load = sorted(self._rooms.values(), key=_LOAD)
        self._newcomers: dict[tuple[int, str, int], Tenant | None] = {}
        self._returning: dict[Tenant, Tenant] = {}
        self.kept: int | None = None  # the job for which devices are kept

    def __iter__(self) -> Iterator[Room]:
        return iter(self._rooms.values())

    def __getitem__(self, device_id: str) -> Room:
        return self._rooms[device_id]

    def open_to(self, job: QueuedJob) -> list[Place]:
        """Return devices with room for the job now, once those there have made as much as they can."""
        return list(islice((place for place in self._allowed(job) if self._is_open(job, place)), _COMPARED))

    def best_now(self, places: list[Place]) -> Option | None:
        """Return the cheapest way to start at once."""
        return min((Option(place, self._added(place)) for place in places), key=_cost, default=None)

    def best_later(self, job: QueuedJob, below_seconds: float) -> Option | None:
        """Return the cheapest way to start when a job somewhere has ended, if it costs less than so much.

        It adds at least its own completion: where that is too much, the rest is not worked out.
        """
        busy = islice((place for place in self._allowed(job) if place.room.tenants), _COMPARED)
        best = None
        for least, place in sorted(((self._least_later(place), place) for place in busy), key=itemgetter(0)):
            if least >= below_seconds or (best is not None and least > best.added_seconds + _ROUNDED_SECONDS):
                break
            option = self._when_one_has_ended(place)
            if math.isfinite(option.added_seconds):
                best = option if best is None else min(best, option, key=_cost)
        return best

    def _least_later(self, place: Place) -> float:
        room, tenant = place
        return self._future(room).first_end + tenant.starts_in + tenant.seconds[-1]

    def best_swap(self, job: QueuedJob, below_seconds: float) -> Option | None:
        """Return the cheapest way to start by stopping a longer job, which then comes back.

        Devices on which the job alone would take more than `below_seconds` are not looked at.
        """
        near = islice(self._allowed(job), _COMPARED)
        places = [one for one in near if one.tenant.starts_in + one.tenant.seconds[-1] < below_seconds]
        swaps = (swap for place in places for swap in self._swaps(job, place))
        return min((one for one in swaps if math.isfinite(one.added_seconds)), key=_cost, default=None)

    def compared(self, job: QueuedJob) -> Iterator[tuple[Place, Future | None, Future]]:
        """Yield, for each device that is compared, what becomes of it if the job starts now, if it can, and later."""
        for place in islice(self._allowed(job), _COMPARED):
            now = self._future(place.room, place.tenant) if self._is_open(job, place) else None
            yield place, now, self._future(place.room, late=(place.tenant,))

    def future(self, room: Room) -> Future:
        """Return when the jobs on a device end, with nobody new."""
        return self._future(room)

    def gang(self, job: QueuedJob) -> list[Place]:
        """Return as many devices of one kind as the job needs, pinned to one plan that all have room for now; or none.

        Of one kind, for its processes wait for each other in every step.
        """
        alike: dict[str, list[Place]] = defaultdict(list)
        for place in self._allowed(job):
            if self._is_open(job, place):
                same = alike[place.room.device.target]
                same.append(place)
                if len(same) == job.gpus:
                    return self._pinned(same)
        return []

    def _pinned(self, places: list[Place]) -> list[Place]:
        """Fix the fastest plan that fits all of these devices, and what the smallest of them has for it."""
        first, *others = [self._open_candidates(place) for place in places]
        fastest = next((one for one in first if all(one in candidates for candidates in others)), None)
        if fastest is None:
            return []
        pins = [at(tenant, tenant.ladder.index(fastest)) for _, tenant in places]
        pin = min(pins, key=lambda tenant: tenant.needs)
        return [Place(room, pin) for room, _ in places]

    def after(self, option: Option) -> Room:
        """Return the room as the option would leave it."""
        room, tenant = option.place
        if option.preempts is not None:
            room = room.without(option.preempts)
        tenants = (*room.tenants, tenant)
        rungs = self._outlook.split(tenants, room.usable_bytes)
        if rungs is None:
            raise AssertionError(f"job {tenant.job_id} was placed where it does not fit")
        return room.with_tenants(tenants, rungs)

    def candidate(self, option: Option) -> Candidate:
        """Return how the job would start."""
        return option.place.tenant.ladder[self.rungs(self.after(option))[-1]]

    def put(self, option: Option) -> None:
        """Take the room that the option needs."""
        self._replace(self.after(option))

    def expect(self, option: Option) -> None:
        """Count the job, in what becomes of the device from now on, as one that starts there when another has ended."""
        room, tenant = option.place
        self._replace(replace(room, expected=(*room.expected, tenant)))

    def are_alike(self, place: Place, other: QueuedJob) -> bool:
        """Whether the other job would need there what this one does, for as long."""
        room, tenant = place
        instead = self._newcomer(other, room)
        if instead is None or (instead.seconds, instead.needs) != (tenant.seconds, tenant.needs):
            return False
        return structs.astuple(structs.replace(instead, job_id=tenant.job_id)) == structs.astuple(tenant)

    def expect_instead(self, option: Option, job: QueuedJob) -> Option:
        """Let another job, just like it, be expected where the option's was."""
        before = option.place.tenant
        room, tenant = self._rooms[option.place.room.device.device_id], structs.replace(before, job_id=job.job_id)
        self._replace(replace(room, expected=tuple(tenant if one is before else one for one in room.expected)))
        return replace(option, place=Place(room, tenant))

    def rungs(self, room: Room) -> tuple[int, ...]:
        """Return how the tenants share the device: as small as they can where they are too many for what is left."""
        return self._outlook.split(room.tenants, room.usable_bytes) or (0,) * len(room.tenants)

    def keep(self, job: QueuedJob, why: str) -> float | None:
        """Keep as many devices as the job needs, those on which it could start first, unless some are kept already.

        Return the seconds until it could: for several devices, until the last of them has room.
        """
        if self.kept is not None:
            return None
        alike: dict[str, list[Place]] = defaultdict(list)
        near = islice(self._allowed(job), max(_KEPT_AMONG, _COMPARED * job.gpus))
        for place in sorted(near, key=self._start_of):
            alike[place.room.device.target].append(place)
        gangs = [same[: job.gpus] for same in alike.values() if len(same) >= job.gpus]
        if not gangs:
            return None
        gang = min(gangs, key=lambda gang: self._start_of(gang[-1]))
        self.kept = job.job_id
        starts_in, _ = self._start_of(gang[-1])
        for room, tenant in gang:
            self._replace(replace(room, kept=Kept(tenant=tenant, starts_in=starts_in, why=why)))
        return starts_in

    def _replace(self, room: Room) -> None:
        self._by_load.remove(self._rooms[room.device.device_id])
        insort(self._by_load, room, key=_LOAD)
        self._rooms[room.device.device_id] = room

    def _allowed(self, job: QueuedJob) -> Iterator[Place]:
        """Yield every device that the job could ever run on, the least loaded first."""
        for room in self._by_load:
            tenant = self._newcomer(job, room)
            if tenant is not None and (job.devices is None or room.device.device_id in job.devices):
                yield Place(room, tenant)

    def _newcomer(self, job: QueuedJob, room: Room) -> Tenant | None:
        device = room.device
        key = job.job_id, device.target, device.total_bytes
        if key not in self._newcomers:
            footprint = job.footprints.get(device.target, NOT_TRACED)
            self._newcomers[key] = newcomer(job, footprint, device.kind, device.total_bytes)
        return self._newcomers[key]

    def _is_open(self, job: QueuedJob, place: Place) -> bool:
        room, tenant = place
        return (
            room.floor_bytes + tenant.needs[0] <= room.usable_bytes
            and room.exclusive_to is None
            and not (tenant.exclusive and room.claims)
            and (not job.apart_from or self._may_join(job, room))
            and (room.kept is None or room.kept.tenant is tenant or self._delays_nobody(room, room.kept, tenant))
        )

    def _may_join(self, job: QueuedJob, room: Room) -> bool:
        """Whether nobody is there that the job is kept apart from; one that has waited for two days is from none."""
        overdue = job.waited_seconds >= self._policy.most_patience_seconds
        return overdue or job.apart_from.keys().isdisjoint(claim.job_id for claim in room.claims)

    def _delays_nobody(self, room: Room, kept: Kept, tenant: Tenant) -> bool:
        after = self._outlook.start_of(kept.tenant, (*room.tenants, tenant), room.usable_bytes)
        return after <= kept.starts_in + _NO_DELAY_SECONDS

    def _future(self, room: Room, *more: Tenant, late: tuple[Tenant, ...] = ()) -> Future:
        return self._outlook.future((*room.tenants, *more), room.usable_bytes, (*room.expected, *late))

    def _added(self, place: Place) -> float:
        room, tenant = place
        return self._future(room, tenant).total_seconds - self._future(room).total_seconds

    def _when_one_has_ended(self, place: Place) -> Option:
        room, tenant = place
        before, after = self._future(room), self._future(room, late=(tenant,))
        return Option(place, after.total_seconds - before.total_seconds, after.start_of(tenant.job_id))

    def _swaps(self, job: QueuedJob, place: Place) -> Iterator[Option]:
        room, tenant = place
        if room.kept is not None and room.kept.tenant is not tenant:
            return
        for victim in room.tenants:
            if not self._may_stop(victim, job, tenant):
                continue
            rest = room.without(victim)
            if self._is_open(job, Place(rest, tenant)):
                back = self._returning.setdefault(victim, returning(victim))
                after = self._future(rest, tenant, late=(back,))
                yield Option(place, after.total_seconds - self._future(room).total_seconds, preempts=victim)

    def _may_stop(self, victim: Tenant, job: QueuedJob, tenant: Tenant) -> bool:
        # Of several devices one alone is looked at here: for what is idle on the others then, only priority makes up.
        longer = victim.seconds[victim.rung or 0] >= self._policy.preemption_ratio * tenant.seconds[-1]
        yields = victim.priority <= job.priority if victim.devices == 1 else victim.priority < job.priority
        return victim.preemptible and longer and yields

    def _start_of(self, place: Place) -> tuple[float, str]:
        room, tenant = place
        return self._outlook.start_of(tenant, room.tenants, room.usable_bytes), room.device.device_id

    def _open_candidates(self, place: Place) -> list[Candidate]:
        """Return the candidates that fit, the fastest first."""
        fastest = place.tenant.ladder.index(self.candidate(Option(place)))
        return list(reversed(place.tenant.ladder[: fastest + 1]))


_LOAD = attrgetter("load")


def _cost(option: Option) -> tuple[float, int, str]:
    """Order options by cost, to a second; then the tightest fit."""
    room = option.place.room
    return round(option.added_seconds), room.usable_bytes, room.device.device_id
