"""`mmq logs`: what an attempt's training printed, and with -f what it prints from now on."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from scheduler.cli import context
from scheduler.cli.jobview import ENDED, remark
from scheduler.cli.logfile import LogFile
from scheduler.cli.terminal import plain, say
from scheduler.errors import MmqError
from scheduler.store.database import Database

Row = dict[str, Any]

PAUSE_SECONDS = 0.2
_JOB = (
    "SELECT jobs.id, jobs.state, jobs.reason, jobs.message, jobs.waiting, attempts.number"
    " FROM jobs LEFT JOIN attempts ON attempts.id = jobs.attempt_id WHERE jobs.id = :job_id"
)


@click.command(name="logs", short_help="Show what a job's training printed.")
@click.argument("job", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, across its attempts.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="This attempt; by default the latest.")
def command(job: str, follow: bool, attempt: int | None) -> None:
    """Show the log of the latest attempt of JOB."""
    from scheduler.store.jobs import resolve

    settings = context.settings()
    with context.store(settings) as database:
        found = resolve(database, [job])
        if len(found) != 1:
            raise MmqError(f"{job} names {len(found)} jobs; logs shows one at a time", hint=f"mmq logs {found[0]}")
        attempts = settings.run_dir(found[0]) / "attempts"
        row = _job(database, found[0])
        if attempt is not None and not (attempts / str(attempt)).is_dir():
            raise MmqError(f"job {found[0]} has no attempt {attempt}", hint=f"mmq status {found[0]}")
        if follow and attempt is None:
            _follow(database, row, attempts)
        else:
            _show(row, attempts, attempt)


def _show(row: Row, attempts: Path, attempt: int | None) -> None:
    number = attempt or row["number"]
    shown = _print(LogFile(attempts / str(number) / "log.txt").read()) if number else False
    if not shown:
        say("note", f"job {row['id']} has printed nothing yet: it is {_why(row)}")


def _follow(database: Database, row: Row, attempts: Path) -> None:
    """Print each attempt's log from its beginning, the latest first, until the job has ended."""
    number = 0
    log: LogFile | None = None
    if row["number"] is None and row["state"] not in ENDED:
        say("note", f"job {row['id']} is {_why(row)}")
    while True:
        row = _job(database, row["id"])  # read before the log: what was printed before the end is then all there
        if log is not None:
            _print(log.read())
        if (row["number"] or 0) > number:
            if number:
                say("note", f"attempt {row['number']} of job {row['id']}")
            number = row["number"]
            log = LogFile(attempts / str(number) / "log.txt")
            continue
        if row["state"] in ENDED:
            say("note", f"job {row['id']} {_why(row)}")
            return
        time.sleep(PAUSE_SECONDS)


def _job(database: Database, job_id: int) -> Row:
    return database.query(_JOB, job_id=job_id)[0]


def _why(row: Row) -> str:
    why = remark(row)
    return f"{row['state']}: {why}" if why else str(row["state"])


def _print(chunks: Iterator[str]) -> bool:
    """Print as it is into a file or pipe, without control characters on a terminal; whether there was anything."""
    out = sys.stdout
    terminal, any_text = out.isatty(), False
    for chunk in chunks:
        any_text = True
        out.write(plain(chunk) if terminal else chunk)
    out.flush()
    return any_text
