"""One face for every device that the training loop can run on: cuda, cpu and virtual.

Owns the Protocol. Must not know the loop, nor which devices there are: `choice.py` does.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Allocated: rounded blocks. Reserved: segments held. Process: what the device shows: context too."""

    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int


class Device(Protocol):
    """Where the tensors of a run live, and what they cost."""

    kind: str
    torch_device: torch.device

    @property
    def limit_bytes(self) -> int | None:
        """The most that this process may show on the device."""

    def accounting(self) -> AbstractContextManager[None]:
        """Stay within it from before the model is built to the end: only what is made within is counted."""

    def host(self) -> AbstractContextManager[None]:
        """What is made within is host memory: batches, checkpoints being read, offloaded optimizer state."""

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a host tensor to the device: always new memory there."""

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a device tensor to the host: always new memory there, never counted."""

    def peaks(self) -> Peaks: ...

    def reset_peaks(self) -> None:
        """Begin the peaks anew, from what is held now."""

    def empty_cache(self) -> None: ...

    def give_back(self) -> None:
        """Give back all that is in no use between two steps: the cache, and the workspaces of the matrix products."""

    def set_limit(self, limit_bytes: int | None) -> None:
        """Put another limit in place: what is held beyond it stays, and no more is granted."""
