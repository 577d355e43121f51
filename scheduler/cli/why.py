"""`mmq why`: the whole reasoning about a job, worked out again from the facts of the controller's last cycle."""

import json
import time

import click

from scheduler.cli import context
from scheduler.cli.terminal import one_line, paint
from scheduler.units import format_duration


@click.command(name="why")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Show why jobs wait or start: their place in the queue, each device, and what was weighed.

    The answer comes from the code that made the last decision.
    """
    from scheduler.admission.explaining import explain
    from scheduler.controller.record import read
    from scheduler.errors import MmqError
    from scheduler.store import jobs as stored

    settings = context.settings()
    cycle = read(settings.cycle_record)
    if cycle is None:
        raise MmqError("the controller has left no record of a cycle yet", hint="mmq up --detach")

    with context.read_store(settings) as database:
        named = [stored.get(database, job_id) for job_id in stored.resolve(database, jobs)]
    lines = {
        job.id: explain(
            job.id,
            cycle.jobs,
            cycle.running,
            cycle.devices,
            preemptions_left=cycle.preemptions_left,
            more_seconds=cycle.more_seconds,
        )
        or [f"it is {job.state.value}, and was not in the queue of that cycle"]
        for job in named
    }
    if as_json:
        document = [{"id": job.id, "state": job.state.value, "at": cycle.at, "lines": lines[job.id]} for job in named]
        click.echo(json.dumps({"jobs": document}))
        return
    age = format_duration(max(0.0, time.time() - cycle.at))
    for job in named:
        head = paint(f"job {job.id}  {one_line(job.name)}", "bold")
        click.echo(
            "\n".join(
                [f"{head}  ({job.state.value}; the cycle was {age} ago)", *(f"  {line}" for line in lines[job.id])]
            )
        )
