"""Repairs what was lost between store and processes: messages, shims, boots. Decides nothing about memory.

Ends no attempt itself: what is dead is handed to an adopting shim, which reads the exit record, or finds the trainer
alive, or writes the attempt off as lost. So each end is written in one place, under the shim's own lock.
"""

from enum import StrEnum

from scheduler.controller.dispatch import Dispatch
from scheduler.jobs.states import AttemptState
from scheduler.periods import period
from scheduler.processes.liveness import same_process
from scheduler.store.records import Attempt

CLAIM_GRACE_SECONDS = period(16.0)  # from a worker's claim to its shim's first word; the adopting side waits for 15


class Remedy(StrEnum):
    NONE = "none"
    START = "start"  # no worker has claimed it: tell one
    ADOPT = "adopt"  # nobody looks after it


def reconcile(attempts: list[Attempt], dispatch: Dispatch, *, now: float) -> None:
    """Publish whatever a live attempt of this host needs."""
    dispatch.forget_all_but({attempt.id for attempt in attempts})
    for attempt in attempts:
        match remedy(attempt, now=now):
            case Remedy.START:
                dispatch.start(attempt)
            case Remedy.ADOPT:
                dispatch.adopt(attempt)


def remedy(attempt: Attempt, *, now: float) -> Remedy:
    """Say what an attempt that has not ended needs."""
    if attempt.state is AttemptState.ADMITTED:
        return Remedy.START
    if attempt.shim_pid is not None:
        alive = same_process(attempt.shim_pid, attempt.shim_started, attempt.boot_id)
        return Remedy.NONE if alive else Remedy.ADOPT
    since = now - (attempt.claimed_at or attempt.admitted_at)
    return Remedy.NONE if 0 <= since < CLAIM_GRACE_SECONDS else Remedy.ADOPT
