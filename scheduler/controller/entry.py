"""What a person's own torch loop would need, without running it: for `mmq estimate --entry`. No service, no GPU needed.

Traces in a child and waits for it. Nothing is stored: the file may be another the next time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.admission.plan import margin_bytes
from scheduler.config import Settings
from scheduler.controller.place import Place, place_of
from scheduler.errors import MmqError, UsageError
from scheduler.footprint.context import context_bytes
from scheduler.footprint.tracer import trace_entry


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A function of a Python file, and what to call it with."""

    file: Path
    function: str
    settings: Mapping[str, Any]


def parse_entry(told: str, settings: tuple[str, ...]) -> Entry:
    """Read FILE.py:FUNCTION and NAME=VALUE settings; UsageError."""
    file, colon, function = told.rpartition(":")
    if not colon or not function.isidentifier():
        raise UsageError(f"{told!r} is not FILE.py:FUNCTION", hint="like --entry train.py:build")
    if not Path(file).is_file():
        raise UsageError(f"there is no file {file}", hint="like --entry train.py:build")
    return Entry(file=Path(file).resolve(), function=function, settings=dict(map(_setting, settings)))


def _setting(told: str) -> tuple[str, Any]:
    name, equals, value = told.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"{told!r} is not NAME=VALUE", hint="like --set batch=8")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def estimate_entry(entry: Entry, gpu: str | None, settings: Settings) -> dict[str, Any]:
    """Trace the loop for a GPU by name or size, or for the largest device here; MmqError if it can't be traced."""
    place = place_of(gpu, settings)
    capability = place.target.capability
    request = {
        "file": str(entry.file),
        "function": entry.function,
        "settings": dict(entry.settings),
        "capability": capability,
        "total_bytes": place.total_bytes,
        "context_bytes": context_bytes("cuda", capability),
    }
    answer = trace_entry(request)
    if answer.body is None:
        raise MmqError(answer.error or "the tracer gave no answer", hint="docs/any-loop.md says what a loop needs")
    return judged(json.loads(answer.body), entry, place)


def judged(told: Mapping[str, Any], entry: Entry, place: Place) -> dict[str, Any]:
    """Add the GPU and the verdict to what the tracer told."""
    need_bytes = told["process_bytes"] + margin_bytes("cuda", told["process_bytes"])
    return {
        "entry": f"{entry.file}:{entry.function}",
        "settings": dict(entry.settings),
        "gpu": place.as_json(),
        **told,
        "need_bytes": need_bytes,
        "fits": need_bytes <= place.total_bytes,
        "spare_bytes": place.total_bytes - need_bytes,
    }
