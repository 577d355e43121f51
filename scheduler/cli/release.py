"""`mmq release`."""

import time

import click

from scheduler.cli import context


@click.command(name="release")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def command(jobs: tuple[str, ...]) -> None:
    """Let held jobs start again."""
    from scheduler.store.jobs import release

    for _, job in context.change(jobs, lambda database, job: release(database, job.id, at=time.time())):
        click.echo(f"{job.id} {job.state.value}")
