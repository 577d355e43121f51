"""Choose how a job runs in a given amount of memory: micro-batch, accumulation, memory means, reservation.

Pure. The speed model is a first form, only ever used to compare candidates of one job with each other:

    speed = tokens / (tokens + micro_steps * T0) * cost of the means        tokens: of one optimizer step

T0 is the tokens' worth of fixed cost that a micro-step has (kernel launches, the Python around them); about 1,024
tokens is where small language models on today's cards reach half of their best throughput. Full checkpointing runs
the forward pass twice (x 0.75), selective what is cheap of it (x 0.9); offload moves every gradient and weight over
PCIe once a step (x 0.7). Of several devices, ZeRO-2 sends gradients each micro-step and not each step (x 0.9), ZeRO-3
the weights as well (x 0.8).
"""

from dataclasses import dataclass
from functools import lru_cache

from scheduler.admission.pace import cost
from scheduler.admission.wish import Wish
from scheduler.footprint.curve import Candidate, Footprint, Modes

FIXED_COST_TOKENS = 1024
FLAT = 0.95  # within 5 % of the best, throughput counts as flat: then the least memory

# On the CPU, products are packed into buffers and malloc keeps what was freed: up to 13 % more was measured.
MARGIN = {"cuda": 0.02, "cpu": 0.15}

_MIB = 1024**2
_SHARDINGS = ("none", "zero2", "zero3")  # each keeps less on a device than the one before


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate chosen, and what to reserve for it."""

    candidate: Candidate
    accumulation_steps: int
    reserve_bytes: int
    speed: float

    @property
    def micro_batch(self) -> int:
        return self.candidate.micro_batch

    @property
    def modes(self) -> Modes:
        return self.candidate.modes


def margin_bytes(kind: str, process_bytes: int) -> int:
    """Return what a reservation adds to a prediction: nothing on a virtual device, else a share, at least 64 MiB."""
    if kind == "virtual":
        return 0
    return max(int(process_bytes * MARGIN[kind]), 64 * _MIB)


def need_bytes(kind: str, candidate: Candidate) -> int:
    return candidate.process_bytes + margin_bytes(kind, candidate.process_bytes)


def speed(modes: Modes, micro_batch: int, rows: int, max_seq_len: int) -> float:
    """Return relative training speed, 0 to 1. Only ratios between candidates of one job mean anything."""
    tokens = rows * max_seq_len
    fixed = accumulation_steps(rows, micro_batch) * FIXED_COST_TOKENS
    return tokens / (tokens + fixed) / cost(modes)


@lru_cache(maxsize=1024)  # a cycle asks again for each device, and the next cycle for the same jobs
def allowed(wish: Wish, footprint: Footprint, kind: str) -> tuple[Candidate, ...]:
    """Return the candidates the job itself permits, whatever the device."""
    below, too_large = _ran_out_at(wish, footprint), _too_large_states(wish)
    return tuple(
        candidate
        for candidate in footprint.candidates
        if permits(wish, candidate.modes)
        and candidate.micro_batch <= (wish.micro_batch_limit or candidate.micro_batch)
        and (below is None or candidate.process_bytes < below)
        and all(_keeps_less(candidate.modes, failed) for failed in too_large)
        and (wish.max_memory_bytes is None or need_bytes(kind, candidate) <= wish.max_memory_bytes)
    )


def permits(wish: Wish, modes: Modes) -> bool:
    """Whether the job may run with these means at all."""
    return modes in wish.modes and not (wish.spares_host and modes.optimizer_offload)


def _ran_out_at(wish: Wish, footprint: Footprint) -> int | None:
    """Return the least that was not enough at micro-batch 1: only what is predicted to take less will do."""
    failed = {one.modes for one in wish.ran_out if one.micro_batch == 1 and not one.of_states}
    sizes = (c.process_bytes for c in footprint.candidates if c.micro_batch == 1 and c.modes in failed)
    return min(sizes, default=None)


def _too_large_states(wish: Wish) -> list[Modes]:
    """List the means with which the states were too much for a device, as far as the job allows to keep less there."""
    failed = {one.modes for one in wish.ran_out if one.of_states}
    return [modes for modes in failed if any(_keeps_less(other, modes) for other in wish.modes)]


def _keeps_less(modes: Modes, than: Modes) -> bool:
    """Whether less of weights, gradients and optimizer lies on a device: in host memory, or on others."""
    offloads = modes.optimizer_offload and not than.optimizer_offload
    return offloads or _SHARDINGS.index(modes.sharding) > _SHARDINGS.index(than.sharding)


@lru_cache(maxsize=1024)
def smallest(wish: Wish, footprint: Footprint, kind: str) -> Candidate | None:
    """Return the permitted candidate that needs the least memory, or None where none is permitted."""
    return min(allowed(wish, footprint, kind), key=lambda candidate: candidate.process_bytes, default=None)


def choose(wish: Wish, footprint: Footprint, kind: str, *, available_bytes: int, usable_bytes: int) -> Plan | None:
    """Choose the plan for `available_bytes` of a device whose empty size is `usable_bytes`; None if none fits.

    Order: a number that the job file insists on, with the fastest means allowed, in its own size or the whole
    usable device; else the knee: of the candidates that fit and come within 5 % of the fastest that fits, the one
    with the smallest micro-batch, then with the least memory. While some means are not traced yet, a plan is taken
    only if none of them could be faster.
    """
    if wish.insists:
        return insisted(wish, footprint, kind, available_bytes, usable_bytes)
    fitting = [c for c in allowed(wish, footprint, kind) if need_bytes(kind, c) <= available_bytes]
    if not fitting:
        return None
    best = max(_speed(wish, candidate) for candidate in fitting)
    if best < FLAT * _fastest_missing(wish, footprint):
        return None
    knee = min(
        (candidate for candidate in fitting if _speed(wish, candidate) >= FLAT * best),
        key=lambda candidate: (candidate.micro_batch, candidate.process_bytes, candidate.modes),
    )
    return plan_of(wish, knee, need_bytes(kind, knee))


def may_do_better(wish: Wish, footprint: Footprint, candidate: Candidate) -> bool:
    """Whether means not traced yet could be much faster than this candidate."""
    return _speed(wish, candidate) < FLAT * _fastest_missing(wish, footprint)


def _fastest_missing(wish: Wish, footprint: Footprint) -> float:
    """Return the speed that a means not traced yet would have at best: with the whole effective batch at once."""
    batch = min(wish.rows, wish.micro_batch_limit or wish.rows)
    speeds = (speed(modes, batch, wish.rows, wish.max_seq_len) for modes in footprint.missing)
    return max(speeds, default=0.0)


@lru_cache(maxsize=1024)  # asked about each device, for a job that no device has room for
def wanted_bytes(wish: Wish, footprint: Footprint, kind: str, usable_bytes: int) -> int | None:
    """Return the least that must be free on a device of this size for the job to start; None: never fits there."""
    least = smallest(wish, footprint, kind)
    if least is None or need_bytes(kind, least) > usable_bytes:
        return None
    if not wish.insists:
        return need_bytes(kind, least)
    plan = insisted(wish, footprint, kind, usable_bytes, usable_bytes)
    return None if plan is None else plan.reserve_bytes


def insisted(wish: Wish, footprint: Footprint, kind: str, available_bytes: int, usable_bytes: int) -> Plan | None:
    """Plan the insisted micro-batch as it is: the trainer halves it where it turns out too large.

    Where sharding is open, with means that it fits with, if there are any.
    """
    least = smallest(wish, footprint, kind)
    if least is None or wish.micro_batch is None:
        return None
    number = min(wish.micro_batch, wish.rows)
    named = [c for c in footprint.candidates if c.micro_batch == number and permits(wish, c.modes)]
    most = min(usable_bytes, wish.max_memory_bytes or usable_bytes)
    if len({modes.sharding for modes in wish.modes}) > 1:
        fitting = [candidate for candidate in named if need_bytes(kind, candidate) <= most]
        named = fitting or ([] if footprint.missing else named)  # those not traced yet may fit
    if not named:
        return None
    fastest = max(named, key=lambda candidate: (_speed(wish, candidate), -candidate.process_bytes))
    reserve = min(need_bytes(kind, fastest), most)
    if not need_bytes(kind, least) <= reserve <= available_bytes:
        return None
    return plan_of(wish, fastest, reserve)


def plan_of(wish: Wish, candidate: Candidate, reserve_bytes: int) -> Plan:
    return Plan(
        candidate=candidate,
        accumulation_steps=accumulation_steps(wish.rows, candidate.micro_batch),
        reserve_bytes=reserve_bytes,
        speed=_speed(wish, candidate),
    )


def _speed(wish: Wish, candidate: Candidate) -> float:
    return speed(candidate.modes, candidate.micro_batch, wish.rows, wish.max_seq_len)


def accumulation_steps(rows: int, micro_batch: int) -> int:
    """Return how many micro-batches make up the rows of a process in a step, the last one perhaps smaller."""
    return -(-rows // micro_batch)
