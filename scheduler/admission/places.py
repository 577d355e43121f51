"""Where a job could go, now or later, and what that would cost all jobs there in waiting. Pure.

The cost of a choice is what it adds to the sum of the completions on its device, the job's own included.
"""

import heapq
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from scheduler.admission.facts import NOT_TRACED, QueuedJob, Untraced
from scheduler.admission.future import Future, Outlook
from scheduler.admission.policy import Policy
from scheduler.admission.room import Room
from scheduler.admission.tenant import Tenant, at, newcomer, returning
from scheduler.footprint.curve import Candidate

_DEVICES_COMPARED = 8  # of those with room, the least loaded
_NO_DELAY_SECONDS = 1.0


class Place(NamedTuple):
    room: Room
    tenant: Tenant  # the job, as it would be there


@dataclass(frozen=True, slots=True)
class Option:
    place: Place
    added_seconds: float
    starts_in: float = 0.0
    preempts: Tenant | None = None


class Load(NamedTuple):
    """What devices are compared by before anything costly is worked out."""

    slowdown: float
    floor_bytes: int  # what its tenants need at their smallest
    device_id: str


class Places:
    """The devices of a cycle, as its decisions change them."""

    def __init__(self, rooms: dict[str, Room], policy: Policy) -> None:
        self.rooms = rooms
        self.outlook = Outlook()
        self._policy = policy
        self._newcomers: dict[tuple[int, str, str, int], Tenant | None] = {}
        self._returning: dict[Tenant, Tenant] = {}
        self._loads = {room.device.device_id: _load(room) for room in rooms.values()}
        self.kept: int | None = None  # the job for which devices are kept

    def allowed(self, job: QueuedJob) -> list[Place]:
        """Return every device that the job could ever run on, as the devices are."""
        return [
            Place(room, tenant)
            for room in self.rooms.values()
            if (job.devices is None or room.device.device_id in job.devices)
            and (tenant := self._newcomer(job, room)) is not None
        ]

    def open_to(self, job: QueuedJob, places: list[Place]) -> list[Place]:
        """Return those with room for it now, once those there have made as much as they can."""
        return [place for place in places if self._is_open(job, place)]

    def best_now(self, places: list[Place]) -> Option | None:
        """Return the cheapest way to start at once."""
        compared = heapq.nsmallest(_DEVICES_COMPARED, places, key=self._load_of)
        options = (Option(place, self._added(place)) for place in compared)
        return min(options, key=_cost, default=None)

    def best_later(self, places: list[Place]) -> Option | None:
        """Return the cheapest way to start when a job there has ended."""
        busy = [place for place in places if place.room.tenants]
        compared = heapq.nsmallest(_DEVICES_COMPARED, busy, key=self._load_of)
        options = (self._when_one_has_ended(place) for place in compared)
        return min((one for one in options if one.added_seconds < math.inf), key=_cost, default=None)

    def best_swap(self, job: QueuedJob, places: list[Place]) -> Option | None:
        """Return the cheapest way to start by stopping a longer job, which then comes back."""
        return min((swap for place in places for swap in self._swaps(job, place)), key=_cost, default=None)

    def gang(self, places: list[Place], number: int) -> list[Place]:
        """Return so many of the least loaded devices, with one plan that fits all of them; nothing if there is none."""
        chosen = heapq.nsmallest(number, places, key=self._load_of)
        common = [self._open_rungs(place) for place in chosen]
        plans = set(common[0]).intersection(*common[1:]) if len(chosen) == number else set()
        if not plans:
            return []
        fastest = min(plans, key=common[0].index)
        return [Place(room, at(tenant, tenant.ladder.index(fastest))) for room, tenant in chosen]

    def after(self, option: Option) -> Room:
        """Return the room as the option would leave it."""
        room, tenant = option.place
        if option.preempts is not None:
            room = room.without(option.preempts)
        tenants = (*room.tenants, tenant)
        rungs = self.outlook.split(tenants, room.usable_bytes)
        if rungs is None:
            raise AssertionError(f"job {tenant.job_id} was placed where it does not fit")
        return room.with_tenants(tenants, rungs)

    def put(self, option: Option) -> None:
        """Take the room that the option needs."""
        self._replace(self.after(option))

    def rungs(self, room: Room) -> tuple[int, ...]:
        """Return how the tenants share the device: as small as they can where they are too many for what is left."""
        return self.outlook.split(room.tenants, room.usable_bytes) or (0,) * len(room.tenants)

    def keep(self, job: QueuedJob, places: list[Place]) -> None:
        """Keep as many devices as the job needs, those on which it could start first."""
        if self.kept is not None:
            return
        self.kept = job.job_id
        for room, tenant in heapq.nsmallest(job.gpus, places, key=self._start_of):
            self._replace(replace(room, kept_for=tenant))

    def _open_rungs(self, place: Place) -> list[Candidate]:
        """Return the candidates that fit, the fastest first."""
        rung = self.rungs(self.after(Option(place, 0.0)))[-1]
        return list(reversed(place.tenant.ladder[: rung + 1]))

    def _replace(self, room: Room) -> None:
        self.rooms[room.device.device_id] = room
        self._loads[room.device.device_id] = _load(room)

    def _newcomer(self, job: QueuedJob, room: Room) -> Tenant | None:
        key = job.job_id, room.device.target, room.device.kind, room.usable_bytes
        if key not in self._newcomers:
            footprint = job.footprints.get(room.device.target, NOT_TRACED)
            self._newcomers[key] = (
                None
                if isinstance(footprint, Untraced)
                else newcomer(job, footprint, room.device.kind, room.usable_bytes)
            )
        return self._newcomers[key]

    def _is_open(self, job: QueuedJob, place: Place) -> bool:
        room, tenant = place
        floor = self._loads[room.device.device_id].floor_bytes
        return (
            room.exclusive_to is None
            and not (tenant.exclusive and room.claims)
            and floor + tenant.needs[0] <= room.usable_bytes
            and job.apart_from.isdisjoint(claim.job_id for claim in room.claims)
            and (room.kept_for is None or room.kept_for is tenant or self._delays_nobody(place))
        )

    def _delays_nobody(self, place: Place) -> bool:
        room, tenant = place
        if room.kept_for is None:
            return True
        before = self.outlook.start_of(room.kept_for, room.tenants, room.usable_bytes)
        after = self.outlook.start_of(room.kept_for, (*room.tenants, tenant), room.usable_bytes)
        return after <= before + _NO_DELAY_SECONDS

    def _future(self, room: Room, *more: Tenant) -> Future:
        return self.outlook.future((*room.tenants, *more), room.usable_bytes)

    def _added(self, place: Place) -> float:
        return self._future(place.room, place.tenant).total_seconds - self._future(place.room).total_seconds

    def _when_one_has_ended(self, place: Place) -> Option:
        room, tenant = place
        before = self._future(room)
        after = self.outlook.future(room.tenants, room.usable_bytes, late=tenant)
        return Option(place, after.total_seconds - before.total_seconds, starts_in=before.first_end)

    def _swaps(self, job: QueuedJob, place: Place) -> list[Option]:
        room, tenant = place
        if room.kept_for is not None and room.kept_for is not tenant:
            return []
        before = self._future(room).total_seconds
        swaps = []
        for victim in room.tenants:
            if not self._may_stop(victim, job, tenant):
                continue
            rest = room.without(victim)
            if self._is_open(job, Place(rest, tenant)):
                back = self._returning.setdefault(victim, returning(victim))
                after = self.outlook.future((*rest.tenants, tenant), rest.usable_bytes, late=back)
                swaps.append(Option(place, after.total_seconds - before, preempts=victim))
        return swaps

    def _may_stop(self, victim: Tenant, job: QueuedJob, tenant: Tenant) -> bool:
        left = victim.seconds[victim.rung or 0]
        longer = left >= self._policy.preemption_ratio * tenant.seconds[-1]
        return victim.preemptible and victim.priority <= job.priority and longer

    def _start_of(self, place: Place) -> tuple[float, str]:
        room, tenant = place
        return self.outlook.start_of(tenant, room.tenants, room.usable_bytes), room.device.device_id

    def _load_of(self, place: Place) -> Load:
        return self._loads[place.room.device.device_id]


def _cost(option: Option) -> tuple[float, int, str]:
    """Order options by cost, to a second; then the tightest fit."""
    room = option.place.room
    return round(option.added_seconds), room.usable_bytes, room.device.device_id


def _load(room: Room) -> Load:
    busy = sum(tenant.utilisations[tenant.rung or 0] for tenant in room.tenants)
    return Load(
        slowdown=max(1.0, busy) * (len(room.tenants) + 1),
        floor_bytes=sum(tenant.needs[0] for tenant in room.tenants),
        device_id=room.device.device_id,
    )
