"""`mmq events`: what happened, a line each with its cause, and with -f what happens from now on."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from scheduler.cli import context, eventview
from scheduler.cli.ending import all_ended
from scheduler.cli.servicecheck import note_if_down
from scheduler.cli.terminal import one_line, paint
from scheduler.store import eventlog
from scheduler.store.database import Database

Row = dict[str, Any]

SHOWN = 50
AT_ONCE = 1000
PAUSE_SECONDS = 0.5
_COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan"}


@click.command(name="events")
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Keep going; with JOB until all of them have ended.")
@click.option(
    "-n",
    "--last",
    metavar="N",
    type=click.IntRange(min=0),
    help=f"Begin with the last N; by default all of JOB, or the last {SHOWN}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(jobs: tuple[str, ...], follow: bool, last: int | None, as_json: bool) -> None:
    """Show the event log of all jobs, or of JOB: changes of state, admissions, requests, checkpoints and more."""
    settings = context.settings()
    most = last if last is not None else sys.maxsize if jobs else SHOWN
    with context.read_store(settings, repeatedly=follow) as database:
        ids = _resolved(database, jobs)
        if not follow:
            _print(eventlog.latest(database, ids, most=most), as_json)
            return
        note_if_down(database, settings)
        _follow(database, ids, most, as_json)


def _resolved(database: Database, refs: Sequence[str]) -> list[int] | None:
    if not refs:
        return None
    from scheduler.store.jobs import resolve

    return resolve(database, refs)


def _follow(database: Database, ids: list[int] | None, most: int, as_json: bool) -> None:
    with database.snapshot() as reader:
        seen, events = eventlog.newest(reader), eventlog.latest(reader, ids, most=most)
    _print(events, as_json)
    while True:
        done = ids is not None and all_ended(database, ids)  # before the log is read: the end is then in it
        while events := eventlog.after(database, seen, ids, most=AT_ONCE):
            _print(events, as_json)
            seen = events[-1]["id"]
        if done:
            return
        time.sleep(PAUSE_SECONDS)


def _print(events: Sequence[Row], as_json: bool) -> None:
    for event in map(eventview.as_json, events):
        click.echo(json.dumps(event) if as_json else _line(event))
    sys.stdout.flush()


def _line(event: Row) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    attempt = f" attempt {event['attempt']}" if event["attempt"] is not None else ""
    why = eventview.cause(event["detail"])
    what = paint(eventview.happened(event), _COLOURS.get(event["to_state"] or ""))
    return f"{at}  job {event['job_id']} ({one_line(event['name'])}){attempt}: {what}" + (f": {why}" if why else "")
