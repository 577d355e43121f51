"""What the devices without a driver share: tensors of the CPU, their memory counted by an accounting of ours.

Owns the context's share of the capacity and the copies to and fro. Which capacity, and how an allocator fills it, is
for the device to say.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from trainer.memory.accounting import Accounting, Temporaries
from trainer.memory.allocation import Allocator, OutOfMemory
from trainer.memory.capacity import Capacity
from trainer.memory.device import Peaks


class AccountedDevice:
    kind: str
    torch_device = torch.device("cpu")

    def __init__(
        self,
        capacity: Capacity,
        allocator: Allocator,
        *,
        context_bytes: int,
        workspace_bytes: int = 0,
        temporaries: Temporaries | None = None,
    ) -> None:
        """Take the context, which is held to the end; OutOfMemory if not even that is to be had."""
        self._capacity = capacity
        if not capacity.take(context_bytes):
            raise OutOfMemory.of_context(context_bytes, capacity.limit_bytes)
        self._context_bytes = context_bytes
        self._allocator = allocator
        self._accounting = Accounting(allocator, workspace_bytes=workspace_bytes, temporaries=temporaries)

    @property
    def limit_bytes(self) -> int | None:
        return self._capacity.limit_bytes

    @contextmanager
    def accounting(self) -> Iterator[None]:
        with self._accounting:
            yield

    def host(self) -> AbstractContextManager[None]:
        return self._accounting.host()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        with self.host():
            return tensor.detach().clone()

    def peaks(self) -> Peaks:
        reserved_bytes = self._allocator.reserved_peak_bytes
        return Peaks(
            allocated_bytes=self._allocator.allocated_peak_bytes,
            reserved_bytes=reserved_bytes,
            process_bytes=reserved_bytes + self._context_bytes,
        )

    def reset_peaks(self) -> None:
        self._allocator.reset_peaks()

    def empty_cache(self) -> None:
        self._allocator.empty_cache()

    def give_back(self) -> None:
        self._accounting.drop_workspaces()
        self._allocator.empty_cache()

    def set_limit(self, limit_bytes: int | None) -> None:
        self._capacity.limit_bytes = limit_bytes
