"""`mmq logs`: what an attempt's training printed, and with -f what it prints from now on."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from scheduler.cli import context
from scheduler.cli.jobview import ENDED, remark
from scheduler.cli.logfile import LogFile
from scheduler.cli.servicecheck import note_if_down
from scheduler.cli.terminal import plain, say
from scheduler.errors import MmqError
from scheduler.processes.rotation import older
from scheduler.store.database import Database

Row = dict[str, Any]

PAUSE_SECONDS = 0.2
_JOB = (
    "SELECT jobs.id, jobs.state, jobs.reason, jobs.message, jobs.waiting, attempts.number"
    " FROM jobs LEFT JOIN attempts ON attempts.id = jobs.attempt_id WHERE jobs.id = :job_id"
)


@click.command(name="logs")
@click.argument("job", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Keep going until the job has ended, across its attempts.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="Attempt N; by default the latest.")
def command(job: str, follow: bool, attempt: int | None) -> None:
    """Show the log of the latest attempt of JOB."""
    from scheduler.store.jobs import resolve

    settings = context.settings()
    with context.read_store(settings, repeatedly=follow) as database:
        job_ids = resolve(database, [job])
        if len(job_ids) != 1:
            raise MmqError(f"{job} names {len(job_ids)} jobs; logs shows one at a time", hint=f"mmq logs {job_ids[0]}")
        job_id = job_ids[0]
        attempts = settings.run_dir(job_id) / "attempts"
        row = _job(database, job_id)
        if attempt is not None and not (attempts / str(attempt)).is_dir():
            raise MmqError(f"job {job_id} has no attempt {attempt}", hint=f"mmq status {job_id}")
        if follow and attempt is None:
            if row["state"] not in ENDED:
                note_if_down(database, settings)
            _follow(database, row, attempts)
        else:
            _show(row, attempts, attempt)


def _show(row: Row, attempts: Path, attempt: int | None) -> None:
    number = attempt or row["number"]
    parts = [] if number is None else _parts(attempts, number)
    if not sum(_print_all(path) for path in parts):
        say("note", f"job {row['id']} has printed nothing yet: it is {_why(row)}")


def _parts(attempts: Path, number: int) -> list[Path]:
    """An attempt's log, of which the older part was moved away if it grew too long."""
    path = attempts / str(number) / "log.txt"
    return [older(path), path]


def _print_all(path: Path) -> bool:
    with closing(LogFile(path)) as log:
        return _print(log.read())


def _follow(database: Database, row: Row, attempts: Path) -> None:
    """Print the log of the latest attempt and of each that comes after it, until the job has ended."""
    if row["number"] is None and row["state"] not in ENDED:
        say("note", f"job {row['id']} is {_why(row)}")
    number = row["number"] or 0
    while True:
        before, path = _parts(attempts, number)
        _print_all(before)
        with closing(LogFile(path)) as log:
            row = _follow_attempt(database, row["id"], number, log)
        if (row["number"] or 0) <= number:
            say("note", f"job {row['id']} {_why(row)}")
            return
        number += 1
        if number > 1:
            say("note", f"attempt {number} of job {row['id']}")


def _follow_attempt(database: Database, job_id: int, number: int, log: LogFile) -> Row:
    """Print an attempt's log until the job has ended or has a later attempt; return the job as it is then."""
    while True:
        row = _job(database, job_id)  # before the log is read: what was printed before an end is then all there
        _print(log.read())
        if (row["number"] or 0) > number or row["state"] in ENDED:
            return row
        time.sleep(PAUSE_SECONDS)


def _job(database: Database, job_id: int) -> Row:
    return database.query(_JOB, job_id=job_id)[0]


def _why(row: Row) -> str:
    why = remark(row)
    return f"{row['state']}: {why}" if why else str(row["state"])


def _print(chunks: Iterator[str]) -> bool:
    """Print unchanged into a file or pipe, without control characters on a terminal; return whether there was any."""
    out = sys.stdout
    terminal, any_text = out.isatty(), False
    for chunk in chunks:
        any_text = True
        out.write(plain(chunk) if terminal else chunk)
    out.flush()
    return any_text
