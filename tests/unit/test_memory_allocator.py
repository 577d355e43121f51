"""The caching allocator: worked examples of CUDA's rules."""

import pytest
import torch

from trainer.memory.allocator import MIB, CachingAllocator
from trainer.memory.capacity import Limited


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
