"""`mmq hold`."""

import time

import click

from scheduler.cli import context


@click.command(name="hold")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def command(jobs: tuple[str, ...]) -> None:
    """Keep waiting jobs from starting until they are released."""
    from scheduler.store.jobs import hold

    for _, job in context.change(jobs, lambda database, job: hold(database, job.id, at=time.time())):
        click.echo(f"{job.id} {job.state.value}")
