"""The plain CPU as a device: tensors counted one by one against a budget of host memory.

Owns nothing but the counting. Must not imitate CUDA: that is the virtual device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from trainer.memory.accounting import Accounting
from trainer.memory.allocation import DirectAllocator
from trainer.memory.device import Peaks


class CpuDevice:
    kind = "cpu"
    torch_device = torch.device("cpu")

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self._allocator = DirectAllocator(limit_bytes)
        self._accounting = Accounting(self._allocator)

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
        peak = self._allocator.allocated_peak_bytes
        return Peaks(allocated_bytes=peak, reserved_bytes=peak, process_bytes=peak)

    def empty_cache(self) -> None:
        self._allocator.empty_cache()
