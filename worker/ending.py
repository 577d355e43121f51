"""From what was seen of an end to its record: exit.json first, then the store, then the doorbell.

Owns the record's form, which whoever comes after a dead shim reads back.
"""

import json
import os
import time
from typing import Any

import msgspec

from scheduler.broker.doorbell import ring
from scheduler.config import Settings
from scheduler.failpoints import failpoint
from scheduler.jobs.states import EndReason
from scheduler.processes.durable import write_durably
from scheduler.store.attempt_rows import PEAKS
from scheduler.store.records import Attempt, Outcome
from scheduler.store.run_records import read_end
from worker.classification import Ending, classify, code_of
from worker.progress import EventSummary
from worker.reporting import Reporter
from worker.rundir import RunDir
from worker.shimlog import log

_KEPT = ("micro_batch", "accumulation_steps")


def outcome_of(ending: Ending, summary: EventSummary) -> Outcome:
    reason, message = classify(ending)
    return Outcome(
        reason=reason,
        message=message,
        exit_code=code_of(ending),
        exit_signal=ending.exit.signal,
        rebooted=ending.rebooted and reason is EndReason.LOST,
        shortage=summary.shortage if reason is EndReason.OUT_OF_MEMORY else None,
        **{name: summary.numbers[name] for name in (*_KEPT, *PEAKS) if name in summary.numbers},
    )


def could_not_start(why: str) -> Outcome:
    return Outcome(reason=EndReason.COULD_NOT_START, message=why)


def recorded_outcome(run: RunDir, attempt: Attempt) -> Outcome | None:
    """What a shim wrote down of this very attempt before it died.

    Where an older copy of the store was put in its place, the record may be of another that had the number before.
    """
    end = read_end(run.exit)
    if end is None:
        return None
    return end.outcome if end.admitted_at in (None, attempt.admitted_at) else None


def conclude_seen(settings: Settings, run: RunDir, reporter: Reporter, ending: Ending, summary: EventSummary) -> None:
    """Write down the end of a trainer, and how far it came."""
    reporter.reached(summary.progress(), time.time())
    conclude(settings, run, reporter, outcome_of(ending, summary))


def conclude(settings: Settings, run: RunDir, reporter: Reporter, outcome: Outcome) -> None:
    """Write the end down where it outlives us, tell the store, and ring the controller."""
    ended_at = time.time()
    failpoint("finish.seen")
    known = {"attempt": run.number, "admitted_at": reporter.attempt.admitted_at}
    record: dict[str, Any] = {**known, **msgspec.to_builtins(outcome), "ended_at": ended_at}
    try:
        write_durably(run.exit, json.dumps(record, indent=2) + "\n")
    except OSError as error:  # the disk may be full, and the store still be writable
        log(f"can't write {run.exit}: {os.strerror(error.errno or 0)}")
    failpoint("finish.recorded")
    log(f"{outcome.reason}: {outcome.message}")
    if not reporter.finish(outcome, ended_at):
        log("the store can't be reached; the record stays in exit.json until a reconcile pass finds it")
    failpoint("finish.committed")
    ring(settings)
