"""The plain CPU as a device: tensors counted one by one against a budget of host memory.

Owns nothing but the choice of capacity and allocator. Must not imitate CUDA: that is the virtual device.
"""

from trainer.memory.accounted import AccountedDevice
from trainer.memory.allocation import DirectAllocator
from trainer.memory.capacity import Limited


class CpuDevice(AccountedDevice):
    kind = "cpu"

    def __init__(self, limit_bytes: int | None = None, *, context_bytes: int = 0) -> None:
        capacity = Limited(limit_bytes)
        super().__init__(capacity, DirectAllocator(capacity), context_bytes=context_bytes)
