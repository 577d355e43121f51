"""How long jobs take: estimated before they run, by their trainers' own word once they do.

A step's work is parameters x rows x tokens a row, of several devices an equal part for each; the rate is what earlier
attempts reached on each device of that kind, at first an assumption. What an attempt measured beside neighbours is
taken back to what it would be alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median

import msgspec

from scheduler.admission.facts import UNKNOWN_PACE
from scheduler.admission.pace import Pace, cost, slowdown
from scheduler.admission.plan import FIXED_COST_TOKENS
from scheduler.footprint.curve import Modes
from scheduler.jobs import parameters
from scheduler.jobs.spec import JobSpec, decode
from scheduler.store.history import PastSpeed
from scheduler.store.records import Attempt

LATEST = 100  # attempts looked at
ASSUMED_FLOPS = {"cuda": 5e13, "virtual": 2e10, "cpu": 2e10}  # a second, until one was seen
FLOPS_PER_PARAMETER = 6  # and token: forward once, backward twice, each a product and a sum
SAMPLED_BYTES = 1 << 18


class Experience:
    """What earlier attempts reached on each kind of device."""

    def __init__(self, past: Iterable[PastSpeed]) -> None:
        self._rates: dict[str, list[float]] = defaultdict(list)
        self._like: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._busy: dict[str, list[float]] = defaultdict(list)
        for one in past:
            work = _work_of(one.spec)
            if work is None:
                continue
            rate = work / max(one.seconds_per_step, 1e-6)
            self._rates[one.kind].append(rate)
            self._like[one.kind, work].append(rate)
            if one.busy_share is not None:
                self._busy[one.kind].append(one.busy_share)

    def flops(self, kind: str, work: int) -> float:
        """Return the rate of attempts with as much for each device in a step, else of all, else an assumption."""
        known = self._like.get((kind, work)) or self._rates.get(kind)
        return median(known) if known else ASSUMED_FLOPS.get(kind, 1e12)

    def utilisation(self, kind: str) -> float:
        return median(self._busy[kind]) if self._busy.get(kind) else UNKNOWN_PACE.utilisation

    def estimate(self, spec: JobSpec, kind: str, latest: Attempt | None) -> Pace:
        """Return the pace of a job that waits; one that ran before knows how long it still takes."""
        overhead = FIXED_COST_TOKENS / spec.data.max_seq_len
        if latest is not None and latest.eta_seconds:
            seconds = max(1.0, latest.eta_seconds / cost(Modes.from_json(msgspec.json.decode(latest.plan))))
            busy = self.utilisation(kind) if latest.busy_share is None else latest.busy_share
            return Pace(seconds=seconds, utilisation=busy, micro_batch=latest.micro_batch, overhead=overhead)
        work = flops_of_one(spec)
        seconds = max(1.0, total_steps(spec) * work / self.flops(kind, work))
        micro_batch = -(-spec.train.batch_size // spec.resources.gpus)
        return Pace(seconds=seconds, utilisation=self.utilisation(kind), micro_batch=micro_batch, overhead=overhead)


def of_running(attempt: Attempt, spec: JobSpec, known: Pace, neighbours: Sequence[float], alone: float | None) -> Pace:
    """Return the pace of a job that runs, `known` until it has told any itself.

    `neighbours` are the shares of time in which the others on its device compute; `alone` is how busy the device
    itself says it is, where nobody else is on it.
    """
    if not attempt.eta_seconds:
        return known
    busy = known.utilisation if attempt.busy_share is None else attempt.busy_share
    stretched = slowdown(busy + sum(neighbours), 1 + len(neighbours))
    computing, waiting = busy / stretched, 1 - busy  # of each second so far, as it would be alone
    seconds = attempt.eta_seconds * (computing + waiting) / cost(Modes.from_json(msgspec.json.decode(attempt.plan)))
    utilisation = alone if alone is not None else computing / max(computing + waiting, 1e-9)
    overhead = FIXED_COST_TOKENS / spec.data.max_seq_len
    return Pace(
        seconds=max(1.0, seconds),
        utilisation=min(1.0, max(0.01, utilisation)),
        micro_batch=attempt.micro_batch,
        overhead=overhead,
    )


def flops_of_one(spec: JobSpec) -> int:
    """Return what falls to each device of a job in an optimizer step."""
    tokens = spec.effective_batch * spec.data.max_seq_len
    return FLOPS_PER_PARAMETER * parameters.active(spec.model) * tokens // spec.resources.gpus


def total_steps(spec: JobSpec) -> int:
    by_epochs = None
    if spec.train.epochs is not None:
        by_epochs = -(-spec.train.epochs * _rows(spec.data.path) // spec.effective_batch)
    return min(one for one in (spec.train.max_steps, by_epochs, 1 << 40) if one is not None)


def _rows(path: str) -> int:
    try:
        status = Path(path).stat()
    except OSError:
        return 1
    return _rows_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _rows_of(path: str, size: int, _changed_ns: int) -> int:
    """Estimate the lines of a file from its first ones."""
    try:
        with Path(path).open("rb") as file:
            sample = file.read(SAMPLED_BYTES)
    except OSError:
        return 1
    return max(1, sample.count(b"\n") * size // max(1, len(sample)))


@lru_cache(maxsize=4096)  # the same attempts are looked at each cycle
def _work_of(spec: str) -> int | None:
    try:
        return flops_of_one(decode(spec))
    except (msgspec.MsgspecError, KeyError, ValueError):
        return None


def busy_by_device(attempts: Iterable[tuple[Attempt, Iterable[str]]]) -> Mapping[str, Mapping[int, float]]:
    """Return for each device which attempts compute there, and for what share of the time."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for attempt, device_ids in attempts:
        for device_id in device_ids:
            found[device_id][attempt.id] = attempt.busy_share or 0.0
    return found
