"""Which job a run directory belongs to. Ids begin again where a store was made anew, or an older copy was put in its
place, while the directories of the jobs that had them are still there: no job may take another's result for its own.

Owns the mark that a job leaves in its directory, and the renaming of another's.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from scheduler.processes.regular import read_regular
from scheduler.store import run_records
from scheduler.store.records import Job
from worker.process import evict
from worker.rundir import RECORD_BYTES, RunDir
from worker.untrusted_json import parse_object

MARK = run_records.JOB


def take_ownership(run: RunDir, job: Job, depends_on: Sequence[int], *, is_first_start: bool) -> Path | None:
    """Make the run directory. Another job's in its place is renamed first; return its new path."""
    aside = _set_aside(run) if _belongs_to_another(run, job, is_first_start) else None
    run.create()
    if not run_records.belongs_to(run.root, job):
        run_records.write_job(run.root, job, depends_on)
    return aside


def _belongs_to_another(run: RunDir, job: Job, is_first_start: bool) -> bool:
    try:
        mark = parse_object(read_regular(run.root / MARK, most_bytes=RECORD_BYTES)) or {}
        return bool((mark["id"], mark["submitted_at"]) != (job.id, job.submitted_at))
    except (OSError, ValueError, KeyError, TypeError):
        # Not marked: before a job's first start nothing there is its own, so whatever was trained is another's.
        return is_first_start and any(path.exists() for path in (run.events, run.checkpoints, run.final))


def _set_aside(run: RunDir) -> Path:
    """Rename the directory, once nobody is left who would go on writing under its old name."""
    for lock in (run.shim_lock, run.trainer_lock):
        evict(lock, grace_seconds=0)
    aside = run.root.with_name(f"{run.root.name}.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}")
    return run.root.rename(aside)
