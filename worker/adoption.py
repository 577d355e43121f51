"""Looking after an attempt whose shim is gone: adopt its trainer, or write down how it ended.

Decides by what is there: a record, a living trainer, its last words, or nothing. Runs in a new shim, which holds the
shim's lock, so there is only one.
"""

import contextlib
import os
import time

from scheduler.config import Settings
from scheduler.failpoints import failpoint
from scheduler.jobs.states import AttemptState
from scheduler.periods import period
from scheduler.processes.liveness import age_seconds, boot_id, process_started, same_process
from scheduler.processes.locks import holders
from scheduler.store import observations
from scheduler.store.opening import open_database
from scheduler.store.records import Attempt
from worker.classification import Ending, Exit
from worker.ending import conclude, conclude_seen, recorded_outcome
from worker.event_listener import EventListener
from worker.oomkiller import OomKiller
from worker.process import AdoptedProcess, evict
from worker.progress import NOTED
from worker.reporting import Reporter
from worker.rundir import RunDir
from worker.shimlog import log
from worker.supervision import Patience, Supervision
from worker.tail import Tail

START_PATIENCE_SECONDS = period(15.0)


def adopt(settings: Settings, attempt: Attempt, run: RunDir, reporter: Reporter, patience: Patience) -> None:
    """Take over from a dead shim; harmless if there is nothing to take over."""
    if attempt.state is AttemptState.ADMITTED or _just_claimed(attempt):
        log(f"attempt {attempt.id} is {attempt.state}: its start is still on the way")
        return
    outcome = recorded_outcome(run, attempt)
    if outcome is not None:
        failpoint("adoption.read")
        log("an earlier shim wrote the end down, and could not tell the store")
        conclude(settings, run, reporter, outcome)
        return
    reporter.alive(time.time())
    listener = EventListener(Tail(run.events, attempt.number), reporter, _noted_until(settings, attempt))
    process = living_trainer(attempt, run)
    if process is None:
        evict(run.trainer_lock, grace_seconds=0)
        failpoint("adoption.orphaned")
        ending = last_words(attempt, run, listener)
    else:
        failpoint("adoption.found")
        log(f"adopted trainer {process.pid}")
        reporter.started(process, time.time())
        supervision = Supervision(
            process=process,
            run=run,
            listener=listener,
            reporter=reporter,
            patience=patience,
            log_bytes=settings.run_log_bytes,
            ran_seconds=age_seconds(process.started),
        )
        ending = supervision.watch()
    conclude_seen(settings, run, reporter, ending, listener.summary)


def living_trainer(attempt: Attempt, run: RunDir) -> AdoptedProcess | None:
    """The attempt's trainer if it lives; also one that was started, and its shim killed before it could say so."""
    if same_process(attempt.pid, attempt.pid_started, attempt.boot_id):
        return AdoptedProcess.adopt(attempt.pid or 0, attempt.pid_started or 0)
    for pid in holders(run.trainer_lock):
        started = process_started(pid)
        with contextlib.suppress(ProcessLookupError):
            if started is not None and os.getpgid(pid) == pid:
                return AdoptedProcess.adopt(pid, started)
    return None


def last_words(attempt: Attempt, run: RunDir, listener: EventListener) -> Ending:
    """The end of a trainer that nobody saw end, by its own events."""
    listener.listen()
    rebooted = attempt.boot_id not in (None, boot_id())
    log(f"nobody is alive{', the host was rebooted' if rebooted else ''}; last word: {listener.summary.last}")
    result, oom_killer = run.read_result(), None
    if not rebooted and attempt.pid is not None and attempt.pid_started is not None:
        oom_killer = OomKiller(attempt.pid, attempt.pid_started).evidence()
    return Ending(
        exit=Exit(),
        last=listener.summary.last,
        result=result,
        result_exists=run.result_exists(),
        oom_killer=oom_killer,
        rebooted=rebooted,
    )


def _just_claimed(attempt: Attempt) -> bool:
    age_seconds = time.time() - (attempt.claimed_at or 0)
    return attempt.state is AttemptState.CLAIMED and 0 <= age_seconds < START_PATIENCE_SECONDS


def _noted_until(settings: Settings, attempt: Attempt) -> float | None:
    with contextlib.closing(open_database(settings, lean=True)) as database:
        return observations.noted_until(database, attempt, NOTED)
