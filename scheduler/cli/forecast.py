"""Where waiting jobs stand and when they may start: what the controller's last cycle said, from its record."""

import json
import time
from typing import Any, NamedTuple

from scheduler.config import Settings
from scheduler.units import format_duration


class Forecast(NamedTuple):
    position: int | None  # in the order of the queue, from 1
    starts_in_seconds: float | None


UNKNOWN = Forecast(None, None)


def forecasts(settings: Settings) -> dict[int, Forecast]:
    """Read the forecast of each waiting job; none where there is no record that can be read."""
    try:
        record = json.loads(settings.cycle_record.read_bytes())
        age = max(0.0, time.time() - record["at"])
        waits = [decision for decision in record["decisions"] if decision["type"] == "Wait"]
        return {wait["job_id"]: _forecast(wait, age) for wait in waits}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _forecast(wait: dict[str, Any], age: float) -> Forecast:
    starts_in = wait["starts_in_seconds"]
    return Forecast(wait["position"], None if starts_in is None else max(0.0, starts_in - age))


def in_words(forecast: Forecast) -> str | None:
    if forecast.position is None:
        return None
    start = forecast.starts_in_seconds
    when = "" if start is None else f", may start in about {format_duration(start)}"
    return f"number {forecast.position} in the queue{when}"
