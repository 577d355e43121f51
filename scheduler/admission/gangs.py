"""Running jobs over several devices: none counts on more of one device than it can have on all of them. Pure.

A job has the same micro-batch everywhere. What a device gave it beyond what its narrowest one has would stand idle.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from msgspec import structs

from scheduler.admission.room import Room
from scheduler.admission.tenant import Tenant


def hold_to_narrowest(rooms: Iterable[Room]) -> list[Room]:
    """Let each such job grow, on each of its devices, only to what it gets once all of them are shared out at once."""
    there = list(rooms)
    most = _shared_out([room for room in there if _has_gang(room)])
    return [_held(room, most) if _has_gang(room) else room for room in there]


def _has_gang(room: Room) -> bool:
    return any(tenant.devices > 1 for tenant in room.tenants)


@dataclass
class _Sharer:
    """A job on its devices, and the micro-batch it has come to."""

    seats: Sequence[tuple[str, Tenant]]  # by device
    micro_batch: int

    def larger(self) -> int | None:
        """Return the next micro-batch open to it. With a device that can't be used it stays as it is, or shrinks."""
        tenant, sizes = self.seats[0][1], _sizes(self._tenants())
        most = max(sizes) if len(self.seats) == tenant.devices else tenant.ladder[tenant.rung or 0].micro_batch
        return min((size for size in sizes if self.micro_batch < size <= most), default=None)

    def gain(self) -> float:
        """Return what the next one would save per byte."""
        rungs = ((tenant, _rung_at(tenant, self.micro_batch)) for tenant in self._tenants())
        return max((tenant.gains[rung] for tenant, rung in rungs if rung < len(tenant.gains)), default=0.0)

    def more_bytes(self, micro_batch: int) -> dict[str, int]:
        """Return by device what it would need beyond what it has."""
        return {
            device_id: tenant.needs[_rung_at(tenant, micro_batch)] - tenant.needs[_rung_at(tenant, self.micro_batch)]
            for device_id, tenant in self.seats
        }

    def _tenants(self) -> Iterator[Tenant]:
        return (tenant for _, tenant in self.seats)


def _shared_out(rooms: Sequence[Room]) -> dict[int, int]:
    """Return the micro-batch that each job comes to: the largest saving per byte first, as on one device."""
    free = {room.device.device_id: room.usable_bytes - room.floor_bytes for room in rooms}
    seats: dict[int, list[tuple[str, Tenant]]] = defaultdict(list)
    for room in rooms:
        for tenant in room.tenants:
            seats[tenant.job_id].append((room.device.device_id, tenant))
    sharers = {job_id: _Sharer(there, min(_sizes(tenant for _, tenant in there))) for job_id, there in seats.items()}
    heap = [(-sharer.gain(), number, job_id) for number, (job_id, sharer) in enumerate(sharers.items())]
    heapify(heap)
    while heap:
        _, number, job_id = heappop(heap)
        sharer = sharers[job_id]
        size = sharer.larger()
        if size is None or sharer.gain() <= 0.0:
            continue
        more = sharer.more_bytes(size)
        if all(needed <= free[device_id] for device_id, needed in more.items()):  # else never: no room comes free here
            for device_id, needed in more.items():
                free[device_id] -= needed
            sharer.micro_batch = size
            heappush(heap, (-sharer.gain(), number, job_id))
    return {job_id: sharer.micro_batch for job_id, sharer in sharers.items()}


def _held(room: Room, most: Mapping[int, int]) -> Room:
    tenants = [
        structs.replace(tenant, gains=tenant.gains[: _rung_at(tenant, most[tenant.job_id])])
        if tenant.devices > 1
        else tenant
        for tenant in room.tenants
    ]
    return replace(room, tenants=tuple(tenants))


def _rung_at(tenant: Tenant, micro_batch: int) -> int:
    """Return the highest rung with no larger a micro-batch."""
    return max(0, bisect_right(tenant.ladder, micro_batch, key=lambda candidate: candidate.micro_batch) - 1)


def _sizes(tenants: Iterable[Tenant]) -> list[int]:
    return [candidate.micro_batch for tenant in tenants for candidate in tenant.ladder]
