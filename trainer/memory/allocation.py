"""What an allocator is to the accounting: blocks taken, blocks given back, and the peaks of both counters.

Owns the Protocol, the refusal that every allocator raises, and the allocator of a plain CPU device. Must not
know tensors.
"""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from trainer.memory.capacity import Capacity, Unlimited

if TYPE_CHECKING:
    from typing import Self  # a foreign loop's interpreter may be of Python 3.10

_MIB = 1024**2


class OutOfMemory(torch.OutOfMemoryError):
    """A refusal with its numbers; `torch.OutOfMemoryError` is what CUDA raises, so one `except` sees both."""

    def __init__(
        self,
        *,
        requested_bytes: int,
        allocated_bytes: int,
        reserved_bytes: int,
        limit_bytes: int | None,
        segment_bytes: int | None = None,
    ) -> None:
        cap = "" if limit_bytes is None else f" The limit is {limit_bytes / _MIB:.2f} MiB."
        super().__init__(
            f"Out of device memory. Tried to allocate {requested_bytes / _MIB:.2f} MiB."
            f" {allocated_bytes / _MIB:.2f} MiB is allocated,"
            f" {reserved_bytes / _MIB:.2f} MiB is reserved.{cap}"
        )
        self.requested_bytes = requested_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.limit_bytes = limit_bytes
        self.segment_bytes = requested_bytes if segment_bytes is None else segment_bytes  # asked of the device

    @classmethod
    def of_context(cls, context_bytes: int, limit_bytes: int | None) -> "Self":
        """The refusal of a process whose context alone is too much."""
        return cls(requested_bytes=context_bytes, allocated_bytes=0, reserved_bytes=0, limit_bytes=limit_bytes)


class Allocator(Protocol):
    """Counters are bytes; a block is whatever `malloc` gave and `free` wants back."""

    @property
    def allocated_bytes(self) -> int: ...

    @property
    def reserved_bytes(self) -> int: ...

    @property
    def allocated_peak_bytes(self) -> int: ...

    @property
    def reserved_peak_bytes(self) -> int: ...

    def malloc(self, size_bytes: int) -> Any:
        """Take a block; OutOfMemory leaves everything as it was."""

    def free(self, block: Any) -> None: ...

    def empty_cache(self) -> None: ...

    def reset_peaks(self) -> None: ...


class DirectAllocator:
    """Take and give back exactly what is asked, as a plain CPU does: allocated is reserved."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        self._capacity = Unlimited() if capacity is None else capacity
        self.allocated_bytes = 0
        self.allocated_peak_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        return self.allocated_bytes

    @property
    def reserved_peak_bytes(self) -> int:
        return self.allocated_peak_bytes

    def malloc(self, size_bytes: int) -> int:
        if not self._capacity.take(size_bytes):
            raise OutOfMemory(
                requested_bytes=size_bytes,
                allocated_bytes=self.allocated_bytes,
                reserved_bytes=self.reserved_bytes,
                limit_bytes=self._capacity.limit_bytes,
            )
        self.allocated_bytes += size_bytes
        self.allocated_peak_bytes = max(self.allocated_peak_bytes, self.allocated_bytes)
        return size_bytes

    def free(self, block: int) -> None:
        self.allocated_bytes -= block
        self._capacity.give_back(block)

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def reset_peaks(self) -> None:
        self.allocated_peak_bytes = self.allocated_bytes
