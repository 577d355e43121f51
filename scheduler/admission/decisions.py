"""What an admission cycle may decide about a job. Every refusal has a code for machines and a sentence for people."""

from collections.abc import Mapping

from msgspec import Struct

from scheduler.admission.plan import Plan
from scheduler.footprint.curve import Candidate
from scheduler.jobs.states import EndReason, WaitCode


class Resize(Struct, frozen=True, kw_only=True, tag=True):
    """A running job is to go on with another micro-batch, from its next step."""

    job_id: int
    candidate: Candidate
    reserve_bytes: int  # on each of its devices
    limits: Mapping[str, int]  # by device id, bytes: what all reservations there may reach
    sentence: str


class Admit(Struct, frozen=True, kw_only=True, tag=True):
    """The job starts, as soon as those named have made room."""

    job_id: int
    device_ids: tuple[str, ...]
    plan: Plan
    limits: Mapping[str, int]  # by device id, bytes: what all reservations there may reach
    exclusive: bool = False
    shrinks: tuple[Resize, ...] = ()  # must have been acknowledged first
    preempts: tuple[int, ...] = ()  # jobs that must have saved and left first


class Wait(Struct, frozen=True, kw_only=True, tag=True, gc=False):
    job_id: int
    code: WaitCode
    sentence: str
    position: int | None = None  # in the order of the queue, from 1
    starts_in_seconds: float | None = None  # estimated, where anything is known


class Refuse(Struct, frozen=True, kw_only=True, tag=True):
    """It can never start: the job ends here."""

    job_id: int
    reason: EndReason
    sentence: str


Decision = Admit | Resize | Wait | Refuse
