"""What a job would need and get on a device, without running it: for `mmq estimate`. No service, no GPU needed.

Reads the footprint cache in the store and adds to it, for which a store is made where there is none. Traces itself, and
waits for it.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Any

import msgspec

from scheduler.admission.plan import Plan, accumulation_steps, choose, need_bytes, smallest
from scheduler.admission.wish import Wish, wish_of
from scheduler.config import Settings
from scheduler.controller import corrections
from scheduler.controller.footprints import Request, requests_for, stored
from scheduler.controller.place import Place, places_of
from scheduler.errors import MmqError
from scheduler.footprint.context import context_bytes, nccl_bytes
from scheduler.footprint.curve import Candidate, Footprint
from scheduler.footprint.request import Target, trace_request
from scheduler.footprint.tracer import TIME_LIMIT_SECONDS, trace
from scheduler.jobs.spec import JobSpec
from scheduler.store import footprints as kept_footprints
from scheduler.store.database import Database
from scheduler.store.location import sqlite_path
from scheduler.store.opening import open_database, read_if_possible

MOST_WORKERS = 4  # processes of a trace that a person waits for, each a core and some hundred MB


@dataclass(frozen=True, kw_only=True)
class Estimate:
    place: Place
    wish: Wish
    footprint: Footprint
    plan: Plan | None  # None: it does not fit
    processes: int = 1  # that train one model together; the footprint is of one
    correction_bytes: int = 0  # added to each candidate for what earlier attempts took here

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

    def brief(self) -> dict[str, Any]:
        """Tell the verdict alone, for one of several devices."""
        return {
            "gpu": self.place.as_json(),
            "fits": self.plan is not None,
            "plan": None if self.plan is None else self._row(self.plan.candidate),
            "reserve_bytes": None if self.plan is None else self.plan.reserve_bytes,
            "least_bytes": self.need_bytes(self.shown),
            "max_memory_bytes": self.wish.max_memory_bytes,
            "knee": self._knee(),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "gpu": self.place.as_json(),
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
            "knee": self._knee(),
            "explain": self._explain(),
        }

    def _knee(self) -> dict[str, int] | None:
        """Tell the chosen micro-batch, and the largest that fits with the same means."""
        if self.plan is None:
            return None
        fitting = [c.micro_batch for c in self.footprint.candidates if c.modes == self.plan.modes and self.fits(c)]
        return {"micro_batch": self.plan.micro_batch, "largest": max([self.plan.micro_batch, *fitting])}

    def _explain(self) -> dict[str, Any]:
        """Tell what the figures rest on beside the trace."""
        target, processes = self.place.target, self.processes
        return {
            "torch": self.footprint.torch,
            "capability": target.capability,
            "context_bytes": context_bytes(target.kind, target.capability, processes),
            "nccl_bytes": nccl_bytes(target.kind, target.capability, processes),
            "correction_bytes": self.correction_bytes,
            "margin_bytes": self.need_bytes(self.shown) - self.shown.process_bytes,
        }

    def _row(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "micro_batch": candidate.micro_batch,
            "accumulation_steps": accumulation_steps(self.wish.rows, candidate.micro_batch),
            **candidate.modes.as_json(),
            "allocated_bytes": candidate.allocated_bytes,
            "reserved_bytes": candidate.reserved_bytes,
            "process_bytes": candidate.process_bytes,
        }


def estimates(spec: JobSpec, gpus: Sequence[str], settings: Settings) -> list[Estimate]:
    """Estimate a job on each GPU named, by name or size, or on each kind of device of this host, the largest first.

    Raises UsageError for a GPU that is not known, MmqError where the footprint can't be traced.
    """
    wish = wish_of(spec)
    answers: dict[str, str] = {}  # by key: GPUs that the tracer knows no difference between share them
    footprints: dict[Target, tuple[Footprint, int]] = {}
    found = []
    for place in places_of(gpus, settings):
        target = place.target
        if target not in footprints:
            footprint = _footprint(requests_for(spec, wish, target), settings, answers)
            correction_bytes = 0 if gpus else _correction_bytes(spec, wish, target, footprint, settings)
            footprints[target] = footprint.raised(correction_bytes), correction_bytes
        found.append(replace(_on(place, wish, *footprints[target]), processes=spec.resources.gpus))
    return found


def _on(place: Place, wish: Wish, footprint: Footprint, correction_bytes: int) -> Estimate:
    plan = choose(
        wish,
        footprint,
        place.target.kind,
        available_bytes=place.total_bytes,
        usable_bytes=place.total_bytes,
    )
    return Estimate(place=place, wish=wish, footprint=footprint, plan=plan, correction_bytes=correction_bytes)


def _correction_bytes(spec: JobSpec, wish: Wish, target: Target, footprint: Footprint, settings: Settings) -> int:
    """Return what earlier attempts on this machine add."""
    key = requests_for(spec, wish, target)[0].key

    def read(db: Database) -> int:
        return corrections.read(db, settings.host, target).bytes_for(key, footprint)

    return read_if_possible(settings, read) or 0


def course(spec: JobSpec, estimate: Estimate) -> list[dict[str, Any]]:
    """Trace the candidate that the estimate shows once more, for the course of its memory over a step; MmqError."""
    shown = estimate.shown
    body = trace_request(spec, estimate.place.target, modes=[shown.modes], micro_batches=[shown.micro_batch])
    answer = trace("", body | {"course": True})
    if answer.body is None:
        raise MmqError(answer.error or "the tracer gave no answer", hint="mmq doctor")
    found: list[dict[str, Any]] = msgspec.json.decode(answer.body)["candidates"][0]["course"]
    return found


def _footprint(requests: Sequence[Request], settings: Settings, answers: dict[str, str]) -> Footprint:
    """Join the stages: from the store, from `answers`, or traced now, all by one child, and noted in both."""

    def read(db: Database) -> dict[str, Footprint]:
        return {one.key: footprint for one in requests if (footprint := stored(db, one))}

    known = read_if_possible(settings, read) or {}
    traced = dict(_traced([one for one in requests if one.key not in known and one.key not in answers]))
    if traced:
        _keep(traced, settings)
    answers |= traced
    return reduce(Footprint.joined, [known.get(one.key) or one.footprint(answers[one.key]) for one in requests])


def _keep(traced: Mapping[str, str], settings: Settings) -> None:
    """Note what was traced for the next time; where that can't be, the estimate is as good without.

    A file is made for it where there is none; the schema of a database server is left to `mmq up`.
    """
    mine = sqlite_path(settings.database_url) is not None
    with suppress(MmqError, OSError), closing(open_database(settings, lean=True, create=mine)) as db:
        for key, answer in traced.items():
            kept_footprints.put(db, key, answer, at=time.time())


def _traced(requests: Sequence[Request]) -> Iterator[tuple[str, str]]:
    """Ask once for all stages, which costs less than one by one, and give each its part of the answer."""
    if not requests:
        return
    modes = [mode for one in requests for mode in one.body["modes"]]
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    body = requests[0].body | {"modes": modes, "workers": workers}
    answer = trace(requests[0].key, body, time_limit_seconds=TIME_LIMIT_SECONDS * len(requests))
    if answer.body is None:
        raise MmqError(answer.error or "the tracer gave no answer", hint="mmq doctor")
    whole = msgspec.json.decode(answer.body)
    candidates = iter(whole["candidates"])
    for one in requests:
        count = len(one.body["modes"]) * len(one.body["micro_batches"])
        yield one.key, msgspec.json.encode(whole | {"candidates": list(islice(candidates, count))}).decode()
