"""Footprints as the cycle needs them: from memory, from the store, or on the way from the tracer. Never waits.

The fastest memory means are traced first, which is all that most jobs need; each stage of the others only once a job
that has been offered those before is still in the queue.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any, Protocol

import msgspec

from scheduler.admission.facts import Untraced
from scheduler.admission.wish import Wish, micro_batches
from scheduler.footprint.context import context_bytes
from scheduler.footprint.curve import Footprint
from scheduler.footprint.request import Target, cache_key, torch_version, trace_request, trainer_digest
from scheduler.footprint.tracer import Answer
from scheduler.jobs.spec import JobSpec
from scheduler.store import footprints
from scheduler.store.database import Database, Reader

RETRY_SECONDS = 60.0  # after a trace that failed for a reason of its own

Whole = tuple[str, int]  # names a footprint: the key of the tracer's answer, and the context beside it


class Taught(Protocol):
    """What a machine taught about footprints for a kind of device."""

    def bytes_for(self, key: str, footprint: Footprint) -> int: ...


class AsksTracer(Protocol):
    def ask(self, key: str, request: Mapping[str, Any]) -> None: ...

    def collect(self) -> list[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to the tracer: the means of one stage. GPUs that ask the same may differ in their context."""

    key: str
    body: dict[str, Any]
    context_bytes: int  # what a process holds beside what is traced

    @property
    def whole(self) -> Whole:
        return self.key, self.context_bytes

    def footprint(self, answer: str) -> Footprint:
        """Read the tracer's answer, and add the context."""
        return Footprint.from_json(msgspec.json.decode(answer)).raised(self.context_bytes)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    answer: Answer
    at: float  # monotonic


class FootprintBook:
    """Looks footprints up; asks the tracer for what it does not find, and stores what comes back."""

    def __init__(
        self,
        db: Database,
        tracer: AsksTracer,
        *,
        taught: Callable[[Target], Taught] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._teacher = taught
        self._taught: dict[Target, Taught] = {}  # read anew each cycle
        self._raised: dict[tuple[int, int], tuple[Footprint, Footprint]] = {}  # by identity and correction
        self._tracer = tracer
        self._monotonic = monotonic
        self._wanted: set[Whole] = set()  # looked up this cycle
        self._stages: dict[Whole, Footprint] = {}
        self._incomplete: dict[tuple[Whole, ...], Footprint] = {}  # the first stages, knowing what they lack
        self._joined: dict[tuple[Whole, ...], Footprint] = {}
        self._offered: dict[int, int] = {}  # jobs that had no more than so many stages to choose from, last cycle
        self._offering: dict[int, int] = {}  # the same, this cycle
        self._failures: dict[str, _Failure] = {}

    def look_up(self, job_id: int, spec: JobSpec, wish: Wish, target: Target) -> Footprint | Untraced:
        """Return what is known of a footprint, corrected, or why nothing is; asks the tracer for what is missing."""
        found = self._look_up(job_id, spec, wish, target)
        return found if isinstance(found, Untraced) else self._corrected(found, spec, wish, target)

    def known(self, spec: JobSpec, wish: Wish, target: Target) -> Footprint | None:
        """Return what is known already of a footprint, corrected; asks nobody."""
        known = self._known(requests_for(spec, wish, target))
        return self._corrected(self._join(known), spec, wish, target) if known else None

    def _corrected(self, found: Footprint, spec: JobSpec, wish: Wish, target: Target) -> Footprint:
        if self._teacher is None:
            return found
        if target not in self._taught:
            self._taught[target] = self._teacher(target)
        correction = self._taught[target].bytes_for(requests_for(spec, wish, target)[0].key, found)
        return self._raised.setdefault((id(found), correction), (found, found.raised(correction)))[1]

    def _look_up(self, job_id: int, spec: JobSpec, wish: Wish, target: Target) -> Footprint | Untraced:
        requests = requests_for(spec, wish, target)
        known = self._known(requests)
        count = len(known)
        if not known:
            return self._ask(requests[0])
        footprint = self._join(known)
        if count == len(requests):
            return footprint
        self._offering[job_id] = count
        if self._offered.get(job_id) == count and self._ask(requests[count]).hopeless:
            return footprint  # the other means can't be had
        missing = tuple(modes for stage in wish.stages[count:] for modes in stage)
        return self._incomplete.setdefault(tuple(known), footprint.without(missing))

    def _known(self, requests: Sequence[Request]) -> dict[Whole, Footprint]:
        """Return by name the stages that are known, up to the first that is not."""
        found: dict[Whole, Footprint] = {}
        for request in requests:
            stage = self._stage(request)
            if stage is None:
                break
            found[request.whole] = stage
        return found

    def _join(self, known: Mapping[Whole, Footprint]) -> Footprint:
        names, stages = tuple(known), list(known.values())
        if len(stages) == 1:
            return stages[0]
        if names not in self._joined:
            self._joined[names] = reduce(Footprint.joined, stages)
        return self._joined[names]

    def collect(self, *, now: float) -> None:
        """Begin a cycle: store the answers that have come in, and forget what the last cycle had no use for."""
        self._forget_unwanted()
        self._taught.clear()
        self._offered, self._offering = self._offering, {}
        for answer in self._tracer.collect():
            if answer.body is None:
                self._failures[answer.key] = _Failure(answer=self._judged(answer), at=self._monotonic())
            else:
                self._failures.pop(answer.key, None)
                footprints.put(self._db, answer.key, answer.body, at=now)

    def _forget_unwanted(self) -> None:
        wanted, self._wanted = self._wanted, set()
        self._stages = {name: one for name, one in self._stages.items() if name in wanted}
        self._incomplete = {names: one for names, one in self._incomplete.items() if wanted.issuperset(names)}
        kept = {id(one) for one in (*self._stages.values(), *self._incomplete.values(), *self._joined.values())}
        self._raised = {key: one for key, one in self._raised.items() if key[0] in kept}
        self._joined = {names: one for names, one in self._joined.items() if wanted.issuperset(names)}
        keys = {key for key, _ in wanted}
        self._failures = {key: one for key, one in self._failures.items() if key in keys}

    def _judged(self, answer: Answer) -> Answer:
        """Give up on what takes too long again: while it is traced, nobody else's job is."""
        before = self._failures.get(answer.key)
        if not answer.timed_out or before is None or not before.answer.timed_out:
            return answer
        return replace(answer, error=f"{answer.error}, twice", hopeless=True)

    def _stage(self, request: Request) -> Footprint | None:
        self._wanted.add(request.whole)
        known = self._stages.get(request.whole) or stored(self._db, request)
        if known is not None:
            self._stages[request.whole] = known
        return known

    def _ask(self, request: Request) -> Untraced:
        failure = self._failures.get(request.key)
        if failure is not None and (failure.answer.hopeless or self._monotonic() - failure.at < RETRY_SECONDS):
            return _untraced(failure.answer)
        self._tracer.ask(request.key, request.body)
        return Untraced(sentence="its memory is being worked out")


def _untraced(answer: Answer) -> Untraced:
    reason = answer.error or "the tracer gave no answer"
    return Untraced(
        sentence=reason if answer.hopeless else f"{reason}; tried again after {RETRY_SECONDS:.0f} s",
        hopeless=answer.hopeless,
    )


@lru_cache(maxsize=4096)  # a cycle asks again for every job that waits
def requests_for(spec: JobSpec, wish: Wish, target: Target) -> tuple[Request, ...]:
    """Build what the tracer is asked about a job on a kind of device: a request for each stage."""
    sizes = micro_batches(wish.rows, wish.micro_batch)
    bodies = [trace_request(spec, target, modes=modes, micro_batches=sizes) for modes in wish.stages]
    keys = [cache_key(body, torch=torch_version(), trainer=trainer_digest()) for body in bodies]
    outside = context_bytes(target.kind, target.capability, spec.resources.gpus)
    return tuple(Request(key=key, body=body, context_bytes=outside) for key, body in zip(keys, bodies, strict=True))


def stored(db: Reader, request: Request) -> Footprint | None:
    """Read a footprint from the store; an entry that can't be read counts as none."""
    row = footprints.get(db, request.key)
    if row is None:
        return None
    try:
        return request.footprint(row.answer)
    except (KeyError, TypeError, ValueError):
        return None
