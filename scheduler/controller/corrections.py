"""What this machine taught: later footprints are raised by what earlier attempts took beyond theirs.

An attempt's residual is the process memory that was measured (by the trainer, and by NVML where it showed more) less
the segments and the context that were predicted. Of the same configuration the 0.9 quantile counts, from the first
attempt on; else the median of all on devices of the kind, which is what the context's guess lacks. Nothing is ever
lowered. Only for CUDA: on the other devices the prediction is the measurement.

On every kind of device, a refusal by which the prediction was too small raises the footprint of that configuration by
what it lacked at least: the process was refused memory that would have brought it above what was predicted for it. What
came after, nobody saw: each further attempt that is refused doubles what is added.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from scheduler.admission.wish import wish_of
from scheduler.controller.footprints import requests_for
from scheduler.footprint.context import context_bytes
from scheduler.footprint.curve import Footprint, Modes
from scheduler.footprint.request import Target
from scheduler.jobs.spec import decode
from scheduler.store.database import Reader
from scheduler.store.residuals import MeasuredPeak, measured_peaks
from scheduler.store.shortages import MemoryRefusal, memory_refusals

LATEST = 50  # attempts looked at
SAME_QUANTILE = 0.9
OTHERS_AT_LEAST = 3
KIND = "cuda"
MOST_DOUBLINGS = 4


class Corrections:
    """By configuration; read once, for all of a cycle."""

    def __init__(self, attempts: Sequence[MeasuredPeak], target: Target, refused: Sequence[MemoryRefusal] = ()) -> None:
        self._refused: dict[str, list[tuple[MemoryRefusal, Modes]]] = defaultdict(list)
        for lesson in refused:
            self._learn(lesson, target)
        self._all: list[int] = []
        self._same: dict[str, list[int]] = defaultdict(list)
        for one in attempts:
            outside = context_bytes(target.kind, target.capability, _processes(one.spec))
            residual = one.measured_process_bytes - one.predicted_reserved_bytes - outside
            self._all.append(residual)
            key = _key(one.spec, target)
            if key is not None:
                self._same[key].append(residual)

    def bytes_for(self, key: str, footprint: Footprint) -> int:
        """Return what to add to the footprint with this key."""
        return max(self._residual_bytes(key), self._lacked_bytes(key, footprint))

    def _learn(self, lesson: MemoryRefusal, target: Target) -> None:
        key, modes = _key(lesson.spec, target), _modes(lesson.plan)
        if key is not None and modes is not None:
            self._refused[key].append((lesson, modes))

    def _lacked_bytes(self, key: str, footprint: Footprint) -> int:
        """Return by how much the footprint is known to be too small."""
        lessons = self._refused.get(key)
        if not lessons:
            return 0
        predicted = {(one.micro_batch, one.modes): one.process_bytes for one in footprint.candidates}
        lacked: dict[int, int] = {}
        for lesson, modes in lessons:
            lack = lesson.needed_bytes - predicted.get((lesson.micro_batch, modes), lesson.needed_bytes)
            if lack > 0:
                lacked[lesson.attempt_id] = max(lack, lacked.get(lesson.attempt_id, 0))
        doublings = min(len(lacked) - 1, MOST_DOUBLINGS)
        return max(lacked.values()) << doublings if lacked else 0

    def _residual_bytes(self, key: str) -> int:
        same: Mapping[str, list[int]] = self._same
        if key in same:
            return max(0, quantile(same[key], SAME_QUANTILE))
        return max(0, quantile(self._all, 0.5)) if len(self._all) >= OTHERS_AT_LEAST else 0


def read(db: Reader, host: str, target: Target) -> Corrections:
    attempts = measured_peaks(db, host=host, kind=KIND, latest=LATEST) if target.kind == KIND else []
    return Corrections(attempts, target, memory_refusals(db, host=host, kind=target.kind, latest=LATEST))


def quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that so large a share lies at or below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100) * len(ordered) // 100) - 1))]


@lru_cache(maxsize=512)  # the same attempts are read each cycle
def _key(spec: str, target: Target) -> str | None:
    """Give the footprint's key of a job; None for one of another version that can't be read."""
    try:
        job = decode(spec)
        return requests_for(job, wish_of(job), target)[0].key
    except (msgspec.DecodeError, KeyError, ValueError):
        return None


@lru_cache(maxsize=512)
def _processes(spec: str) -> int:
    try:
        return decode(spec).resources.gpus
    except (msgspec.DecodeError, KeyError, ValueError):
        return 1


def _modes(plan: str) -> Modes | None:
    try:
        return Modes.from_json(msgspec.json.decode(plan))
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
