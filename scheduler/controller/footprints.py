"""Footprints as the cycle needs them: from memory, from the store, or on the way from the tracer. Never waits."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from scheduler.admission.facts import Untraced
from scheduler.admission.wish import Wish, micro_batches
from scheduler.footprint.curve import Footprint
from scheduler.footprint.request import Target, cache_key, torch_version, trace_request, trainer_digest
from scheduler.footprint.tracer import Answer
from scheduler.jobs.spec import JobSpec
from scheduler.store import footprints
from scheduler.store.database import Database, Reader

RETRY_SECONDS = 60.0  # after a trace that failed for a reason of its own


class AsksTracer(Protocol):
    def ask(self, key: str, request: Mapping[str, Any]) -> None: ...

    def collect(self) -> list[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class _Failure:
    answer: Answer
    at: float


class FootprintBook:
    """Looks footprints up; asks the tracer for what it does not find, and stores what comes back."""

    def __init__(self, db: Database, tracer: AsksTracer) -> None:
        self._db = db
        self._tracer = tracer
        self._known: dict[str, Footprint] = {}
        self._failures: dict[str, _Failure] = {}

    def look_up(self, spec: JobSpec, wish: Wish, target: Target, *, now: float) -> Footprint | Untraced:
        """Return the footprint, or why it is not known yet; asks the tracer if nobody has."""
        key, request = request_for(spec, wish, target)
        known = self._known.get(key) or stored(self._db, key)
        if known is not None:
            self._known[key] = known
            return known
        failure = self._failures.get(key)
        if failure is not None and (failure.answer.hopeless or now - failure.at < RETRY_SECONDS):
            return _untraced(failure.answer)
        self._tracer.ask(key, request)
        return Untraced(sentence="its memory is being worked out")

    def collect(self, *, now: float) -> None:
        """Store the answers that have come in."""
        for answer in self._tracer.collect():
            if answer.body is None:
                self._failures[answer.key] = _Failure(answer=answer, at=now)
            else:
                self._failures.pop(answer.key, None)
                footprints.put(self._db, answer.key, answer.body, at=now)


def _untraced(answer: Answer) -> Untraced:
    told = answer.error or "the tracer gave no answer"
    return Untraced(
        sentence=told if answer.hopeless else f"{told}; tried again after {RETRY_SECONDS:.0f} s",
        hopeless=answer.hopeless,
    )


@lru_cache(maxsize=4096)  # a cycle asks again for every job that waits
def request_for(spec: JobSpec, wish: Wish, target: Target) -> tuple[str, dict[str, Any]]:
    """Build the tracer's request for a job on a kind of device, and its key."""
    sizes = micro_batches(wish.effective_batch, wish.micro_batch)
    request = trace_request(spec, target, modes=wish.modes, micro_batches=sizes)
    return cache_key(request, torch=torch_version(), trainer=trainer_digest()), request


def stored(db: Reader, key: str) -> Footprint | None:
    """Read a footprint from the store; an entry that can't be read counts as none."""
    row = footprints.get(db, key)
    if row is None:
        return None
    try:
        return Footprint.from_json(msgspec.json.decode(row.answer))
    except (KeyError, TypeError, ValueError):
        return None
