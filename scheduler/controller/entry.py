"""What a person's own torch loop would need, without running it: for `mmq estimate --entry`. No service, no GPU needed.

Traces in a child and waits for it. Nothing is stored: the file may be another the next time.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.admission.plan import margin_bytes
from scheduler.config import Settings
from scheduler.controller.place import Place, places_of
from scheduler.errors import MmqError, UsageError
from scheduler.footprint.context import context_bytes, nccl_bytes
from scheduler.footprint.loop import trace_loop
from scheduler.footprint.request import traced_as

COUNTERS = ("allocated_bytes", "reserved_bytes", "process_bytes", "least_bytes")

BRIEF = ("gpu", "fits", "need_bytes", "spare_bytes", "least_bytes", *COUNTERS[:3])  # of one of several devices


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A function of a Python file, and what to call it with."""

    file: Path
    function: str
    settings: Mapping[str, Any]
    python: str = sys.executable  # that the loop runs with: it has the loop's torch


def parse_entry(argument: str, settings: tuple[str, ...], python: str | None = None) -> Entry:
    """Read FILE.py:FUNCTION and NAME=VALUE settings; UsageError."""
    file, colon, function = argument.rpartition(":")
    if not colon or not function.isidentifier():
        raise UsageError(f"{argument!r} is not FILE.py:FUNCTION", hint="like --entry train.py:build")
    if not Path(file).is_file():
        raise UsageError(f"there is no file {file}", hint="like --entry train.py:build")
    named = dict(map(_setting, settings))
    return Entry(file=Path(file).resolve(), function=function, settings=named, python=python or sys.executable)


def _setting(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"{argument!r} is not NAME=VALUE", hint="like --set batch=8")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def estimate_entry(entry: Entry, gpus: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    """Trace the loop for each GPU by name or size, or for the devices here; MmqError if it can't be traced."""
    traces = Traces(entry)
    return [_on(traces, place) for place in places_of(gpus, settings)]


class Traces:
    """Of one loop: GPUs for which torch chooses alike share them, unless the loop itself asks which it is on."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._known: dict[tuple[object, ...], str] = {}

    def answer(self, place: Place, *, uneven: bool) -> dict[str, Any]:
        """Tell what it takes there, the context included."""
        capability = place.target.capability
        alike, same = (traced_as(capability), uneven), (capability, place.total_bytes, uneven)
        answer = self._known.get(alike) or self._known.get(same) or _traced(self.entry, place, uneven=uneven)
        estimate: dict[str, Any] = json.loads(answer)
        self._known[same if estimate.get("asks") else alike] = answer
        outside = context_bytes("cuda", capability) + nccl_bytes("cuda", capability, estimate.get("processes", 1))
        estimate |= {name: estimate[name] + outside for name in ("process_bytes", "least_bytes", "expandable_bytes")}
        estimate["parts"]["context"] = outside
        return estimate


def _on(traces: Traces, place: Place) -> dict[str, Any]:
    """Tell of one place; where a router's choices decide on sizes, for even and for uneven choices."""
    estimate = traces.answer(place, uneven=False)
    if estimate.get("routed"):
        uneven = traces.answer(place, uneven=True)
        estimate["routing"] = {
            "balanced": {name: estimate[name] for name in COUNTERS},
            "worst": {name: uneven[name] for name in COUNTERS},
        }
    return judged(estimate, traces.entry, place)


def _traced(entry: Entry, place: Place, *, uneven: bool) -> str:
    request = {
        "file": str(entry.file),
        "function": entry.function,
        "settings": dict(entry.settings),
        "capability": place.target.capability,
        "total_bytes": place.total_bytes,
        "uneven": uneven,
    }
    try:
        answer = trace_loop(request, python=entry.python)
    except OSError as error:
        raise UsageError(
            f"{entry.python} can't be started: {error.strerror}", hint="--python .venv/bin/python"
        ) from None
    if answer.body is None:
        raise MmqError(answer.error, hint=answer.hint or "docs/any-loop.md says what a loop needs")
    return answer.body


def judged(estimate: Mapping[str, Any], entry: Entry, place: Place) -> dict[str, Any]:
    """Add the GPU and the verdict to what the tracer says: by the worst routing, where there is one."""
    most = estimate.get("routing", {}).get("worst", estimate)
    process_bytes = max(estimate["process_bytes"], most["process_bytes"])
    need_bytes = process_bytes + margin_bytes("cuda", process_bytes)
    return {
        "entry": f"{entry.file}:{entry.function}",
        "settings": dict(entry.settings),
        "gpu": place.as_json(),
        **estimate,
        "need_bytes": need_bytes,
        "fits": need_bytes <= place.total_bytes,
        "spare_bytes": place.total_bytes - need_bytes,
    }
