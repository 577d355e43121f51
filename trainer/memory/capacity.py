"""What stands behind an allocator: for the caching one, the parts of cudaMalloc and cudaFree.

Owns the Protocol and the two forms that need no file. Must not know blocks.
"""

from typing import Protocol


class Capacity(Protocol):
    """Grants memory, or not."""

    limit_bytes: int | None  # may be set anew: what is held beyond it stays, and no more is granted

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

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        if self.limit_bytes is not None and self.held_bytes + size_bytes > self.limit_bytes:
            return False
        self.held_bytes += size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
