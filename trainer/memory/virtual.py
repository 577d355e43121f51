"""A virtual device: tensors of the CPU, memory as CUDA's allocator would take it, refusals as CUDA would give them.

Owns the joining of accounting, allocator and ledger. What a CUDA kernel would take beside its tensors (cuBLAS's
workspaces, scratch memory) is counted too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from trainer.memory.accounting import Accounting
from trainer.memory.allocation import OutOfMemory
from trainer.memory.allocator import CachingAllocator
from trainer.memory.device import Peaks
from trainer.memory.kernels import WORKSPACE_BYTES, temporaries_bytes
from trainer.memory.ledger import Ledger


class VirtualDevice:
    kind = "virtual"
    torch_device = torch.device("cpu")

    def __init__(
        self, ledger_dir: Path, *, total_bytes: int, context_bytes: int, limit_bytes: int | None = None
    ) -> None:
        self.limit_bytes = limit_bytes
        self._context_bytes = context_bytes
        ledger = Ledger(ledger_dir, total_bytes=total_bytes, limit_bytes=limit_bytes)
        if not ledger.take(context_bytes):
            raise OutOfMemory(
                requested_bytes=context_bytes, allocated_bytes=0, reserved_bytes=0, limit_bytes=limit_bytes
            )
        self._allocator = CachingAllocator(ledger)
        self._accounting = Accounting(self._allocator, workspace_bytes=WORKSPACE_BYTES, temporaries=temporaries_bytes)

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

    def empty_cache(self) -> None:
        self._allocator.empty_cache()
