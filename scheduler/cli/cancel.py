"""`mmq cancel`: a request, which wins over any later start."""

import time
from typing import TYPE_CHECKING

import click

from scheduler.cli import context
from scheduler.cli.ids import in_short
from scheduler.cli.terminal import say

if TYPE_CHECKING:
    from scheduler.store.database import Writable
    from scheduler.store.records import Job


@click.command(name="cancel")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def command(jobs: tuple[str, ...]) -> None:
    """Cancel jobs. A waiting job ends at once; a running one is stopped, with all its processes."""
    from scheduler.store.jobs import request_cancel

    user = context.settings().user

    def verb(database: "Writable", job: "Job") -> "Job":
        return request_cancel(database, job.id, by=user, at=time.time())

    ending: list[int] = []
    ended: dict[str, list[int]] = {}
    for before, job in context.change(jobs, verb, last_first=True):
        if before.state.ended:
            ended.setdefault(job.state.value, []).append(job.id)
            continue
        click.echo(f"{job.id} {job.state.value if job.state.ended else 'cancelling'}")
        if not job.state.ended:
            ending.append(job.id)
    for state, ids in ended.items():
        say("note", f"{_named(ids)} had ended already: {state}")
    if ending:
        they = "saves and ends; it" if len(ending) == 1 else "save and end; they"
        say("note", f"{_named(ending)} {they} can go on from there", hint=f"mmq retry {in_short(ending)}")


def _named(ids: list[int]) -> str:
    return f"job {ids[0]}" if len(ids) == 1 else f"jobs {in_short(ids)}"
