"""`mmq submit`: check, store, ring. Once it exits with 0 the job is durable, whether or not anything else is up.

A sweep is checked whole before any of it is stored, and stored in one transaction.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli import context
from scheduler.cli.ids import in_short
from scheduler.cli.terminal import say
from scheduler.config import Settings
from scheduler.errors import MmqError, UsageError
from scheduler.failpoints import failpoint
from scheduler.processes.locks import lock_held
from scheduler.store.database import Database
from scheduler.store.records import Job

if TYPE_CHECKING:
    from scheduler.cli.submission import CheckedFile
    from scheduler.store.records import NewJob

_SYNCS_AT_ONCE = 32


@click.command(name="submit")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "overrides", metavar="KEY.SUB=VALUE", multiple=True, help="Override a field of the file.")
@click.option("--name", help="The job's name; by default the file's.")
@click.option("--priority", metavar="N", help="Higher goes first; by default 0.")
@click.option("--sweep", "sweeps", metavar="KEY.SUB=A,B", multiple=True, help="One job for each value: an array.")
@click.option("--after", metavar="JOB", multiple=True, help="Start only when JOB has succeeded.")
@click.option("--hold", is_flag=True, help="Store the job held; `mmq release` lets it start.")
@click.option("--key", metavar="K", help="Idempotency key: submitting it again prints the same job.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended; exit with its exit code.")
@click.option("--dry-run", is_flag=True, help="Check only; store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Path,
    overrides: tuple[str, ...],
    name: str | None,
    priority: str | None,
    sweeps: tuple[str, ...],
    after: tuple[str, ...],
    hold: bool,
    key: str | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Check the job file FILE and its data, store the job, and print its id; with --sweep an array of jobs."""
    from scheduler.cli import submission
    from scheduler.jobs.sweep import members
    from scheduler.store import jobs
    from scheduler.store.opening import open_if_any

    settings = context.settings()
    if key == "":  # a variable of a script that is not set, perhaps: all its jobs would be one
        raise UsageError("--key is empty", hint="name one, or leave --key out")
    if key is not None and not dry_run and (known := _stored(settings, key)) is not None:
        _print(known, as_json=as_json)
        with context.store(settings) as database:
            return _wait(database, known) if wait else 0
    given = {"name": name, "priority": priority}
    overrides += tuple(f"--{field}={value}" for field, value in given.items() if value is not None)
    variants = members(sweeps)
    checked = [submission.check(file, (*overrides, *variant), settings) for variant in variants]
    build = partial(_array, checked, variants, settings, after=after, hold=hold, key=key)
    if dry_run:
        with open_if_any(settings) as maybe_database:
            _print_dry(build(maybe_database), checked, is_array=bool(sweeps), as_json=as_json)
        return 0
    with context.store(settings, create=True) as database:
        new = build(database)
        at, is_taken = time.time(), partial(_has_directory, settings)
        if sweeps:
            stored = jobs.submit_array(database, new, at=at, is_taken=is_taken)
        else:
            stored = [jobs.submit(database, new[0], at=at, is_taken=is_taken)]
        failpoint("submit.committed")
        _create_run_dirs(settings, database, stored)
        _print(stored, as_json=as_json)
        failpoint("submit.printed")
        _announce(stored, settings)
        return _wait(database, stored) if wait else 0


def _print_dry(new: "Sequence[NewJob]", checked: "Sequence[CheckedFile]", *, is_array: bool, as_json: bool) -> None:
    from scheduler.cli import submission

    if not as_json:
        click.echo("\n".join(map(submission.dry_text, new, checked)))
        return
    documents = [submission.dry_json(job) for job in new]
    click.echo(json.dumps({"jobs": documents} if is_array else documents[0]))


def _array(
    checked: "Sequence[CheckedFile]",
    variants: Sequence[tuple[str, ...]],
    settings: Settings,
    database: Database | None,
    *,
    after: Sequence[str],
    hold: bool,
    key: str | None,
) -> "list[NewJob]":
    """Look up what each member refers to; only the first has the key, which stands for all."""
    from scheduler.cli.submission import new_job

    keys = [key, *[None] * (len(checked) - 1)]
    return [
        new_job(member, database, settings, after=after, hold=hold, key=own_key, variant=" ".join(variant) or None)
        for member, variant, own_key in zip(checked, variants, keys, strict=True)
    ]


def _stored(settings: Settings, key: str) -> list[Job] | None:
    """The jobs that this key gave before: asked first, since their file and data may have changed since."""
    from scheduler.store import jobs
    from scheduler.store.opening import open_if_any

    with open_if_any(settings) as database:
        known = None if database is None else jobs.by_key(database, key)
        return None if database is None or known is None else jobs.array_of(database, known)


def _has_directory(settings: Settings, job_id: int) -> bool:
    """Whether a number is another job's, which this database does not know."""
    with contextlib.suppress(OSError):  # `_create_run_dirs` will say so
        return settings.run_dir(job_id).exists()
    return False


def _create_run_dirs(settings: Settings, database: Database, stored: Sequence[Job]) -> None:
    """Make the run directories, with a record of each job: a store restored from an older copy can learn of them."""
    from scheduler.processes.durable import sync_directory
    from scheduler.store import run_records
    from scheduler.store.jobs import dependencies

    ids = [job.id for job in stored]
    try:
        settings.create_home()  # which the database may not lie in
        after = dependencies(database, ids)

        def create(job: Job) -> bool:
            return run_records.create(settings.run_dir(job.id), job, [parent for parent, _ in after.get(job.id, [])])

        for job, created in zip(stored, _concurrently(create, stored), strict=True):
            if not created:
                sentence = f"{settings.run_dir(job.id)} belongs to a job that the database does not know"
                say("warning", f"job {job.id} is stored; {sentence}", hint="mmq doctor")
        sync_directory(settings.jobs_dir)
    except (OSError, MmqError) as error:
        why = f"{settings.jobs_dir}: {error.strerror}" if isinstance(error, OSError) else str(error)
        what = f"job {ids[0]} is stored," if len(ids) == 1 else f"jobs {in_short(ids)} are stored, perhaps some of them"
        say("warning", f"{what} in the database alone: {why}", hint="mmq db backup")


def _concurrently(create: Callable[[Job], bool], stored: Sequence[Job]) -> Iterable[bool]:
    """Create many side by side: writes that wait for the disk at the same time are synced together."""
    if len(stored) == 1:
        return map(create, stored)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        return list(pool.map(create, stored))


def _print(stored: Sequence[Job], *, as_json: bool) -> None:
    first = stored[0]
    ids = [job.id for job in stored]
    shown = _shown(first) if first.array_id is None else {"array": first.array_id, "name": first.name, "ids": ids}
    if first.array_id is not None:
        shown["jobs"] = [_shown(job) | {"variant": job.variant} for job in stored]
    try:
        click.echo(json.dumps(shown) if as_json else in_short(ids))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MmqError(f"job {first.id} is stored, but can't be printed: {error.strerror}", hint="mmq status") from None


def _shown(job: Job) -> dict[str, Any]:
    return {"id": job.id, "name": job.name, "state": job.state.value}


def _wait(database: Database, stored: Sequence[Job]) -> int:
    """Wait for all to end, printing nothing on stdout; return the job's exit code, or the first bad one of an array."""
    from scheduler.cli.ending import exit_code, sentence, wait_for

    ids = [job.id for job in stored]
    rows = wait_for(database, ids, tell=lambda row: say("note", f"job {sentence(row)}"))
    return next((code for code in map(exit_code, rows) if code), 0)


def _announce(stored: Sequence[Job], settings: Settings) -> None:
    """Ring the controller; warn if what was stored will have to wait for the service or the broker."""
    from scheduler.broker.doorbell import ring

    alone = len(stored) == 1
    named = f"job {stored[0].id} is stored" if alone else f"jobs {in_short([job.id for job in stored])} are stored"
    if not ring(settings):
        if any(map(lock_held, settings.service_locks())):
            them = "it" if alone else "them"
            say("warning", f"{named}; the controller is not listening right now, but will find {them} by itself")
        else:
            say("warning", f"{named}; the service is not running, so nothing starts yet", hint="mmq up")
        return
    from scheduler.broker.address import broker_address
    from scheduler.broker.reach import reachable

    if not reachable(settings):
        say(
            "warning", f"{named}; the broker at {broker_address(settings).shown} does not answer yet", hint="mmq doctor"
        )
