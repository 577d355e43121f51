"""Whether the service attends to the queue, and what to say if not: what is shown is then old, waiting is in vain."""

import time
from pathlib import Path
from typing import NamedTuple

from scheduler.cli.terminal import say
from scheduler.config import Settings
from scheduler.processes.locks import lock_held
from scheduler.store import views
from scheduler.store.database import Database
from scheduler.store.location import sqlite_path
from scheduler.units import format_duration

SILENT_SECONDS = 60.0


class Notice(NamedTuple):
    sentence: str
    hint: str


def note_if_down(database: Database, settings: Settings) -> None:
    """Say so on stderr if jobs wait and no service attends to them."""
    if notice := down_notice(database, settings):
        say("note", notice.sentence, hint=notice.hint)


def down_notice(database: Database, settings: Settings) -> Notice | None:
    """What to say if jobs wait for a service that is not running, or whose controller is not."""
    if not views.unended(database):
        return None
    beats = [row["at"] for row in views.components(database) if row["component"].startswith("controller@")]
    age = time.time() - max(beats, default=0.0)
    heard = f"was last heard of {format_duration(age)} ago" if beats else "has never run"
    locks = [path for path in settings.service_locks() if lock_held(path)]
    if not locks and (sqlite_path(settings.database_url) is not None or age >= SILENT_SECONDS):
        return Notice(f"the service is not running, so nothing starts; it {heard}", "mmq up")
    if locks and age >= SILENT_SECONDS and time.time() - _taken_at(locks) >= SILENT_SECONDS:
        return Notice(f"the service runs, but its controller {heard}, so nothing starts", "mmq doctor")
    return None


def _taken_at(locks: list[Path]) -> float:
    from scheduler.service.lock import holder

    holders = [holder(path) for path in locks]
    return min((process.since for process in holders if process is not None), default=time.time())
