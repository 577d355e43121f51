"""What a scheduler may know of a simulated job: what it is told at submission, and what the first step shows.

Policies are handed these values and no `Job`: `alone_seconds` and `utilisation` can't be read from them. Before the
first step the length is the user's estimate, the utilisation a guess within 20 %; from the first step on the length is
known within 5 %, the utilisation as it is. Memory is known as it is, or within the error of footprints that was
asked for, and then more is reserved for that, until the first step has shown the peak.
"""

import math
import random
from dataclasses import dataclass, field
from functools import cached_property

from scheduler.admission.facts import Claim, QueuedJob, RunningJob
from scheduler.admission.pace import Pace
from scheduler.admission.plan import FIXED_COST_TOKENS
from scheduler.admission.wish import Wish, micro_batches
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.simulation.workload import Job

TARGET = "simulated"  # what names the footprint
KIND = "virtual"  # devices on which what is predicted is what is reserved

_LENGTH_ERROR = 0.05
_UTILISATION_ERROR = 0.2
_MODES = Modes()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is believed of a job's course at some time."""

    seconds: float  # of the whole job alone on a device, at its user's micro-batch
    utilisation: float
    footprint: Footprint

    @cached_property
    def candidates(self) -> dict[int, Candidate]:
        return {candidate.micro_batch: candidate for candidate in self.footprint.candidates}


@dataclass(frozen=True, kw_only=True)
class Told:
    """A job as it is submitted."""

    job_id: int
    user: str
    priority: int
    submit_seconds: float
    wish: Wish
    user_micro_batch: int
    overhead: float
    declared_bytes: int
    before: Seen  # the first step


@dataclass(kw_only=True, slots=True, eq=False)
class Known:
    """One job as a scheduler sees it now."""

    told: Told
    seen: Seen = field(init=False)
    measured: bool = False  # its first step has been seen
    done: float = 0.0  # share of its steps
    device: int | None = None
    micro_batch: int = 0
    given_bytes: int = 0  # its reservation, which it can't exceed
    started_at: float = math.inf  # of this attempt
    steps_at: float = math.inf  # when the first step of this attempt is due
    first_started_at: float | None = None
    ran_seconds: float = 0.0  # in earlier attempts
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.seen = self.told.before

    @property
    def job_id(self) -> int:
        return self.told.job_id

    @property
    def estimate_seconds(self) -> float:
        return self.told.before.seconds

    def bytes_at(self, micro_batch: int) -> int:
        """Return what is believed to be needed; the user's own micro-batch need not be a candidate."""
        return self.seen.candidates[micro_batch].process_bytes

    def pace(self) -> Pace:
        return Pace(
            seconds=self.seen.seconds * (1 - self.done),
            utilisation=self.seen.utilisation,
            micro_batch=self.told.user_micro_batch,
            overhead=self.told.overhead,
        )

    def queued(self, now: float, overuse: float = 1.0) -> QueuedJob:
        told = self.told
        return QueuedJob(
            job_id=told.job_id,
            wish=told.wish,
            footprints={TARGET: self.seen.footprint},
            pace=self.pace(),
            priority=told.priority,
            waited_seconds=now - told.submit_seconds - self.ran_seconds,
            overuse=overuse,
            resumes=self.preemptions > 0,
        )

    def running(self, now: float, device_id: str) -> RunningJob:
        told = self.told
        return RunningJob(
            job_id=told.job_id,
            device_ids=(device_id,),
            candidate=self.seen.candidates[self.micro_batch],
            ladder=self.seen.footprint.candidates,
            pace=self.pace(),
            priority=told.priority,
            starts_in_seconds=max(0.0, self.steps_at - now),
            preemptible=self.steps_at <= now,
        )

    def claim(self, now: float, reserved_bytes: int) -> Claim:
        held_bytes = reserved_bytes if self.steps_at <= now else 0
        return Claim(job_id=self.job_id, reserved_bytes=reserved_bytes, held_bytes=held_bytes)


class Oracle:
    """Turns the truth about jobs into what a scheduler may know of it, with errors drawn by seed and job."""

    def __init__(self, *, seed: int = 0, footprint_error: float = 0.0) -> None:
        self._seed = seed
        self._footprint_error = footprint_error

    def tell(self, job: Job) -> Told:
        draw = self._draw(job)
        before = Seen(
            seconds=job.estimate_seconds,
            utilisation=min(1.0, job.utilisation * _off(draw, _UTILISATION_ERROR)),
            footprint=_footprint(job, _off(draw, self._footprint_error) / (1 - self._footprint_error)),
        )
        return Told(
            job_id=job.job_id,
            user=job.user,
            priority=job.priority,
            submit_seconds=job.submit_seconds,
            wish=_wish(job),
            user_micro_batch=job.user_micro_batch,
            overhead=job.overhead,
            declared_bytes=job.declared_bytes,
            before=before,
        )

    def measure(self, job: Job) -> Seen:
        """Return what the first step shows."""
        seconds = job.alone_seconds * _off(self._draw(job, "measured"), _LENGTH_ERROR)
        return Seen(seconds=seconds, utilisation=job.utilisation, footprint=_footprint(job, 1.0))

    def _draw(self, job: Job, what: str = "told") -> random.Random:
        return random.Random(f"{self._seed} {job.job_id} {what}")


def _off(draw: random.Random, error: float) -> float:
    return draw.uniform(1 - error, 1 + error)


def _wish(job: Job) -> Wish:
    """Rows so long that a micro-step's fixed cost is the job's `overhead` in the planner's model too."""
    return Wish(
        effective_batch=job.effective_batch,
        max_seq_len=max(1, round(FIXED_COST_TOKENS / max(job.overhead, 0.01))),
    )


def _footprint(job: Job, factor: float) -> Footprint:
    sizes = micro_batches(job.effective_batch, min(job.user_micro_batch, job.effective_batch))
    return Footprint(
        candidates=tuple(_candidate(size, math.ceil(job.bytes_at(size) * factor)) for size in sizes),
        parameters=0,
        torch="",
    )


def _candidate(micro_batch: int, size_bytes: int) -> Candidate:
    return Candidate(
        micro_batch=micro_batch,
        modes=_MODES,
        allocated_bytes=size_bytes,
        reserved_bytes=size_bytes,
        process_bytes=size_bytes,
    )
