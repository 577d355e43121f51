"""What an admission cycle may decide about a job. Every refusal has a code for machines and a sentence for people."""

from dataclasses import dataclass

from scheduler.admission.plan import Plan
from scheduler.jobs.states import EndReason, WaitCode


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
