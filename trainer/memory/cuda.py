"""A real CUDA device: torch counts, and torch caps the process at its limit.

Owns the translation only. CUDA_VISIBLE_DEVICES decides which GPU number 0 is; what the context takes beside torch's
segments is the caller's to say.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

from trainer.memory.allocation import OutOfMemory
from trainer.memory.device import Peaks


class CudaDevice:
    kind = "cuda"

    def __init__(self, number: int, limit_bytes: int | None = None, *, context_bytes: int = 0) -> None:
        self.torch_device = torch.device("cuda", number)
        self.limit_bytes: int | None = None
        self._context_bytes = context_bytes
        torch.cuda.set_device(self.torch_device)
        if limit_bytes is not None:
            self.set_limit(limit_bytes)

    def accounting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def host(self) -> AbstractContextManager[None]:
        return nullcontext()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.torch_device, non_blocking=True)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to("cpu")

    def peaks(self) -> Peaks:
        reserved_bytes = torch.cuda.max_memory_reserved(self.torch_device)
        return Peaks(
            allocated_bytes=torch.cuda.max_memory_allocated(self.torch_device),
            reserved_bytes=reserved_bytes,
            process_bytes=reserved_bytes + self._context_bytes,
        )

    def reset_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def give_back(self) -> None:
        torch._C._cuda_clearCublasWorkspaces()  # each would pin the segment that it lies in
        torch.cuda.empty_cache()

    def set_limit(self, limit_bytes: int | None) -> None:
        """Cap torch's segments, so that an error hurts this process and not its neighbours."""
        total_bytes = torch.cuda.get_device_properties(self.torch_device).total_memory
        segments_bytes = total_bytes if limit_bytes is None else limit_bytes - self._context_bytes
        if segments_bytes <= 0:
            raise OutOfMemory.of_context(self._context_bytes, limit_bytes)
        self.limit_bytes = limit_bytes
        torch.cuda.set_per_process_memory_fraction(min(1.0, segments_bytes / total_bytes), self.torch_device)
