"""A refusal of memory: told from other errors, by whoever refused, and in numbers.

Owns the words that libraries have for it: torch's allocator has an error of its own for the device, and the rest only
say so. Imports no torch: the command asks before there is one.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.memory.device import Device

_OF_ALLOCATOR = "OutOfMemoryError"  # torch's class, and the base of ours
_OF_LIBRARIES = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_OF_HOST = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMG]iB)")
_HELD = re.compile(r"([\d.]+) (bytes|[KMG]iB) is allocated by PyTorch")


def is_refusal(error: BaseException, device: "Device") -> bool:
    """Say whether the device refused memory; a plain CPU is the host."""
    if any(kind.__name__ == _OF_ALLOCATOR for kind in type(error).__mro__):
        return True
    if device.kind == "cpu":
        return is_host_refusal(error)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_LIBRARIES)


def is_host_refusal(error: BaseException) -> bool:
    """Say whether the host refused memory to this process, and left it alive."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_HOST)


def refusal_numbers(error: BaseException, device: "Device") -> dict[str, int | None]:
    """Write a refusal as the fields of an `out_of_memory` event; what nobody tells is null.

    `needed_bytes` is what the process would have shown on the device at that moment, had it been granted: a lower bound
    of what it needs, without what its allocator can't use.
    """
    peaks = device.peaks()
    requested = _told(error, "requested_bytes", _ASKED)
    allocated = _told(error, "allocated_bytes", _HELD)
    context = peaks.process_bytes - peaks.reserved_bytes
    return {
        "requested_bytes": requested,
        "allocated_bytes": peaks.allocated_bytes if allocated is None else allocated,
        "reserved_bytes": getattr(error, "reserved_bytes", peaks.reserved_bytes),
        "limit_bytes": device.limit_bytes,
        "needed_bytes": None if requested is None or allocated is None else context + allocated + requested,
    }


def _told(error: BaseException, name: str, words: re.Pattern[str]) -> int | None:
    """Read a number that our own error carries and that CUDA's only says, to two decimals."""
    number: int | None = getattr(error, name, None)
    found = words.search(str(error)) if number is None else None
    return number if found is None else int(float(found[1]) * _UNITS[found[2]])
