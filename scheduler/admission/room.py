"""How much of a device may still be promised. Pure.

foreign   = used - what our processes hold          (never below 0)
available = total - sum over ours of max(reserved, held) - foreign
"""

from dataclasses import dataclass, replace

from scheduler.admission.facts import Claim, DeviceView
from scheduler.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class Room:
    """A usable device within one cycle; admissions of the cycle are added to its claims."""

    device: DeviceView
    claims: tuple[Claim, ...]
    foreign_bytes: int
    kept_for: int | None = None  # a job that has waited too long: nobody else may start here

    @property
    def usable_bytes(self) -> int:
        """What is there once all of ours have ended."""
        return max(0, self.device.total_bytes - self.foreign_bytes)

    @property
    def available_bytes(self) -> int:
        return max(0, self.usable_bytes - sum(claim.taken_bytes for claim in self.claims))

    @property
    def limit_bytes(self) -> int:
        """What all reservations together may reach, for the store to check once more as it commits."""
        beyond = sum(max(0, claim.held_bytes - claim.reserved_bytes) for claim in self.claims)
        return max(0, self.usable_bytes - beyond)

    @property
    def exclusive_to(self) -> int | None:
        return next((claim.job_id for claim in self.claims if claim.exclusive), None)

    def with_claim(self, claim: Claim) -> "Room":
        return replace(self, claims=(*self.claims, claim))

    def describe(self) -> str:
        """Say who has it: "GPU 0 has 7.1 GiB free, job 41 holds 12.0 GiB"."""
        if self.exclusive_to is not None:
            return f"job {self.exclusive_to} has {self.device.label} to itself"
        facts = [f"{self.device.label} has {format_bytes(self.available_bytes)} free"]
        facts += [f"job {claim.job_id} holds {format_bytes(claim.taken_bytes)}" for claim in self.claims]
        if self.foreign_bytes >= _WORTH_SAYING_BYTES:
            facts.append(f"processes that are not mmq's hold {format_bytes(self.foreign_bytes)}")
        return ", ".join(facts)


_WORTH_SAYING_BYTES = 64 * 1024**2


def room_of(device: DeviceView) -> Room:
    """Work out what the processes of others hold on a device that has no problem."""
    ours = sum(claim.held_bytes for claim in device.claims)
    return Room(device=device, claims=device.claims, foreign_bytes=max(0, device.used_bytes - ours))
