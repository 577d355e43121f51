"""CUDA's caching allocator with `expandable_segments:True`: one segment a pool, which grows at its end page by page.

Owns what differs from the native way (c10/cuda/CUDACachingAllocator.cpp): where new memory comes from, what is split,
and what is given back. Pages given back in the middle are not used again at their address, which changes no counter.
"""

from trainer.memory.allocator import (
    BLOCK_BYTES,
    LARGE_SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    Block,
    CachingAllocator,
    Pool,
)
from trainer.memory.capacity import Capacity


class ExpandableAllocator(CachingAllocator):
    def __init__(self, capacity: Capacity | None = None) -> None:
        super().__init__(capacity)
        self._tails: dict[bool, Block | None] = {True: None, False: None}  # by `small`
        self._ends = {True: 0, False: LARGE_SEGMENT_BYTES << 40}  # address spaces of their own

    def empty_cache(self) -> None:
        """Give back every page that lies in free memory whole."""
        for pool in (self._large, self._small):
            for block in pool:
                pool.remove(block)
                self._give_pages_back(block, pool)

    def _best(self, pool: Pool, rounded: int) -> Block | None:
        """Take the best fit, but the end, which can grow, only where nothing else fits."""
        block = pool.take_best(rounded)
        if block is None or block is not self._tails[block.small]:
            return block
        other = pool.take_best(rounded)
        if other is None:
            return block
        pool.add(block)
        return other

    def _splits(self, block: Block, rest: int) -> bool:
        return rest >= BLOCK_BYTES

    def _split(self, block: Block, size_bytes: int) -> Block:
        rest = super()._split(block, size_bytes)
        if self._tails[block.small] is block:
            self._tails[block.small] = rest
        return rest

    def _merge(self, block: Block, pool: Pool) -> Block:
        after = block.next
        merged = super()._merge(block, pool)
        if self._tails[block.small] in (block, after) and merged.next is None:
            self._tails[block.small] = merged
        return merged

    def _new_segment(self, rounded: int, small: bool) -> Block | None:
        """Grow the segment: a free end counts, and only what it lacks is taken, in whole pages."""
        for again in (False, True):
            if again:
                self.empty_cache()
            tail = self._tails[small]
            free = tail.size_bytes if tail is not None and not tail.taken else 0
            page = _page_bytes(small)
            grown = -(-(rounded - free) // page) * page
            if self._capacity.take(grown):
                return self._grow(tail, grown, small)
        return None

    def _grow(self, tail: Block | None, grown: int, small: bool) -> Block:
        self.reserved_bytes += grown
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, self.reserved_bytes)
        start, self._ends[small] = self._ends[small], self._ends[small] + grown
        if tail is not None and not tail.taken:
            (self._small if small else self._large).remove(tail)
            tail.size_bytes += grown
            return tail
        block = Block(start, grown, small)
        block.previous = tail
        if tail is not None:
            tail.next = block
        self._tails[small] = block
        return block

    def _give_pages_back(self, block: Block, pool: Pool) -> None:
        page = _page_bytes(block.small)
        end = block.address + block.size_bytes
        first, last = -(-block.address // page) * page, end // page * page
        if first >= last:
            pool.add(block)
            return
        self.reserved_bytes -= last - first
        self._capacity.give_back(last - first)
        before, after = block.previous, block.next
        left = self._remainder(block.address, first - block.address, before, None, block.small, pool)
        right = self._remainder(last, end - last, None, after, block.small, pool)
        if before is not None and left is None:
            before.next = None
        if after is not None and right is None:
            after.previous = None
        if self._tails[block.small] is block:
            self._tails[block.small] = right  # None: the next growth begins a stretch of its own
            self._ends[block.small] = max(self._ends[block.small], end)

    @staticmethod
    def _remainder(
        address: int, size_bytes: int, before: Block | None, after: Block | None, small: bool, pool: Pool
    ) -> Block | None:
        """Put back what is left of a block at one side of the pages that went."""
        if not size_bytes:
            return None
        rest = Block(address, size_bytes, small)
        rest.previous, rest.next = before, after
        if before is not None:
            before.next = rest
        if after is not None:
            after.previous = rest
        pool.add(rest)
        return rest


def _page_bytes(small: bool) -> int:
    return SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES
