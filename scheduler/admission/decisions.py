"""What an admission cycle may decide about a job. Every refusal has a code for machines and a sentence for people."""

from dataclasses import dataclass
from enum import StrEnum

from scheduler.admission.plan import Plan
from scheduler.jobs.states import EndReason


class WaitCode(StrEnum):
    HELD = "held"  # by a person, until released
    CANCELLING = "cancelling"  # a cancel was asked for
    DEPENDENCY = "dependency"  # a job it comes after has not succeeded yet
    NO_DEVICE = "no_device"  # no device is known here
    DEVICE_ERROR = "device_error"  # the devices it fits on can't be read
    TRACING = "tracing"  # its footprint is being worked out
    MEMORY = "memory"  # not enough is free
    EXCLUSIVE = "exclusive"  # a device is in use by a job that shares with none, or the reverse
    KEPT = "kept"  # the room is kept for a job that has waited longer
    BEHIND = "behind"  # too far back in the queue to be looked at
    BROKER = "broker"  # admitted, but the worker could not be told yet


@dataclass(frozen=True, kw_only=True)
class Admit:
    job_id: int
    device_id: str
    plan: Plan
    limit_bytes: int  # of the device: what all reservations on it may reach
    exclusive: bool = False


@dataclass(frozen=True, kw_only=True)
class Wait:
    job_id: int
    code: WaitCode
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """It can never start: the job ends here."""

    job_id: int
    reason: EndReason
    sentence: str


Decision = Admit | Wait | Refuse
