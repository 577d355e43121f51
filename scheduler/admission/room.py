"""A device within one cycle: who is on it, how much of it may still be promised, and to whom. Pure.

foreign   = used - what our processes hold          (never below 0)
available = total - sum over ours of max(reserved, held) - foreign
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from scheduler.admission.facts import Claim, DeviceView, RunningJob
from scheduler.admission.pace import slowdown
from scheduler.admission.policy import Policy
from scheduler.admission.tenant import Tenant, resident, stranger
from scheduler.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A job that is to start here first: who would delay it does not start."""

    tenant: Tenant
    starts_in: float  # seconds until it can, on all the devices that it needs
    why: str  # "which ..."


@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """A usable device; admissions of the cycle are added to it."""

    device: DeviceView
    claims: tuple[Claim, ...]
    foreign_bytes: int
    tenants: tuple[Tenant, ...] = ()  # one for each claim
    expected: tuple[Tenant, ...] = ()  # queued jobs that do best to start here, one for each that ends
    kept: Kept | None = None

    @cached_property
    def usable_bytes(self) -> int:
        """What is there once all of ours have ended."""
        return max(0, self.device.total_bytes - self.foreign_bytes)

    @cached_property
    def available_bytes(self) -> int:
        return max(0, self.usable_bytes - sum(claim.taken_bytes for claim in self.claims))

    @property
    def limit_bytes(self) -> int:
        """What all reservations together may reach, for the store to check once more as it commits."""
        return max(0, self.usable_bytes - sum(tenant.surplus_bytes for tenant in self.tenants))

    @cached_property
    def floor_bytes(self) -> int:
        """What its tenants need at their smallest."""
        return sum(tenant.needs[0] for tenant in self.tenants)

    @cached_property
    def load(self) -> tuple[float, int, str]:
        """What devices are compared by before anything costly is worked out: how busy, how full, and by name."""
        busy = sum(tenant.utilisations[tenant.rung or 0] for tenant in self.tenants)
        return slowdown(busy, len(self.tenants) + 1), self.usable_bytes - self.floor_bytes, self.device.device_id

    @cached_property
    def exclusive_to(self) -> int | None:
        return next((claim.job_id for claim in self.claims if claim.exclusive), None)

    @cached_property
    def newcomers(self) -> tuple[Tenant, ...]:
        return tuple(tenant for tenant in self.tenants if tenant.rung is None)

    def with_tenants(self, tenants: tuple[Tenant, ...], rungs: tuple[int, ...]) -> "Room":
        """Return the room with these tenants, each promised what it needs on its rung."""
        known = dict(zip(self.tenants, self.claims, strict=True))
        claims = []
        for tenant, rung in zip(tenants, rungs, strict=True):
            claim = known.get(tenant, Claim(job_id=tenant.job_id, reserved_bytes=0, exclusive=tenant.exclusive))
            claims.append(replace(claim, reserved_bytes=tenant.needs[rung] - tenant.surplus_bytes))
        return replace(self, claims=tuple(claims), tenants=tenants)

    def without(self, tenant: Tenant) -> "Room":
        """Return the room as if this one had left."""
        gone = self.tenants.index(tenant)
        return replace(
            self,
            claims=self.claims[:gone] + self.claims[gone + 1 :],
            tenants=self.tenants[:gone] + self.tenants[gone + 1 :],
        )

    @property
    def foreign(self) -> str:
        """Say what others' processes hold, and what more is left to them."""
        held = max(0, self.device.used_bytes - sum(claim.held_bytes for claim in self.device.claims))
        kept = f", and {format_bytes(self.foreign_bytes)} are set aside for them" if self.foreign_bytes > held else ""
        return f"processes that are not mmq's hold {format_bytes(held)}{kept}"

    @cached_property
    def description(self) -> str:
        """Say who has it: "GPU 0 has 7.1 GiB free, job 41 holds 12.0 GiB"."""
        if self.exclusive_to is not None:
            return f"job {self.exclusive_to} has {self.device.label} to itself"
        facts = [f"{self.device.label} has {format_bytes(self.available_bytes)} free"]
        facts += [f"job {claim.job_id} holds {format_bytes(claim.taken_bytes)}" for claim in self.claims]
        if self.foreign_bytes >= _WORTH_SAYING_BYTES:
            facts.append(self.foreign)
        return ", ".join(facts)


_WORTH_SAYING_BYTES = 64 * 1024**2


def room_of(device: DeviceView, running: Mapping[int, RunningJob], policy: Policy) -> Room:
    """Put together what is known of a device that has no problem."""
    ours = sum(claim.held_bytes for claim in device.claims)
    tenants = tuple(
        stranger(claim) if job is None else resident(job, claim, device.kind, elastic=policy.elastic)
        for claim in device.claims
        for job in (running.get(claim.job_id),)
    )
    foreign = max(device.foreign_bytes, device.used_bytes - ours, 0)
    return Room(device=device, claims=device.claims, foreign_bytes=foreign, tenants=tenants)
