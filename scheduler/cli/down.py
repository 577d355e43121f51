"""`mmq down`."""

import click

from scheduler.cli import context


@click.command(name="down")
@click.option("--stop-jobs", is_flag=True, help="Have running jobs save and stop first; they go back to the queue.")
def command(stop_jobs: bool) -> int:
    """Stop the service. Running jobs go on unless told otherwise, and are adopted by the next `mmq up`."""
    from scheduler.service.down import down

    return down(context.settings(), stop_jobs)
