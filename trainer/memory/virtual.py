"""A virtual device: tensors of the CPU, memory as CUDA's allocator would take it, refusals as CUDA would give them.

Owns the joining of accounting, allocator and ledger. What a CUDA kernel would take beside its tensors (cuBLAS's
workspaces, scratch memory) is counted too.
"""

from pathlib import Path

from trainer.memory.accounted import AccountedDevice
from trainer.memory.allocator import CachingAllocator
from trainer.memory.kernels import WORKSPACE_BYTES, temporaries_bytes
from trainer.memory.ledger import Ledger


class VirtualDevice(AccountedDevice):
    kind = "virtual"

    def __init__(
        self, ledger_dir: Path, *, total_bytes: int, limit_bytes: int | None = None, context_bytes: int = 0
    ) -> None:
        ledger = Ledger(ledger_dir, total_bytes=total_bytes, limit_bytes=limit_bytes)
        super().__init__(
            ledger,
            CachingAllocator(ledger),
            context_bytes=context_bytes,
            workspace_bytes=WORKSPACE_BYTES,
            temporaries=temporaries_bytes,
        )
