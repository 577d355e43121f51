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


class Removal(NamedTuple):
    """What is removed of one job."""

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
        kept = pruning.needed(database, settings, chosen, forgetting=runs)
        jobs = [job for job in chosen if job.id not in kept]
        planned = [_removal(settings, job.id, job.name, checkpoints=checkpoints, runs=runs) for job in jobs]
        removals = [removal for removal in planned if removal.paths or runs]
        if not dry_run:
            removals = [removal for removal in removals if _remove(database, settings, removal, runs=runs)]
            pruning.forget_footprints(database, before=before)
            _empty_trash(settings)
    _print(removals, kept, dry_run=dry_run, as_json=as_json)


def _age_seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}", hint="write it like 30d, 12h or 0s") from None


def _removal(settings: Settings, job_id: int, name: str, *, checkpoints: bool, runs: bool) -> Removal:
    from scheduler.cli import cleanup

    root = settings.run_dir(job_id)
    if runs:
        paths = [root] if root.is_dir() else []
    else:
        paths = cleanup.all_checkpoints(root) if checkpoints else cleanup.superfluous(root)
    return Removal(job_id, name, paths, cleanup.size_bytes(paths))


def _remove(database: Database, settings: Settings, removal: Removal, *, runs: bool) -> bool:
    from scheduler.cli import cleanup
    from scheduler.store import pruning

    trash = settings.jobs_dir / cleanup.TRASH / f"{removal.job_id}-{os.getpid()}"
    with pruning.claimed(database, removal.job_id) as tx:
        if tx is None:
            return False  # retried since
        if removal.paths:
            cleanup.move_to_trash(removal.paths, trash)
        if runs:
            pruning.forget(tx, removal.job_id)
    return True


def _empty_trash(settings: Settings) -> None:
    from scheduler.cli import cleanup

    cleanup.empty_trash(settings.jobs_dir)


def _print(removals: list[Removal], kept: dict[int, str], *, dry_run: bool, as_json: bool) -> None:
    freed_bytes = sum(removal.size_bytes for removal in removals)
    if as_json:
        document: dict[str, Any] = {
            "dry_run": dry_run,
            "freed_bytes": freed_bytes,
            "jobs": [
                {"id": removal.job_id, "bytes": removal.size_bytes, "paths": list(map(str, removal.paths))}
                for removal in removals
            ],
            "kept": [{"id": job_id, "why": why} for job_id, why in sorted(kept.items())],
        }
        click.echo(json.dumps(document))
        return
    for removal in sorted(removals):
        names = ", ".join(path.name for path in removal.paths) or "its record"
        click.echo(f"{removal.job_id} {one_line(removal.name)}: {format_bytes(removal.size_bytes)} ({names})")
    click.echo(f"{'would free' if dry_run else 'freed'} {format_bytes(freed_bytes)} of {len(removals)} jobs")
    for job_id, why in sorted(kept.items()):
        say("note", f"job {job_id} stays as it is: {why}")
