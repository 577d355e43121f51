"""What becomes of a job when one of its attempts ends: one pure decision. No I/O, no clock.

The number of attempts is bounded, because each after the first costs something: an out-of-memory retry, a crash retry,
a stop that was requested, one of a few reboots, or progress to a step that no earlier attempt had reached.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from scheduler.jobs.means import Checkpointing, Sharding
from scheduler.jobs.states import EndReason, JobState

CRASHES = frozenset(
    {
        EndReason.EXIT_CODE,
        EndReason.KILLED,
        EndReason.LOST,
        EndReason.COULD_NOT_START,
        EndReason.HOST_OUT_OF_MEMORY,
        EndReason.DEVICE_LOST,
        EndReason.NO_RESULT,
    }
)


REBOOTS_FORGIVEN = 3  # of a job; one that brings the machine down each time has to end some day
OFFLOAD = "optimizer offload"
SHARDING = "more sharding"


Count = Annotated[int, Meta(ge=0, lt=1 << 62)] | None
Status = Annotated[int, Meta(ge=0, lt=256)] | None  # of a process: its exit code, or the signal that ended it


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """The refusal of device memory at which an attempt gave up, as its trainer reported it."""

    phase: str
    micro_batch: Count = None
    needed_bytes: Count = None  # the process would have shown at least so much
    limit_bytes: Count = None

    @property
    def is_of_states(self) -> bool:
        """Whether weights, gradients and optimizer were too much by themselves: no micro-batch changes that."""
        over = self.needed_bytes is not None and self.limit_bytes is not None and self.needed_bytes > self.limit_bytes
        return self.phase == "optimizer" or (self.phase == "outside steps" and over)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended, as whoever watched it saw it."""

    reason: EndReason
    message: str | None = None
    exit_code: Status = None
    exit_signal: Status = None
    micro_batch: Count = None  # the last in use
    accumulation_steps: Count = None
    measured_allocated_bytes: Count = None
    measured_reserved_bytes: Count = None
    measured_process_bytes: Count = None
    shortage: Shortage | None = None
    rebooted: bool = False  # the host, while it ran


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision looks at of the job."""

    out_of_memory_allowed: int
    crash_allowed: int
    out_of_memory_retries: int = 0  # used so far
    crash_retries: int = 0  # used so far
    reboots: int = 0  # that it went through so far
    micro_batch_limit: int | None = None
    cancel_requested: bool = False
    activation_checkpointing: str = "auto"  # what the job file says, as the line below
    optimizer_offload: str = "auto"
    spares_host: bool = False  # the host ran out of memory with the optimizer there
    shardings: tuple[Sharding, ...] = ("none",)  # that it allows


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision looks at of the attempt."""

    micro_batch: int
    activation_checkpointing: Checkpointing = "off"  # as it was planned
    optimizer_offload: bool = False
    sharding: Sharding = "none"
    stop_requested: bool = False
    progressed: bool = False  # it reached a step that no earlier attempt had
    processes: int = 1
    device_is_host: bool = False  # a CPU: the kernel's killing it for memory is the device's refusal


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The job's next state, and its counters from now on."""

    state: JobState
    micro_batch_limit: int | None
    out_of_memory_retries: int
    crash_retries: int
    message: str


def verdict(job: JobFacts, attempt: AttemptFacts, outcome: Outcome) -> Verdict:
    """Decide in this order: done stays done; a cancel wins over any retry; then each reason's own rule."""
    reason = outcome.reason
    message = outcome.message or f"ended: {reason.replace('_', ' ')}"
    if reason is EndReason.DONE:
        return _verdict(job, JobState.SUCCEEDED, message)
    if reason is EndReason.CANCELLED or job.cancel_requested:
        return _verdict(job, JobState.CANCELLED, message)
    if reason is EndReason.OUT_OF_MEMORY or (reason is EndReason.HOST_OUT_OF_MEMORY and attempt.device_is_host):
        return _after_out_of_memory(job, attempt, message, outcome.shortage)
    if reason is EndReason.STOPPED and (attempt.stop_requested or attempt.progressed):
        return _verdict(job, JobState.QUEUED, message)
    if reason is EndReason.HOST_OUT_OF_MEMORY:
        return _after_host_out_of_memory(job, attempt, message)
    if _is_forgiven(job, attempt, outcome):
        return _verdict(job, JobState.QUEUED, f"{message}; this does not count as a crash")
    if reason in CRASHES or reason is EndReason.STOPPED:
        return _after_crash(job, message)
    return _verdict(job, JobState.FAILED, message)


def _is_forgiven(job: JobFacts, attempt: AttemptFacts, outcome: Outcome) -> bool:
    """Whether it ended because the host rebooted, which is hardly the job's fault."""
    rebooted = outcome.rebooted and outcome.reason is EndReason.LOST
    return rebooted and (attempt.progressed or job.reboots < REBOOTS_FORGIVEN)


def means_left(job: JobFacts, attempt: AttemptFacts) -> tuple[str, ...]:
    """The means of saving memory that the job allows and the attempt did not use, in the order they are tried."""
    checkpointing, offload = attempt.activation_checkpointing, attempt.optimizer_offload
    more = "full activation checkpointing" if checkpointing == "selective" else "activation checkpointing"
    offered = (
        (more, job.activation_checkpointing, checkpointing == "full"),
        (OFFLOAD, job.optimizer_offload, offload or job.spares_host),
    )
    left = tuple(name for name, wish, used in offered if wish == "auto" and not used)
    return (*left, SHARDING) if attempt.sharding != job.shardings[-1] else left


def _after_out_of_memory(job: JobFacts, attempt: AttemptFacts, message: str, shortage: Shortage | None) -> Verdict:
    used, allowed = job.out_of_memory_retries, job.out_of_memory_allowed
    left = means_left(job, attempt)
    tried = f"{message}; out of memory at micro-batch {attempt.micro_batch}"
    if used >= allowed:
        return _verdict(job, JobState.FAILED, f"{tried}, and all {allowed} retries for out of memory are used up")
    limit = job.micro_batch_limit
    if shortage is not None and shortage.is_of_states:
        how = next((means for means in (SHARDING, OFFLOAD) if means in left), "more memory, where there is more")
    elif attempt.micro_batch <= 1 and not left:
        return _verdict(job, JobState.FAILED, f"{tried}, with nothing left to try: {_means_tried(job, attempt)}")
    else:
        halved = max(1, attempt.micro_batch // 2)
        limit = halved if limit is None else min(halved, limit)
        how = f"micro-batch {limit} at most" if attempt.micro_batch > 1 else left[0]
    return Verdict(
        state=JobState.QUEUED,
        micro_batch_limit=limit,
        out_of_memory_retries=used + 1,
        crash_retries=job.crash_retries,
        message=f"{tried}; retry {used + 1} of {allowed}, with {how}",
    )


def _means_tried(job: JobFacts, attempt: AttemptFacts) -> str:
    checkpointing, offload = attempt.activation_checkpointing, attempt.optimizer_offload
    tried = (
        ("activation checkpointing", job.activation_checkpointing, "" if checkpointing == "off" else checkpointing),
        (OFFLOAD, job.optimizer_offload, "on" if offload else ""),
    )
    if job.spares_host and not offload:
        tried = (tried[0], (OFFLOAD, job.optimizer_offload, "too much for the host"))
    phrases = [f"{name} was {used}" if used else f"{name} is {wish} in the job file" for name, wish, used in tried]
    return ", ".join([*phrases, f"sharding was {attempt.sharding}"] if attempt.sharding != "none" else phrases)


def _after_host_out_of_memory(job: JobFacts, attempt: AttemptFacts, message: str) -> Verdict:
    """Retry as after a crash, with the optimizer on the device where the job allows it; others may end meanwhile."""
    if attempt.optimizer_offload and job.optimizer_offload == "auto":
        return _after_crash(job, message, how=", without optimizer offload")
    after = _after_crash(job, message)
    if after.state is not JobState.FAILED:
        return after
    lighter = "memory.optimizer_offload: off, " if attempt.optimizer_offload else ""
    lighter += "fewer resources.gpus (each process holds the weights once), " if attempt.processes > 1 else ""
    remedy = f"{lighter}fewer jobs at once or a host with more memory would do"
    return msgspec.structs.replace(after, message=f"{after.message}; {remedy}")


def _after_crash(job: JobFacts, message: str, how: str = "") -> Verdict:
    used, allowed = job.crash_retries, job.crash_allowed
    if used >= allowed:
        return _verdict(job, JobState.FAILED, f"{message}; all {allowed} retries for crashes are used up")
    return Verdict(
        state=JobState.QUEUED,
        micro_batch_limit=job.micro_batch_limit,
        out_of_memory_retries=job.out_of_memory_retries,
        crash_retries=used + 1,
        message=f"{message}; retry {used + 1} of {allowed}{how}",
    )


def _verdict(job: JobFacts, state: JobState, message: str) -> Verdict:
    return Verdict(
        state=state,
        micro_batch_limit=job.micro_batch_limit,
        out_of_memory_retries=job.out_of_memory_retries,
        crash_retries=job.crash_retries,
        message=message,
    )
