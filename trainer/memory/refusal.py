"""A refusal of memory: told from other errors, by whoever refused, and in numbers.

Owns the words that libraries have for it: torch's allocator has an error of its own for the device, and the rest only
say so. Imports no torch: the command asks before there is one.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.memory.device import Device

Refusal = dict[str, Any]  # where it happened, and its numbers: fields of an `out_of_memory` event

_OF_ALLOCATOR = "OutOfMemoryError"  # torch's class, and the base of ours
_OF_LIBRARIES = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_OF_HOST = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMG]iB)")
_HELD = re.compile(r"([\d.]+) (bytes|[KMG]iB) is allocated by PyTorch")
_IDLE = re.compile(r"([\d.]+) (bytes|[KMG]iB) is reserved by PyTorch but unallocated")


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

    `needed_bytes` is what the process would have shown on the device had it been granted: the smallest limit under
    which it would have come so far, and so a lower bound of what it needs.
    """
    peaks = device.peaks()
    requested, allocated = _number(error, "requested_bytes", _ASKED), _number(error, "allocated_bytes", _HELD)
    reserved = _reserved(error, allocated)
    return {
        "requested_bytes": requested,
        "allocated_bytes": peaks.allocated_bytes if allocated is None else allocated,
        "reserved_bytes": peaks.reserved_bytes if reserved is None else reserved,
        "limit_bytes": device.limit_bytes,
        "needed_bytes": None
        if requested is None or reserved is None
        else peaks.process_bytes - peaks.reserved_bytes + reserved + _segment(error, requested),
    }


def _reserved(error: BaseException, allocated: int | None) -> int | None:
    """Return what was held of the device, idle or not, once all that could be given back had been."""
    idle = _number(error, "idle_bytes", _IDLE)
    held = None if idle is None or allocated is None else allocated + idle
    return getattr(error, "reserved_bytes", held)


def _segment(error: BaseException, requested: int) -> int:
    """Return what the device was asked for: an allocator takes more at once than it is asked for."""
    known: int | None = getattr(error, "segment_bytes", None)
    if known is not None:
        return known
    from trainer.memory.allocator import segment_bytes

    return segment_bytes(requested)


def _number(error: BaseException, name: str, words: re.Pattern[str]) -> int | None:
    """Read a number that our own error carries and that CUDA's only says, to two decimals."""
    number: int | None = getattr(error, name, None)
    match = words.search(str(error)) if number is None else None
    return number if match is None else int(float(match[1]) * _UNITS[match[2]])
