"""The caching allocator: worked examples of CUDA's rules, and what must hold for any sequence of events."""

import itertools
import time
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.memory.allocator import BLOCK_BYTES, MIB, Block, CachingAllocator
from trainer.memory.capacity import Limited

sizes_bytes = st.one_of(st.integers(1, 4096), st.integers(1, 3 * MIB), st.integers(1, 40 * MIB))


@pytest.mark.parametrize(
    ("asked", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (11 * MIB, 11 * MIB + MIB, 12 * MIB),  # a rest of 1 MiB is not split off, and counts as allocated
        (8_519_680, 8_519_680, 20 * MIB),  # cuBLAS's workspace
    ],
)
def test_one_block(asked: int, allocated: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.malloc(asked)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (allocated, reserved)


def test_best_fit_takes_the_smallest_then_the_lowest() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(size * MIB) for size in (30, 12, 14, 12)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(12 * MIB).address == blocks[1].address
    assert allocator.malloc(12 * MIB).address == blocks[3].address
    assert allocator.malloc(12 * MIB).address == blocks[2].address
    assert allocator.reserved_bytes == 68 * MIB


def test_freed_neighbours_merge_to_a_whole_segment() -> None:
    allocator = CachingAllocator()
    first, second, third = (allocator.malloc(4 * MIB) for _ in range(3))
    assert allocator.reserved_bytes == 20 * MIB
    for block in (first, third, second):
        allocator.free(block)
    assert allocator.malloc(20 * MIB).address == first.address
    assert allocator.reserved_bytes == 20 * MIB


def test_the_pools_do_not_lend_to_each_other() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 * MIB))
    allocator.malloc(1000)
    assert allocator.reserved_bytes == 22 * MIB


def test_a_refusal_gives_back_cached_segments_and_tries_again() -> None:
    allocator = CachingAllocator(Limited(40 * MIB))
    allocator.free(allocator.malloc(30 * MIB))
    allocator.malloc(36 * MIB)  # only after the 30 MiB went back
    assert allocator.reserved_bytes == 36 * MIB
    assert allocator.reserved_peak_bytes == 36 * MIB
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 8\.00 MiB\. 36\.00 MiB is allocated"):
        allocator.malloc(8 * MIB)
    assert allocator.allocated_bytes == 36 * MIB


def test_a_block_is_freed_once() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(5)
    allocator.free(block)
    with pytest.raises(ValueError, match="free already"):
        allocator.free(block)


@dataclass
class Watched:
    """An allocator, and what an observer knows of it."""

    allocator: CachingAllocator
    taken: list[tuple[Block, int]] = field(default_factory=list)
    peak_bytes: int = 0

    def play(self, event: tuple[str, int]) -> None:
        kind, value = event
        if kind == "malloc":
            self.malloc(value)
        elif kind == "free" and self.taken:
            self.allocator.free(self.taken.pop(value % len(self.taken))[0])
        elif kind == "empty":
            self.allocator.empty_cache()
        self.check()

    def malloc(self, size_bytes: int) -> None:
        before = (self.allocator.allocated_bytes, self.allocator.allocated_peak_bytes)
        try:
            self.taken.append((self.allocator.malloc(size_bytes), size_bytes))
        except torch.OutOfMemoryError:
            assert (self.allocator.allocated_bytes, self.allocator.allocated_peak_bytes) == before

    def check(self) -> None:
        allocator = self.allocator
        assert allocator.allocated_bytes == sum(block.size_bytes for block, _ in self.taken)
        self.peak_bytes = max(self.peak_bytes, allocator.allocated_bytes)
        assert allocator.allocated_peak_bytes == self.peak_bytes
        assert allocator.allocated_bytes <= allocator.reserved_bytes <= allocator.reserved_peak_bytes
        stretches = sorted((block.address, block.size_bytes) for block, _ in self.taken)
        for (address, size_bytes), (following, _) in itertools.pairwise(stretches):
            assert address + size_bytes <= following
        for block, asked in self.taken:
            assert asked <= block.size_bytes <= asked + MIB + BLOCK_BYTES


events = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), sizes_bytes),
        st.tuples(st.just("free"), st.integers(0, 10**6)),
        st.tuples(st.just("empty"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(events, st.one_of(st.none(), st.integers(0, 120 * MIB)))
def test_any_sequence_keeps_the_books(played: list[tuple[str, int]], limit_bytes: int | None) -> None:
    capacity = None if limit_bytes is None else Limited(limit_bytes)
    watched = Watched(CachingAllocator(capacity))
    for event in played:
        watched.play(event)
        if capacity is not None:
            assert watched.allocator.reserved_bytes == capacity.held_bytes
    for block, _ in watched.taken:
        watched.allocator.free(block)
    watched.allocator.empty_cache()
    assert (watched.allocator.allocated_bytes, watched.allocator.reserved_bytes) == (0, 0)
    assert capacity is None or capacity.held_bytes == 0


@settings(max_examples=30, deadline=None)
@given(events)
def test_the_reserved_peak_is_a_sufficient_limit(played: list[tuple[str, int]]) -> None:
    free = Watched(CachingAllocator())
    for event in played:
        free.play(event)
    capped = Watched(CachingAllocator(Limited(free.allocator.reserved_peak_bytes)))
    for event in played:
        capped.play(event)
    assert capped.allocator.allocated_peak_bytes == free.allocator.allocated_peak_bytes
    assert capped.allocator.reserved_peak_bytes == free.allocator.reserved_peak_bytes


def test_a_replay_is_quick() -> None:
    allocator = CachingAllocator()
    sizes = [(number * 7919) % (6 * MIB) + 1 for number in range(3000)]
    started = time.process_time()
    blocks = [allocator.malloc(size) for size in sizes]
    for block in blocks[::2] + blocks[1::2]:
        allocator.free(block)
    assert time.process_time() - started < 0.3
