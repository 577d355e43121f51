"""`mmq clean`: room made by what ended jobs leave behind; never what a later job needs."""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import click

from scheduler.cli import context
from scheduler.cli.terminal import one_line, say
from scheduler.config import Settings
from scheduler.errors import UsageError
from scheduler.store.database import Database
from scheduler.units import format_bytes, parse_duration


class Share(NamedTuple):
    """What goes of one job."""

    job_id: int
    name: str
    paths: list[Path]
    size_bytes: int


@click.command(name="clean")
@click.option(
    "--older-than", metavar="TIME", default="30d", help="Only jobs that ended at least this long ago; by default 30d."
)
@click.option(
    "--keep-last", metavar="N", type=click.IntRange(min=0), default=0, help="Leave the last N that ended alone."
)
@click.option("--checkpoints", is_flag=True, help="Remove all checkpoints, even the last and the best.")
@click.option(
    "--runs", is_flag=True, help="Remove whole run directories, results included, and the records of the jobs."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(older_than: str, keep_last: int, checkpoints: bool, runs: bool, dry_run: bool, as_json: bool) -> None:
    """Remove superfluous checkpoints and half-written files of your own ended jobs.

    Of each job the last and the best checkpoint stay, unless an option says otherwise.
    """
    from scheduler.store import pruning

    if checkpoints and runs:
        raise UsageError("--runs takes the checkpoints too", hint="mmq clean --runs --dry-run")
    settings = context.settings()
    before = time.time() - _age_seconds(older_than)
    with context.store(settings) as database:
        chosen = pruning.candidates(database, settings.user, pruning.Policy(before, keep_last))
        stay = pruning.needed(database, settings, chosen, forgetting=runs)
        going = [one for one in chosen if one.id not in stay]
        shares = [_share(settings, one.id, one.name, checkpoints=checkpoints, runs=runs) for one in going]
        gone = [share for share in shares if share.paths or runs]
        if not dry_run:
            gone = [share for share in gone if _remove(database, settings, share, runs=runs)]
            pruning.forget_footprints(database, before=before)
            _empty(settings)
    _tell(gone, stay, dry_run=dry_run, as_json=as_json)


def _age_seconds(told: str) -> float:
    try:
        return parse_duration(told)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}", hint="write it like 30d, 12h or 0s") from None


def _share(settings: Settings, job_id: int, name: str, *, checkpoints: bool, runs: bool) -> Share:
    from scheduler.cli import cleanup

    root = settings.run_dir(job_id)
    if runs:
        paths = [root] if root.is_dir() else []
    else:
        paths = cleanup.all_checkpoints(root) if checkpoints else cleanup.superfluous(root)
    return Share(job_id, name, paths, cleanup.size_bytes(paths))


def _remove(database: Database, settings: Settings, share: Share, *, runs: bool) -> bool:
    from scheduler.cli import cleanup
    from scheduler.store import pruning

    trash = settings.jobs_dir / cleanup.TRASH / f"{share.job_id}-{os.getpid()}"
    with pruning.claimed(database, share.job_id) as tx:
        if tx is None:
            return False  # retried since
        if share.paths:
            cleanup.move_to_trash(share.paths, trash)
        if runs:
            pruning.forget(tx, share.job_id)
    return True


def _empty(settings: Settings) -> None:
    from scheduler.cli import cleanup

    cleanup.empty_trash(settings.jobs_dir)


def _tell(gone: list[Share], stay: dict[int, str], *, dry_run: bool, as_json: bool) -> None:
    freed = sum(share.size_bytes for share in gone)
    if as_json:
        told: dict[str, Any] = {
            "dry_run": dry_run,
            "freed_bytes": freed,
            "jobs": [{"id": one.job_id, "bytes": one.size_bytes, "paths": list(map(str, one.paths))} for one in gone],
            "kept": [{"id": job_id, "why": why} for job_id, why in sorted(stay.items())],
        }
        click.echo(json.dumps(told))
        return
    for share in sorted(gone):
        names = ", ".join(path.name for path in share.paths) or "its record"
        click.echo(f"{share.job_id} {one_line(share.name)}: {format_bytes(share.size_bytes)} ({names})")
    click.echo(f"{'would free' if dry_run else 'freed'} {format_bytes(freed)} of {len(gone)} jobs")
    for job_id, why in sorted(stay.items()):
        say("note", f"job {job_id} stays as it is: {why}")
