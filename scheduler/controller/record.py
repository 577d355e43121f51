"""The facts of the last cycle in a file of the home, so that its decision can be made again: by `mmq why`, by tests.

Written whole or not at all, when what was decided has changed, and once a minute. No pickle: JSON, with each footprint
once, however many jobs share it.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from scheduler.admission.cycle import decide
from scheduler.admission.decisions import Admit, Decision, Wait
from scheduler.admission.facts import DeviceView, QueuedJob, RunningJob, Untraced
from scheduler.footprint.curve import Footprint

AGAIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What `decide` was given, and what it said."""

    at: float  # since 1970
    jobs: tuple[QueuedJob, ...]
    running: tuple[RunningJob, ...]
    devices: tuple[DeviceView, ...]
    preemptions_left: float
    more_seconds: float  # the work of queued jobs that are not among these
    decisions: tuple[Decision, ...] = ()

    def decided(self) -> "Cycle":
        """Return the same cycle, with what the code of today decides."""
        found = decide(
            self.jobs,
            self.running,
            self.devices,
            preemptions_left=self.preemptions_left,
            more_seconds=self.more_seconds,
        )
        return replace(self, decisions=tuple(found))


@dataclass
class Recorder:
    """Writes what changed."""

    path: Path
    _last: object = None
    _at: float = field(default=0.0)

    def note(self, cycle: Cycle) -> None:
        """Write the cycle if it decided anything new; a disk that is full costs the record and nothing else."""
        essence = [_essence(decision) for decision in cycle.decisions]
        if essence == self._last and 0 <= cycle.at - self._at < AGAIN_SECONDS:
            return
        with contextlib.suppress(OSError):
            write(self.path, cycle)
            self._last, self._at = essence, cycle.at


def _essence(decision: Decision) -> object:
    if isinstance(decision, Wait):
        return decision.job_id, decision.code, decision.position
    if isinstance(decision, Admit):
        return decision.job_id, decision.device_ids, decision.plan.micro_batch, decision.preempts
    return decision


def write(path: Path, cycle: Cycle) -> None:
    known: dict[int, int] = {}
    footprints: list[Footprint] = []

    def place(one: Footprint | Untraced) -> int | Untraced:
        if isinstance(one, Untraced):
            return one
        if id(one) not in known:
            known[id(one)] = len(footprints)
            footprints.append(one)
        return known[id(one)]

    jobs = [
        _flat(job) | {"footprints": {name: place(one) for name, one in job.footprints.items()}} for job in cycle.jobs
    ]
    whole = _flat(cycle) | {"jobs": jobs, "footprints": footprints}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(whole))
    temporary.chmod(0o600)
    temporary.replace(path)


def read(path: Path) -> Cycle | None:
    """Read the record; None where there is none, or one of another version."""
    try:
        whole = msgspec.json.decode(path.read_bytes())
        footprints = [msgspec.convert(one, Footprint) for one in whole.pop("footprints")]
        jobs = tuple(_job(job, footprints) for job in whole.pop("jobs"))
        rest = msgspec.convert(whole, _Rest)
        return Cycle(jobs=jobs, **_flat(rest))
    except (OSError, KeyError, IndexError, TypeError, msgspec.MsgspecError):
        return None


def _job(row: dict[str, Any], footprints: list[Footprint]) -> QueuedJob:
    places: Mapping[str, Any] = row.pop("footprints")
    found = {
        name: footprints[one] if isinstance(one, int) else msgspec.convert(one, Untraced)
        for name, one in places.items()
    }
    job = msgspec.convert({**row, "footprints": {}}, _Bare, str_keys=True)
    return QueuedJob(**({one.name: getattr(job, one.name) for one in fields(QueuedJob)} | {"footprints": found}))


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """A cycle without its jobs."""

    at: float
    running: tuple[RunningJob, ...]
    devices: tuple[DeviceView, ...]
    preemptions_left: float
    more_seconds: float
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, kw_only=True)
class _Bare(QueuedJob):
    """A job read without its footprints, which are told apart by hand."""

    footprints: Mapping[str, Untraced]


def _flat(value: Any) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in fields(value)}
