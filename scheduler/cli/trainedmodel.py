"""A job's trained weights, and the trainer's small programs run on them: in a child, since torch is not loaded here."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scheduler.cli import context
from scheduler.cli.terminal import say
from scheduler.errors import ExitCode, MmqError
from scheduler.jobs.spec import JobSpec, decode
from scheduler.jobs.states import TrainerExit
from scheduler.processes.signalling import signal_name

_LAST_SECONDS = 2.0  # that an interrupted program has to clean up
_CODES = {
    TrainerExit.DONE: ExitCode.OK,
    TrainerExit.BAD_CONFIGURATION: ExitCode.USAGE,
    TrainerExit.BAD_DATA: ExitCode.USAGE,
}


class TrainedModel(NamedTuple):
    spec: JobSpec
    run_dir: Path


def find_trained_model(ref: str, command: str) -> TrainedModel:
    """Find the one job named, which must have weights; a note says so if they are not its final ones."""
    from scheduler.store import jobs

    settings = context.settings()
    with context.store(settings) as database:
        job_ids = jobs.resolve(database, [ref])
        if len(job_ids) != 1:
            raise MmqError(f"{ref} names {len(job_ids)} jobs; {command} takes one", hint=f"mmq {command} {job_ids[0]}")
        job = jobs.get(database, job_ids[0])
    run_dir = settings.run_dir(job.id)
    if not (run_dir / "final").is_dir():
        if not any((run_dir / "checkpoints").glob("step-*")):
            raise MmqError(f"job {job.id} has no weights yet: it is {job.state}", hint=f"mmq status {job.id}")
        say("note", f"job {job.id} has no result yet: it is {job.state}; this is its newest checkpoint")
    return TrainedModel(decode(job.spec), run_dir)


def run_program(module: str, arguments: Sequence[str], *, captures: bool = False) -> tuple[int, str]:
    """Run one of the trainer's programs on the CPU to its end; return our exit code and, if captured, its stdout.

    ^C reaches both processes: SIGINT starts out blocked in the program, until it is ready to end in order.
    """
    from scheduler.processes.interpreter import python_command, with_source

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the program begins with
    try:
        child = subprocess.Popen(
            python_command(f"trainer.{module}", *arguments),
            env=with_source(os.environ) | {"CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if captures else None,
            text=True,
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        output = child.communicate()[0] or ""
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LAST_SECONDS)
        child.kill()
        raise
    return _exit_code(module, child.returncode), output


def _exit_code(module: str, returned: int) -> int:
    """Translate the program's exit code; it has said itself what was wrong, unless something killed it."""
    if returned < 0:
        raise MmqError(f"trainer.{module} was killed by {signal_name(-returned)}", hint="mmq doctor")
    if returned == ExitCode.INTERRUPTED:
        return int(ExitCode.INTERRUPTED)
    return int(_CODES.get(returned, ExitCode.FAILED))
