"""`mmq status`: the jobs and devices at a glance, or everything about some jobs."""

import json
import sys
import time
from typing import Any

import click

from scheduler.cli import context, deviceview, jobview
from scheduler.cli.servicecheck import down_notice
from scheduler.cli.terminal import height, say, screenful
from scheduler.config import Settings
from scheduler.store import views
from scheduler.store.database import Database

REDRAW_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[J"


@click.command(name="status")
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.option(
    "--all", "everything", is_flag=True, help="Every job, not just those running, next in the queue or recently ended."
)
@click.option("--user", metavar="U", help="Only this user's jobs.")
@click.option("--state", metavar="S", type=click.Choice(jobview.STATES), help="Only jobs in this state.")
@click.option("--expand", is_flag=True, help="One line for every member of an array.")
@click.option("--watch", is_flag=True, help="Redraw every second until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    jobs: tuple[str, ...],
    everything: bool,
    user: str | None,
    state: str | None,
    expand: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Show jobs and devices; with JOB, its whole story: plan, attempts, events, memory peaks, why it waits, ETA."""
    settings = context.settings()
    expanded = expand or everything or state is not None or as_json
    filters = views.Filters(user=user, state=state, everything=everything, expanded=expanded)
    with context.read_store(settings, repeatedly=watch) as database:
        while True:
            text = _rendered(database, settings, jobs, filters, as_json=as_json)
            note = None if as_json else down_notice(database, settings)
            if watch and sys.stdout.isatty():
                text = _CLEAR + screenful(text, height() - (3 if note else 1))
            click.echo(text)
            if note:
                say("note", note.sentence, hint=note.hint)
            if not watch:
                return
            time.sleep(REDRAW_SECONDS)


def _rendered(
    database: Database, settings: Settings, refs: tuple[str, ...], filters: views.Filters, *, as_json: bool
) -> str:
    if refs:
        from scheduler.cli import jobdetail  # only for those who ask for it

        jobs = jobdetail.details(database, settings, refs)
        return json.dumps(jobdetail.as_json(jobs, devices(database))) if as_json else jobdetail.text(jobs)
    overview = views.overview(database, filters)
    shown = [jobview.as_json(row, settings) for row in overview.jobs]
    known_devices = devices(database)
    if as_json:
        return json.dumps({"jobs": shown, "devices": known_devices, "counts": overview.counts})
    shown_all = filters.everything or filters.state is not None
    arrays = {} if filters.expanded else overview.arrays
    table = jobview.jobs_table(shown, overview.counts, shown_all=shown_all, arrays=arrays)
    return f"{table}\n\n{deviceview.devices_table(known_devices)}"


def devices(database: Database) -> list[dict[str, Any]]:
    """The devices that are there, with who holds what."""
    holders = views.holders(database)
    return [deviceview.as_json(row, holders) for row in views.devices(database)]
