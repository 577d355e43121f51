"""CUDA's caching allocator as a pure model: the same blocks, segments, splits and merges, without a GPU.

Owns the rules of torch's native allocator (c10/cuda/CUDACachingAllocator.cpp, default settings, one stream). Must
not know tensors or devices: who grants a segment is an argument.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from trainer.memory.allocation import OutOfMemory
from trainer.memory.capacity import Capacity, Unlimited

MIB = 1024**2
BLOCK_BYTES = 512  # every size rounds up to this, and no smaller rest is split off in the small pool
SMALL_BYTES = MIB  # up to here a block comes from the small pool; no smaller rest is split off in the large one
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
OWN_SEGMENT_BYTES = 10 * MIB  # from here on a missing block gets a segment of its own size, rounded to 2 MiB


class Block:
    """A stretch of a segment, taken or free, between its neighbours there."""

    __slots__ = ("address", "next", "previous", "size_bytes", "small", "taken")

    def __init__(self, address: int, size_bytes: int, small: bool) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.small = small
        self.taken = False
        self.previous: Block | None = None
        self.next: Block | None = None


class Pool:
    """Free blocks, smallest first, then lowest."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []
        self._blocks: dict[int, Block] = {}

    def __iter__(self) -> Iterator[Block]:
        return iter(list(self._blocks.values()))

    def add(self, block: Block) -> None:
        insort(self._order, (block.size_bytes, block.address))
        self._blocks[block.address] = block

    def remove(self, block: Block) -> None:
        del self._order[bisect_left(self._order, (block.size_bytes, block.address))]
        del self._blocks[block.address]

    def take_best(self, size_bytes: int) -> Block | None:
        """Take the smallest block that is large enough, the lowest of several."""
        index = bisect_left(self._order, (size_bytes, 0))
        if index == len(self._order):
            return None
        return self._blocks.pop(self._order.pop(index)[1])


class CachingAllocator:
    """Grant blocks out of cached segments; ask `capacity` for a segment where no cached block fits."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        self._capacity = Unlimited() if capacity is None else capacity
        self._small = Pool()
        self._large = Pool()
        self._next_address = 0
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.allocated_peak_bytes = 0
        self.reserved_peak_bytes = 0

    def malloc(self, size_bytes: int) -> Block:
        """Take a block as CUDA would; OutOfMemory, after cached segments were given back in vain, takes none."""
        rounded = max(BLOCK_BYTES, -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES)
        pool = self._small if rounded <= SMALL_BYTES else self._large
        block = self._best(pool, rounded) or self._new_segment(rounded, pool is self._small)
        if block is None:
            raise OutOfMemory(
                requested_bytes=size_bytes,
                allocated_bytes=self.allocated_bytes,
                reserved_bytes=self.reserved_bytes,
                limit_bytes=self._capacity.limit_bytes,
                segment_bytes=segment_bytes(rounded),
            )
        rest = block.size_bytes - rounded
        if self._splits(block, rest):
            pool.add(self._split(block, rounded))
        block.taken = True
        self.allocated_bytes += block.size_bytes
        self.allocated_peak_bytes = max(self.allocated_peak_bytes, self.allocated_bytes)
        return block

    def free(self, block: Block) -> None:
        if not block.taken:
            raise ValueError(f"the block at {block.address} is free already")
        block.taken = False
        self.allocated_bytes -= block.size_bytes
        pool = self._small if block.small else self._large
        pool.add(self._merge(block, pool))

    def empty_cache(self) -> None:
        """Give back every segment that is wholly free."""
        for pool in (self._large, self._small):
            for block in pool:
                if block.previous is None and block.next is None:
                    pool.remove(block)
                    self.reserved_bytes -= block.size_bytes
                    self._capacity.give_back(block.size_bytes)

    def reset_peaks(self) -> None:
        self.allocated_peak_bytes, self.reserved_peak_bytes = self.allocated_bytes, self.reserved_bytes

    def _best(self, pool: Pool, rounded: int) -> Block | None:
        return pool.take_best(rounded)

    def _splits(self, block: Block, rest: int) -> bool:
        return rest >= BLOCK_BYTES if block.small else rest > SMALL_BYTES

    def _new_segment(self, rounded: int, small: bool) -> Block | None:
        size_bytes = segment_bytes(rounded)
        if not self._capacity.take(size_bytes):
            self.empty_cache()
            if not self._capacity.take(size_bytes):
                return None
        block = Block(self._next_address, size_bytes, small)
        self._next_address += size_bytes
        self.reserved_bytes += size_bytes
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, self.reserved_bytes)
        return block

    def _split(self, block: Block, size_bytes: int) -> Block:
        """Keep the front of a block and return the rest as a new free one."""
        rest = Block(block.address + size_bytes, block.size_bytes - size_bytes, block.small)
        rest.previous, rest.next = block, block.next
        if block.next is not None:
            block.next.previous = rest
        block.next = rest
        block.size_bytes = size_bytes
        return rest

    def _merge(self, block: Block, pool: Pool) -> Block:
        """Join a block with its free neighbours, which leave the pool."""
        after = block.next
        if after is not None and not after.taken:
            pool.remove(after)
            block.size_bytes += after.size_bytes
            block.next = after.next
            if after.next is not None:
                after.next.previous = block
        before = block.previous
        if before is None or before.taken:
            return block
        pool.remove(before)
        before.size_bytes += block.size_bytes
        before.next = block.next
        if block.next is not None:
            block.next.previous = before
        return before


def segment_bytes(rounded: int) -> int:
    """Say how large a segment the device is asked for where no cached block of this size is free."""
    if rounded <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if rounded < OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-rounded // SMALL_SEGMENT_BYTES) * SMALL_SEGMENT_BYTES
