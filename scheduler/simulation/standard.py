"""The standard workload, drawn by seed: what some days of a small group's training look like."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from scheduler.simulation.workload import Job, in_order

GB = 10**9
CARD_BYTES = 47 * 2**29  # 23.5 GiB
CARDS = 4
JOBS = 400

USERS = {"u0": 0.35, "u1": 0.25, "u2": 0.15, "u3": 0.10, "u4": 0.10, "u5": 0.05}  # shares of the submissions
SWEEPS = 0.3  # of the submissions, of 3 to 10 jobs that differ in their length alone
URGENT = 0.1  # of the submissions
MEDIAN_SECONDS, SIGMA = 900.0, 1.8
SHORTEST_SECONDS, LONGEST_SECONDS = 60.0, 12 * 3600.0
WITHIN_A_SWEEP = 0.3  # sigma
ESTIMATES = 0.5  # sigma of what people guess
UTILISATION_SPREAD = 2.5  # of the Beta: a + b
LEAST_UTILISATION = 0.05
LOAD = 0.8  # of the cards, offered
SWING = 0.75  # of the rate of submission over a day, greatest at noon
DAY_SECONDS = 86400.0


class MemoryClass(NamedTuple):
    fixed_bytes: float
    bytes_per_sample: float
    weight: float


CLASSES = (
    MemoryClass(1.0 * GB, 0.10 * GB, 0.32),
    MemoryClass(1.9 * GB, 0.29 * GB, 0.33),
    MemoryClass(3.5 * GB, 0.46 * GB, 0.19),
    MemoryClass(7.0 * GB, 1.08 * GB, 0.10),
    MemoryClass(12.0 * GB, 1.60 * GB, 0.06),
)
FIXED_SIGMA, PER_SAMPLE_SIGMA = 0.2, 0.33
FULL_CARD = 0.93  # what those who fill the card come to; the others stay between these two
FILLED_LEAST, FILLED_MOST = 0.2, 0.65


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A variation of the standard workload."""

    utilisation: float = 0.5  # on average
    all_at_once: bool = False


STANDARD = Kind()


def draw(seed: int, kind: Kind = STANDARD, jobs: int = JOBS) -> list[Job]:
    """Draw a workload; the same seed and kind always give the same."""
    source = random.Random(f"{seed} {kind.utilisation} {kind.all_at_once}")
    submissions: list[list[Job]] = []
    drawn = 0
    while drawn < jobs:
        submission = list(_submission(source, kind, first_id=drawn + 1, most=jobs - drawn))
        submissions.append(submission)
        drawn += len(submission)
    if kind.all_at_once:
        return in_order(job for submission in submissions for job in submission)
    offered_seconds = sum(job.alone_seconds for submission in submissions for job in submission)
    span_seconds = offered_seconds / (LOAD * CARDS)
    return in_order(
        _at(job, at) for submission in submissions for at in [_time_of_day(source, span_seconds)] for job in submission
    )


def _submission(source: random.Random, kind: Kind, *, first_id: int, most: int) -> Iterator[Job]:
    """Draw one job, or a sweep: the same model and batch, each of its own length."""
    size = min(most, source.randint(3, 10) if source.random() < SWEEPS else 1)
    user = source.choices(list(USERS), list(USERS.values()))[0]
    priority = int(source.random() < URGENT)
    typical_seconds = _length(source)
    utilisation = _utilisation(source, kind.utilisation)
    overhead = 0.5 * 16 ** source.random()
    effective_batch = source.choice((32, 64, 128, 256))
    fixed_bytes, bytes_per_sample = _memory(source)
    micro_batch = _as_people_set_it(source, effective_batch, fixed_bytes, bytes_per_sample)
    declared_bytes = int((fixed_bytes + micro_batch * bytes_per_sample) * source.uniform(1.3, 2.0))
    for number in range(size):
        alone_seconds = typical_seconds
        if size > 1:
            alone_seconds = _within(typical_seconds * source.lognormvariate(0, WITHIN_A_SWEEP))
        yield Job(
            job_id=first_id + number,
            submit_seconds=0.0,
            user=user,
            priority=priority,
            alone_seconds=round(alone_seconds, 1),
            utilisation=round(utilisation, 4),
            overhead=round(overhead, 4),
            user_micro_batch=micro_batch,
            effective_batch=effective_batch,
            fixed_bytes=fixed_bytes,
            bytes_per_sample=bytes_per_sample,
            declared_bytes=min(declared_bytes, CARD_BYTES),
            estimate_seconds=round(alone_seconds * source.lognormvariate(0, ESTIMATES), 1),
        )


def _length(source: random.Random) -> float:
    while True:
        seconds = source.lognormvariate(math.log(MEDIAN_SECONDS), SIGMA)
        if SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            return seconds


def _within(seconds: float) -> float:
    return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)


def _utilisation(source: random.Random, mean: float) -> float:
    drawn = source.betavariate(UTILISATION_SPREAD * mean, UTILISATION_SPREAD * (1 - mean))
    return min(max(drawn, LEAST_UTILISATION), 1.0)


def _memory(source: random.Random) -> tuple[int, int]:
    """Draw what a job needs, again if not even one sample fits a card."""
    while True:
        one = source.choices(CLASSES, [each.weight for each in CLASSES])[0]
        fixed_bytes = int(one.fixed_bytes * source.lognormvariate(0, FIXED_SIGMA))
        bytes_per_sample = int(one.bytes_per_sample * source.lognormvariate(0, PER_SAMPLE_SIGMA))
        if fixed_bytes + bytes_per_sample <= FULL_CARD * CARD_BYTES:
            return fixed_bytes, bytes_per_sample


def _as_people_set_it(source: random.Random, effective_batch: int, fixed_bytes: int, bytes_per_sample: int) -> int:
    """Half of them fill the card, the others part of it, by powers of two."""
    fills = source.random() < 0.5
    share = FULL_CARD if fills else source.uniform(FILLED_LEAST, FILLED_MOST)
    size = 1
    while 2 * size <= effective_batch and fixed_bytes + 2 * size * bytes_per_sample <= share * CARD_BYTES:
        size *= 2
    return size


def _time_of_day(source: random.Random, span_seconds: float) -> float:
    """Draw a moment of the span: few submissions at midnight, many at noon."""
    while True:
        at = source.uniform(0, span_seconds)
        rate = 1 - SWING * math.cos(2 * math.pi * at / DAY_SECONDS)
        if source.uniform(0, 1 + SWING) < rate:
            return round(at, 1)


def _at(job: Job, submit_seconds: float) -> Job:
    return replace(job, submit_seconds=submit_seconds)
