"""Where waiting jobs stand and when they may start: what the controller's last cycle said, from its record."""

import json
import time
from typing import Any, NamedTuple

from scheduler.config import Settings
from scheduler.units import format_duration


class Outlook(NamedTuple):
    position: int | None  # in the order of the queue, from 1
    starts_in_seconds: float | None


UNKNOWN = Outlook(None, None)


def outlooks(settings: Settings) -> dict[int, Outlook]:
    """Read what was said of each job that waits; nothing where there is no record that can be read."""
    try:
        record = json.loads(settings.cycle_record.read_bytes())
        age = max(0.0, time.time() - record["at"])
        return {one["job_id"]: _of(one, age) for one in record["decisions"] if one["type"] == "Wait"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _of(wait: dict[str, Any], age: float) -> Outlook:
    starts_in = wait["starts_in_seconds"]
    return Outlook(wait["position"], None if starts_in is None else max(0.0, starts_in - age))


def in_words(outlook: Outlook) -> str | None:
    if outlook.position is None:
        return None
    start = outlook.starts_in_seconds
    when = "" if start is None else f", may start in about {format_duration(start)}"
    return f"number {outlook.position} in the queue{when}"
