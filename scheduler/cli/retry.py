"""`mmq retry`."""

import time

import click

from scheduler.cli import context


@click.command(name="retry")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def command(jobs: tuple[str, ...]) -> None:
    """Queue failed or cancelled jobs again; they go on from their last checkpoint."""
    from scheduler.store.jobs import retry

    for _, job in context.change(jobs, lambda database, job: retry(database, job.id, at=time.time())):
        click.echo(f"{job.id} {job.state.value}")
