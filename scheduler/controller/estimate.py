"""What a job would need and get on a device, without running it: for `mmq estimate`. No service, no GPU needed.

Reads the footprint cache and adds to it where a store exists; does not create one. Traces itself, and waits for it.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import msgspec

from scheduler.admission.plan import Plan, accumulation_steps, choose, need_bytes, smallest
from scheduler.admission.wish import Wish, wish_of
from scheduler.config import Settings
from scheduler.controller.footprints import Request, requests_for, stored
from scheduler.devices.catalogue import find
from scheduler.devices.choice import open_devices
from scheduler.errors import MmqError, UsageError
from scheduler.footprint.curve import Candidate, Footprint
from scheduler.footprint.request import Target
from scheduler.footprint.tracer import trace
from scheduler.jobs.spec import JobSpec
from scheduler.processes.locks import lock_held
from scheduler.store import footprints
from scheduler.store.database import Database
from scheduler.store.devices import DeviceFacts, list_devices
from scheduler.store.opening import open_if_any


@dataclass(frozen=True, kw_only=True)
class Place:
    """The device an estimate is for, empty."""

    name: str
    target: Target
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    place: Place
    wish: Wish
    footprint: Footprint
    plan: Plan | None  # None: it does not fit

    @property
    def shown(self) -> Candidate:
        """The candidate whose parts are told: the plan's, or the smallest of those that do not fit."""
        if self.plan is not None:
            return self.plan.candidate
        least = smallest(self.wish, self.footprint, self.place.target.kind)
        return least or min(self.footprint.candidates, key=lambda candidate: candidate.process_bytes)

    def need_bytes(self, candidate: Candidate) -> int:
        """Return what would be reserved: the prediction and its margin."""
        return need_bytes(self.place.target.kind, candidate)

    def fits(self, candidate: Candidate) -> bool:
        cap = min(self.place.total_bytes, self.wish.max_memory_bytes or self.place.total_bytes)
        return self.need_bytes(candidate) <= cap

    def as_json(self) -> dict[str, Any]:
        return {
            "gpu": {
                "name": self.place.name,
                "kind": self.place.target.kind,
                "total_bytes": self.place.total_bytes,
            },
            "plan": None if self.plan is None else self._row(self.plan.candidate),
            "reserve_bytes": None if self.plan is None else self.plan.reserve_bytes,
            "parts": dict(self.shown.parts),
            "candidates": [
                {**self._row(candidate), "parts": dict(candidate.parts), "fits": self.fits(candidate)}
                for candidate in self.footprint.candidates
            ],
            "effective_batch": self.wish.effective_batch,
            "max_memory_bytes": self.wish.max_memory_bytes,
            "parameters": self.footprint.parameters,
            "fits": self.plan is not None,
        }

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "micro_batch": candidate.micro_batch,
            "accumulation_steps": accumulation_steps(self.wish.effective_batch, candidate.micro_batch),
            **candidate.modes.as_json(),
            "allocated_bytes": candidate.allocated_bytes,
            "reserved_bytes": candidate.reserved_bytes,
            "process_bytes": candidate.process_bytes,
        }


def estimate(spec: JobSpec, gpu: str | None, settings: Settings) -> Estimate:
    """Estimate a job on a GPU by name or size, or on the largest device of this host.

    Raises UsageError for a GPU that is not known, MmqError where the footprint can't be traced.
    """
    place = _named(gpu) if gpu else _here(settings)
    wish = wish_of(spec)
    footprint = _footprint(spec, wish, place.target, settings)
    plan = choose(
        wish,
        footprint,
        place.target.kind,
        available_bytes=place.total_bytes,
        usable_bytes=place.total_bytes,
    )
    return Estimate(place=place, wish=wish, footprint=footprint, plan=plan)


def _named(gpu: str) -> Place:
    entry = find(gpu)
    target = Target(kind="cuda", capability=entry.capability)
    return Place(name=entry.name, target=target, total_bytes=entry.total_bytes)


def _here(settings: Settings) -> Place:
    infos = _served(settings) or _found(settings)
    if not infos:
        raise UsageError("there is no device here to estimate for", hint="mmq estimate FILE --gpu 24GiB")
    largest = max(infos, key=lambda info: info.total_bytes)
    target = Target(kind=largest.kind, capability=largest.capability)
    name = f"{largest.kind}:{largest.number} ({largest.name})"
    return Place(name=name, target=target, total_bytes=largest.total_bytes)


def _served(settings: Settings) -> Sequence[DeviceFacts]:
    """Return what a running service works with, which may not be what this environment says."""
    if not lock_held(settings.service_lock):
        return []
    with open_if_any(settings) as db:
        known = list_devices(db) if db is not None else []
    return [device for device in known if device.present and device.host == settings.host]


def _found(settings: Settings) -> Sequence[DeviceFacts]:
    with closing(open_devices(settings.devices, settings)) as devices:
        return devices.discover()


def _footprint(spec: JobSpec, wish: Wish, target: Target, settings: Settings) -> Footprint:
    first, *others = requests_for(spec, wish, target)
    with open_if_any(settings) as db:
        footprint = _traced(first, db)
        for request in others:
            footprint = footprint.joined(_traced(request, db))
        return footprint


def _traced(request: Request, db: Database | None) -> Footprint:
    known = stored(db, request.key) if db is not None else None
    if known is not None:
        return known
    answer = trace(request.key, request.body)
    if answer.body is None:
        raise MmqError(answer.error or "the tracer gave no answer", hint="mmq doctor")
    if db is not None:
        footprints.put(db, request.key, answer.body, at=time.time())
    return Footprint.from_json(msgspec.json.decode(answer.body))
