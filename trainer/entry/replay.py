"""Replays a log through an allocator: peaks, what they consist of, the course of a step, the smallest cap.

Pure: the log is values, the allocator counts.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.entry.log import KINDS, Log
from trainer.memory.allocation import Allocator, OutOfMemory
from trainer.memory.allocator import CachingAllocator
from trainer.memory.capacity import Limited

SEGMENT_BYTES = 2 * 1024**2  # segments are multiples of it
COURSE_POINTS = 160


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Peaks in bytes, and what was allocated at the peak."""

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


class Point(NamedTuple):
    """What is held at a moment."""

    event: int
    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


def replay(log: Log, allocator: Allocator | None = None, notice: Callable[[Point], None] | None = None) -> Outcome:
    """Play the log to its end, telling of each block taken; OutOfMemory where the allocator refuses."""
    allocator = CachingAllocator() if allocator is None else allocator
    held: dict[int, tuple[Any, int]] = {}
    parts = dict.fromkeys(KINDS, 0)
    at_peak = dict(parts)
    peak = 0
    for number, event in enumerate(log.events):
        if event is None:
            allocator.empty_cache()
            continue
        if event < 0:
            block, taken = held.pop(~event)
            parts[log.kinds[~event]] -= taken
            allocator.free(block)
            continue
        before = allocator.allocated_bytes
        block = allocator.malloc(log.sizes[event])
        taken = allocator.allocated_bytes - before
        held[event] = (block, taken)
        parts[log.kinds[event]] += taken
        if allocator.allocated_bytes > peak:
            peak, at_peak = allocator.allocated_bytes, dict(parts)
        if notice is not None:
            notice(Point(number, allocator.allocated_bytes, allocator.reserved_bytes, parts))
    return Outcome(
        allocated_bytes=allocator.allocated_peak_bytes, reserved_bytes=allocator.reserved_peak_bytes, parts=at_peak
    )


def course(log: Log, points: int = COURSE_POINTS) -> list[dict[str, Any]]:
    """Tell the last step as so many stretches at most, each by its highest moment."""
    first, last = log.steps[-1], len(log.events)
    highest: dict[int, dict[str, Any]] = {}

    def notice(point: Point) -> None:
        if point.event < first:
            return
        stretch = (point.event - first) * points // (last - first)
        known = highest.get(stretch)
        if known is None or point.allocated_bytes > known["allocated_bytes"]:
            highest[stretch] = {
                "phase": phase_at(log, point.event),
                "allocated_bytes": point.allocated_bytes,
                "reserved_bytes": point.reserved_bytes,
                "parts": dict(point.parts),
            }

    replay(log, notice=notice)
    return [highest[stretch] for stretch in sorted(highest)]


def phase_at(log: Log, event: int) -> str:
    index = bisect_right(log.marks, event, key=lambda mark: mark.event)
    return log.marks[index - 1].phase


def survives(log: Log, cap_bytes: int) -> bool:
    """Say whether the run gets by with so much for its segments, giving cached ones back where it must."""
    try:
        replay(log, CachingAllocator(Limited(cap_bytes)))
    except OutOfMemory:
        return False
    return True


def smallest_cap(log: Log, outcome: Outcome) -> int:
    """Find the least that the segments of a run can be held to: between what is allocated and what was reserved."""
    low, high = (outcome.allocated_bytes - 1) // SEGMENT_BYTES, -(-outcome.reserved_bytes // SEGMENT_BYTES)
    while low + 1 < high:
        middle = (low + high) // 2
        if survives(log, middle * SEGMENT_BYTES):
            high = middle
        else:
            low = middle
    return high * SEGMENT_BYTES
