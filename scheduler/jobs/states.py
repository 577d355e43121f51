"""The states of a job and of an attempt, why each ends, and which moves are legal.

    queued <-> held          held is queued, and not considered
    queued  -> admitted      memory is reserved, an attempt exists
    admitted -> running      its trainer has started
    running -> succeeded | failed | cancelled
    admitted, running -> queued      for another attempt
    queued, held, admitted -> failed | cancelled

Cancelling is a request, not a state. Why a job ended is an `EndReason`, and why it waits a `WaitCode`: neither is a
state. Pure values: no I/O.
"""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"  # waits for memory, a dependency, or its next attempt
    HELD = "held"  # queued, and not considered until released
    ADMITTED = "admitted"  # memory reserved, its attempt on the way to a worker
    RUNNING = "running"  # its trainer lives
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class AttemptState(StrEnum):
    ADMITTED = "admitted"  # reserved, not yet claimed by a worker
    CLAIMED = "claimed"  # one worker won it; the shim is on its way
    RUNNING = "running"  # the trainer has a pid
    ENDED = "ended"


class WaitCode(StrEnum):
    """Why a job waits, beside a sentence for people."""

    NEW = "new"  # not looked at yet
    REQUEUED = "requeued"  # an attempt ended, and another is to follow
    HELD = "held"  # by a person, until released
    CANCELLING = "cancelling"  # a cancel was asked for
    DEPENDENCY = "dependency"  # a job it comes after has not succeeded yet
    NO_DEVICE = "no_device"  # no device is known here
    DEVICE_ERROR = "device_error"  # the devices it fits on can't be read
    TRACING = "tracing"  # its footprint is being worked out
    MEMORY = "memory"  # not enough is free
    EXCLUSIVE = "exclusive"  # a device is in use by a job that shares with none, or the reverse
    KEPT = "kept"  # the room is kept for a job that has waited longer
    SHARING = "sharing"  # it has room, and all would be done sooner if it began later
    SHRINKING = "shrinking"  # a running job is making room for it
    PREEMPTING = "preempting"  # a running job saves and stops to make room for it
    USER_LIMIT = "user_limit"  # its user has as many running as one may
    BEHIND = "behind"  # too far back in the queue to be looked at
    BROKER = "broker"  # admitted, but the worker could not be told yet
    ERROR = "error"  # mmq itself failed on it; the others go on


class EndReason(StrEnum):
    """Why an attempt or a job ended."""

    DONE = "done"  # exit 0, and the result is there
    EXIT_CODE = "exit_code"  # a non-zero code without a meaning of its own
    OUT_OF_MEMORY = "out_of_memory"  # of the device: exit 80
    HOST_OUT_OF_MEMORY = "host_out_of_memory"  # the kernel's OOM killer
    NON_FINITE_LOSS = "non_finite_loss"  # exit 81
    KILLED = "killed"  # by a signal nobody here sent
    LOST = "lost"  # no process, no exit record: a reboot, a lost heartbeat
    COULD_NOT_START = "could_not_start"
    TIME_LIMIT = "time_limit"  # exit 82, or we stopped it
    BAD_CONFIGURATION = "bad_configuration"  # exit 2
    BAD_DATA = "bad_data"  # exit 3
    NO_RESULT = "no_result"  # exit 0, but no final weights
    DEVICE_LOST = "device_lost"
    DISK_FULL = "disk_full"
    DEPENDENCY_FAILED = "dependency_failed"
    DOES_NOT_FIT = "does_not_fit"  # on no device here, at the smallest plan
    STOPPED = "stopped"  # asked to stop after saving; goes back to the queue
    CANCELLED = "cancelled"  # asked by a person


MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.HELD, JobState.ADMITTED, JobState.FAILED, JobState.CANCELLED}),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.ADMITTED: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),  # by `mmq retry` alone
    JobState.CANCELLED: frozenset({JobState.QUEUED}),  # by `mmq retry` alone
}


class TrainerExit:
    """The trainer's exit codes: its contract with whoever starts it."""

    DONE = 0
    BAD_CONFIGURATION = 2
    BAD_DATA = 3
    STOPPED = 75  # saved first
    OUT_OF_MEMORY = 80
    NON_FINITE_LOSS = 81
    TIME_LIMIT = 82  # saved first
