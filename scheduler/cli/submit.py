"""`mmq submit`: check, store, ring. Once it exits with 0 the job is durable, whether or not anything else is up."""

import json
import sys
import time
from pathlib import Path

import click

from scheduler.cli import context
from scheduler.cli.terminal import say
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.processes.locks import lock_held
from scheduler.store.database import Database
from scheduler.store.records import Job


@click.command(name="submit", short_help="Check a job file, store the job, print its id.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "overrides", metavar="KEY.SUB=VALUE", multiple=True, help="Override a field of the file.")
@click.option("--name", help="The job's name; by default the file's.")
@click.option("--priority", metavar="N", help="Higher goes first; by default 0.")
@click.option("--after", metavar="JOB", multiple=True, help="Start only when JOB has succeeded.")
@click.option("--hold", is_flag=True, help="Store it held; `mmq release` lets it start.")
@click.option("--key", metavar="K", help="The same key again gives the same job, and stores nothing.")
@click.option("--wait", is_flag=True, help="Wait for its end; the exit code is then the job's own.")
@click.option("--dry-run", is_flag=True, help="Check only; store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Path,
    overrides: tuple[str, ...],
    name: str | None,
    priority: str | None,
    after: tuple[str, ...],
    hold: bool,
    key: str | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Check the job file FILE and its data, store the job, and print its id."""
    from scheduler.cli import intake
    from scheduler.store import jobs
    from scheduler.store.opening import open_if_any

    settings = context.settings()
    if key is not None and not dry_run and (known := _stored(settings, key)) is not None:
        _print(known, as_json=as_json)
        with context.store(settings) as database:
            return _wait(database, known.id) if wait else 0
    given = {"name": name, "priority": priority}
    overrides += tuple(f"--{field}={value}" for field, value in given.items() if value is not None)
    checked = intake.check(file, overrides, settings)
    if dry_run:
        with open_if_any(settings) as found:
            new = intake.new_job(checked, found, settings, after=after, hold=hold, key=key)
        click.echo(json.dumps(intake.dry_json(new)) if as_json else intake.dry_text(new, checked))
        return 0
    with context.store(settings, create=True) as database:
        new = intake.new_job(checked, database, settings, after=after, hold=hold, key=key)
        job = jobs.submit(database, new, at=time.time())
        _print(job, as_json=as_json)
        _announce(job.id, settings)
        return _wait(database, job.id) if wait else 0


def _stored(settings: Settings, key: str) -> Job | None:
    """The job that this key gave before: asked first, since its file and data may have changed since."""
    from scheduler.store import jobs
    from scheduler.store.opening import open_if_any

    with open_if_any(settings) as database:
        return None if database is None else jobs.by_key(database, key)


def _print(job: Job, *, as_json: bool) -> None:
    shown = {"id": job.id, "name": job.name, "state": job.state.value}
    try:
        click.echo(json.dumps(shown) if as_json else job.id)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MmqError(f"job {job.id} is stored, but can't be printed: {error.strerror}", hint="mmq status") from None


def _wait(database: Database, job_id: int) -> int:
    """Wait for the job's end, saying nothing on stdout; its own exit code."""
    from scheduler.cli.ending import exit_code, sentence, wait_for

    row = wait_for(database, [job_id], tell=lambda row: say("note", f"job {sentence(row)}"))[0]
    return exit_code(row)


def _announce(job_id: int, settings: Settings) -> None:
    """Ring the controller; warn if the job will have to wait for the service or the broker."""
    from scheduler.broker.doorbell import ring

    if not ring(settings):
        if lock_held(settings.service_lock):
            say("warning", f"job {job_id} is stored; the controller does not listen now, and will find it by itself")
        else:
            say("warning", f"job {job_id} is stored; the service is not running, so nothing starts yet", hint="mmq up")
        return
    from scheduler.broker.address import broker_address
    from scheduler.broker.reach import reachable

    if not reachable(settings):
        where = broker_address(settings).shown
        say("warning", f"job {job_id} is stored; the broker at {where} does not answer yet", hint="mmq doctor")
