"""What becomes of the jobs on one device: how its memory is split among them, and when each ends. Pure.

The model is that of `pace.py`. Whenever a job ends, those left share its memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.admission.pace import slowdown
from scheduler.admission.tenant import Tenant

Tenants = tuple[Tenant, ...]
Rungs = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Future:
    """When the jobs on a device end, and when those expected there start: seconds from now and job id, in order."""

    ends: tuple[tuple[float, int], ...] = ()
    starts: tuple[tuple[float, int], ...] = ()
    total_seconds: float = 0.0

    @property
    def first_end(self) -> float:
        return self.ends[0][0] if self.ends else 0.0

    def start_of(self, job_id: int) -> float:
        return next((seconds for seconds, starter in self.starts if starter == job_id), math.inf)


IMPOSSIBLE = Future(total_seconds=math.inf)  # they do not fit together


class Outlook:
    """Works futures out, each once: a cycle asks for the same ones again and again."""

    def __init__(self) -> None:
        self._splits: dict[tuple[Tenants, int], Rungs | None] = {}
        self._futures: dict[tuple[Tenants, int, Tenants], Future] = {}

    def split(self, tenants: Tenants, capacity_bytes: int) -> Rungs | None:
        """Give each tenant a rung so that all fit: the lowest, then what saves most time per byte. None: no way."""
        key = tenants, capacity_bytes
        if key not in self._splits:
            self._splits[key] = _split(tenants, capacity_bytes)
        return self._splits[key]

    @staticmethod
    def fits(job: Tenant, tenants: Sequence[Tenant], capacity_bytes: int) -> bool:
        """Whether the job could join these, all of them as small as they can be."""
        needed_bytes = job.needs[0] + sum([tenant.needs[0] for tenant in tenants])
        return needed_bytes <= capacity_bytes and not (job.exclusive and tenants)

    def future(self, tenants: Tenants, capacity_bytes: int, expected: Tenants = ()) -> Future:
        """Follow the tenants to their ends; for each that ends, the first of `expected` that fits starts."""
        key = tenants, capacity_bytes, expected
        if key not in self._futures:
            self._futures[key] = self._follow(tenants, capacity_bytes, expected)
        return self._futures[key]

    def start_of(self, job: Tenant, tenants: Tenants, capacity_bytes: int) -> float:
        """Return the seconds until so many of the tenants have ended that the job fits; infinite if it never does."""
        present = {tenant.job_id: tenant for tenant in tenants}
        for seconds, job_id in ((0.0, job.job_id), *self.future(tenants, capacity_bytes).ends):
            present.pop(job_id, None)
            if self.fits(job, tuple(present.values()), capacity_bytes):
                return seconds
        return math.inf

    def _follow(self, tenants: Tenants, capacity_bytes: int, expected: Tenants) -> Future:
        present, left = list(tenants), [1.0] * len(tenants)  # and the share of its time that each has left
        starts = [tenant.starts_in for tenant in tenants]
        absent = list(expected)
        now, ends, started = 0.0, [], []
        while present:
            rungs = self.split(tuple(present), capacity_bytes)
            if rungs is None:
                return IMPOSSIBLE
            seconds = [tenant.seconds[rung] for tenant, rung in zip(present, rungs, strict=True)]
            busy = [tenant.utilisations[rung] for tenant, rung in zip(present, rungs, strict=True)]
            if not absent and len(present) == 1 and starts[0] <= now:  # the last has the device to itself
                ends.append((now + left[0] * seconds[0], present[0].job_id))
                break
            ended: list[int] = []
            while not ended:  # until then only starts change anything
                under_way = [number for number, start in enumerate(starts) if start <= now + _DONE]
                slow = slowdown(sum([busy[number] for number in under_way]), len(present))
                step = min(
                    [left[number] * seconds[number] * slow for number in under_way]
                    + [start - now for start in starts if start > now + _DONE]
                )
                now += step
                for number in under_way:
                    left[number] -= step / (slow * seconds[number])
                    if left[number] <= _DONE:
                        ended.append(number)
            for number in reversed(ended):
                ends.append((now, present.pop(number).job_id))
                del left[number], starts[number]
            for tenant in self._starters(absent, present, capacity_bytes, most=len(ended)):
                present.append(tenant)
                left.append(1.0)
                starts.append(now + tenant.starts_in)
                started.append((now, tenant.job_id))
        total = sum(seconds for seconds, _ in ends)
        return IMPOSSIBLE if absent else Future(ends=tuple(ends), starts=tuple(started), total_seconds=total)

    def _starters(
        self, absent: list[Tenant], present: Sequence[Tenant], capacity_bytes: int, *, most: int
    ) -> list[Tenant]:
        """Take out of `absent` the first that fit beside the present ones, so many at most."""
        starters: list[Tenant] = []
        for tenant in tuple(absent):
            if len(starters) < most and self.fits(tenant, [*present, *starters], capacity_bytes):
                absent.remove(tenant)
                starters.append(tenant)
        return starters


_DONE = 1e-9


def _split(tenants: Tenants, capacity_bytes: int) -> Rungs | None:
    rungs = [0] * len(tenants)
    free = capacity_bytes - sum(tenant.needs[0] for tenant in tenants)
    if free < 0:
        return None
    while True:
        best, best_gain, best_bytes = -1, 0.0, 0
        for number, tenant in enumerate(tenants):
            rung = rungs[number]
            if rung < len(tenant.gains) and tenant.gains[rung] > best_gain:
                more = tenant.needs[rung + 1] - tenant.needs[rung]
                if more <= free:
                    best, best_gain, best_bytes = number, tenant.gains[rung], more
        if best < 0:
            return tuple(rungs)
        rungs[best] += 1
        free -= best_bytes
