"""`mmq cancel`: a request, which wins over any later start."""

import time
from typing import TYPE_CHECKING

import click

from scheduler.cli import context
from scheduler.cli.terminal import say

if TYPE_CHECKING:
    from scheduler.store.database import Writable
    from scheduler.store.records import Job


@click.command(name="cancel", short_help="Cancel jobs, waiting or running.")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def command(jobs: tuple[str, ...]) -> None:
    """Cancel jobs: one that waits at once; one that runs is stopped, with all its processes."""
    from scheduler.store.jobs import request_cancel

    user = context.settings().user

    def verb(database: "Writable", job: "Job") -> "Job":
        return request_cancel(database, job.id, by=user, at=time.time())

    for before, job in context.change(jobs, verb, last_first=True):
        if before.state.ended:
            say("note", f"job {job.id} had ended already: {job.state.value}")
        else:
            click.echo(f"{job.id} {job.state.value if job.state.ended else 'cancelling'}")
            if not job.state.ended:
                say("note", f"job {job.id} saves and ends; it can go on from there", hint=f"mmq retry {job.id}")
