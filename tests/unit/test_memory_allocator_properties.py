"""The allocator held against what must be true of any sequence of blocks: properties, on sequences drawn at random."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.entry.log import Log
from trainer.entry.replay import course, replay, smallest_cap, survives
from trainer.memory.allocation import OutOfMemory
from trainer.memory.allocator import BLOCK_BYTES, SMALL_BYTES, Block, CachingAllocator
from trainer.memory.capacity import Limited
from trainer.memory.expandable import ExpandableAllocator

MIB = 1 << 20
SIZES = st.one_of(st.integers(1, 4096), st.integers(1, 2 * MIB), st.integers(MIB, 64 * MIB))
# A number takes a block of that size; a share gives back the block that far along those held; 1 empties the cache.
EVENTS = st.lists(st.one_of(SIZES, st.floats(0, 1)), min_size=1, max_size=60)
KINDS = pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])

Allocator = CachingAllocator


def played(allocator: Allocator, events: list[int | float]) -> Iterator[list[tuple[int, Block]]]:
    """Play the events; yield what is held after each, as what was asked for and its block."""
    held: list[tuple[int, Block]] = []
    for event in events:
        if isinstance(event, int):
            held.append((event, allocator.malloc(event)))
        elif event == 1:
            allocator.empty_cache()
        elif held:
            allocator.free(held.pop(int(event * len(held)))[1])
        yield held


@KINDS
@given(events=EVENTS)
@settings(max_examples=60, deadline=None)
def test_blocks_never_overlap_and_hold_what_was_asked(kind: type[Allocator], events: list[int | float]) -> None:
    for held in played(kind(), events):
        blocks = sorted((block.address, block.size_bytes, asked) for asked, block in held)
        assert all(size >= asked for _, size, asked in blocks)
        assert all(a + size <= b for (a, size, _), (b, _, _) in pairwise(blocks))


@KINDS
@given(events=EVENTS)
@settings(max_examples=60, deadline=None)
def test_counters_add_up(kind: type[Allocator], events: list[int | float]) -> None:
    allocator = kind()
    peak = 0
    for held in played(allocator, events):
        assert allocator.allocated_bytes == sum(block.size_bytes for _, block in held)
        assert allocator.allocated_bytes <= allocator.reserved_bytes <= allocator.reserved_peak_bytes
        peak = max(peak, allocator.allocated_bytes)
        assert allocator.allocated_peak_bytes == peak
    wasted = sum(block.size_bytes - -(-asked // BLOCK_BYTES) * BLOCK_BYTES for asked, block in held)
    assert 0 <= wasted <= len(held) * SMALL_BYTES  # a rest too small to be split off


@KINDS
@given(events=EVENTS)
@settings(max_examples=40, deadline=None)
def test_what_is_all_given_back_can_be_emptied(kind: type[Allocator], events: list[int | float]) -> None:
    capacity = Limited(1 << 50)
    allocator = kind(capacity)
    for held in played(allocator, events):
        assert capacity.held_bytes == allocator.reserved_bytes >= sum(asked for asked, _ in held)
    for _, block in held:
        allocator.free(block)
    assert allocator.allocated_bytes == 0
    allocator.empty_cache()
    assert allocator.reserved_bytes == capacity.held_bytes == 0


@KINDS
@given(events=EVENTS, share=st.floats(0.3, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_cap_is_never_passed_and_enough_is_always_granted(
    kind: type[Allocator], events: list[int | float], share: float
) -> None:
    free = kind()
    for _ in played(free, events):
        pass
    enough = kind(Limited(free.reserved_peak_bytes))
    for _ in played(enough, events):
        pass
    assert enough.reserved_peak_bytes == free.reserved_peak_bytes
    cap = int(free.reserved_peak_bytes * share)
    capped = kind(Limited(cap))
    with suppress(OutOfMemory):
        for _ in played(capped, events):
            pass
    assert capped.reserved_peak_bytes <= cap


@given(sizes=st.lists(st.integers(2 * MIB, 40 * MIB), min_size=2, max_size=12))
@settings(max_examples=40, deadline=None)
def test_expandable_segments_waste_no_more_than_pages_where_sizes_grow(sizes: list[int]) -> None:
    """The fragmentation that they are for: ever larger blocks, each after the one before is gone."""
    expandable, native = ExpandableAllocator(), CachingAllocator()
    for size in sorted(sizes):
        for allocator in (expandable, native):
            allocator.free(allocator.malloc(size))
    assert expandable.reserved_bytes <= max(sizes) + 20 * MIB
    assert expandable.reserved_bytes <= native.reserved_bytes + 20 * MIB


def logged(events: list[int | float]) -> Log:
    """Write the events down as a trace would."""
    log, held = Log(), []
    log.begin_step()
    for event in events:
        if isinstance(event, int):
            held.append(log.take(event, "activations" if event % 2 else "weights"))
        elif held and event < 1:
            log.give_back(held.pop(int(event * len(held))))
    return log


@given(events=EVENTS)
@example(events=[20 * MIB, 0.0, 1])
@settings(max_examples=40, deadline=None)
def test_the_smallest_cap_is_survived_and_the_next_below_is_not(events: list[int | float]) -> None:
    """A larger cap need not do better, since it changes what is given back: what is told holds all the same."""
    log = logged(events)
    outcome = replay(log)
    least = smallest_cap(log, outcome)
    assert survives(log, least)
    assert outcome.allocated_bytes <= least <= -(-outcome.reserved_bytes // (2 * MIB)) * 2 * MIB
    if least - 2 * MIB >= outcome.allocated_bytes:
        assert not survives(log, least - 2 * MIB)


@given(events=EVENTS)
@settings(max_examples=40, deadline=None)
def test_the_kinds_add_up_at_the_peak_and_the_course_comes_to_it(events: list[int | float]) -> None:
    log = logged(events)
    outcome = replay(log)
    assert sum(outcome.parts.values()) == outcome.allocated_bytes
    highest = max(course(log), key=lambda point: point["allocated_bytes"], default=None)
    if highest is not None:
        assert highest["allocated_bytes"] == outcome.allocated_bytes == sum(highest["parts"].values())
        assert outcome.reserved_bytes >= highest["reserved_bytes"] >= highest["allocated_bytes"]
