"""`mmq wait`: until jobs have ended."""

import click

from scheduler.cli import context


@click.command(name="wait")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@click.option("--timeout", metavar="TIME", help="Give up after this long, such as 90m, with exit code 1.")
def command(jobs: tuple[str, ...], timeout: str | None) -> int:
    """Wait until all the jobs have ended; exit code 0 only if all of them succeeded."""
    from scheduler.cli.ending import all_ended, parse_timeout, sentence, wait_for
    from scheduler.cli.servicecheck import note_if_down
    from scheduler.errors import ExitCode
    from scheduler.store.jobs import resolve

    seconds = parse_timeout(timeout)
    settings = context.settings()
    with context.store(settings) as database:
        job_ids = resolve(database, jobs)
        if not all_ended(database, job_ids):
            note_if_down(database, settings)
        ended = wait_for(database, job_ids, tell=lambda row: click.echo(sentence(row)), timeout_seconds=seconds)
    return int(ExitCode.OK if all(row["state"] == "succeeded" for row in ended) else ExitCode.FAILED)
