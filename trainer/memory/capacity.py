"""What stands behind an allocator: for the caching one, the parts of cudaMalloc and cudaFree.

Owns the Protocol and the two forms that need no file. Must not know blocks.
"""

from typing import Protocol


class Capacity(Protocol):
    """Grants memory, or not."""

    @property
    def limit_bytes(self) -> int | None: ...

    def take(self, size_bytes: int) -> bool: ...

    def give_back(self, size_bytes: int) -> None: ...


class Unlimited:
    """Memory without end, for a replay that asks how much is needed."""

    limit_bytes: int | None = None

    def take(self, size_bytes: int) -> bool:
        return True

    def give_back(self, size_bytes: int) -> None:
        """Nobody waits for it."""


class Limited:
    """So many bytes for one process."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes: int | None = limit_bytes
        self.free_bytes = limit_bytes

    def take(self, size_bytes: int) -> bool:
        if size_bytes > self.free_bytes:
            return False
        self.free_bytes -= size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.free_bytes += size_bytes


def capacity_of(limit_bytes: int | None) -> Capacity:
    return Unlimited() if limit_bytes is None else Limited(limit_bytes)
