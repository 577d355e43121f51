"""The one process that calls NVML: each line on stdin is answered by one JSON line on stdout.

NVML hangs, or takes the process with it, when a GPU falls off the bus; so it is called here and nowhere else.
Must not be imported by the rest of mmq, which runs it: `python -m scheduler.devices.nvml_probe`.
"""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pynvml

from scheduler.devices.nvml_report import GpuReport, Report

_ABSENT = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_NOT_FOUND,
)
_GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_SLOWED = {
    pynvml.nvmlClocksEventReasonHwSlowdown: "slowed down by its hardware",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "slowed down: hot",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "slowed down by its hardware: too hot",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "slowed down by the power supply",
}


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the driver's library prints must not mix with the replies
    for _ in sys.stdin:
        replies.write(msgspec.json.encode(look()) + b"\n")
        replies.flush()


def look() -> Report:
    """Look at all GPUs once. NVML is initialised by the first look and stays so: it takes up to seconds."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        driver = _optional(pynvml.nvmlSystemGetDriverVersion)
    except pynvml.NVMLError as error:
        return Report(absent=error.value in _ABSENT, error=_sentence(error))
    return Report(driver=driver, gpus=tuple(_gpu(index) for index in range(count)), absent=count == 0)


def _gpu(index: int) -> GpuReport:
    uuid = None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        return _identified(index, uuid, handle)
    except pynvml.NVMLError as error:
        return GpuReport(index=index, uuid=uuid, error=_sentence(error))


def _identified(index: int, uuid: str, handle: Any) -> GpuReport:
    total_bytes, used_bytes = _memory(handle)
    capability = _optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    rates = _optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return GpuReport(
        index=index,
        uuid=uuid,
        name=pynvml.nvmlDeviceGetName(handle),
        total_bytes=total_bytes,
        used_bytes=used_bytes,
        capability=f"{capability[0]}.{capability[1]}" if capability else None,
        processes=_processes(handle),
        utilisation=rates.gpu / 100 if rates else None,
        error=_unusable(handle),
        warnings=tuple(_warnings(handle)),
    )


def _memory(handle: Any) -> tuple[int, int]:
    """Read (total, used). The driver's own share is no one's to use; old drivers count it as used."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return memory.total - memory.reserved, memory.used
    except pynvml.NVMLError as error:
        if error.value in _GONE:
            raise
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return memory.total, memory.used


def _processes(handle: Any) -> tuple[tuple[int, int], ...]:
    """List the processes with their bytes, 0 where the driver does not say (in containers, under WSL).

    A process that computes and draws is in two lists, with all its memory in each: so the largest, not the sum.
    """
    sizes: dict[int, int] = {}
    for kind in ("Compute", "Graphics", "MPSCompute"):
        for process in _process_list(kind, handle):
            sizes[process.pid] = max(sizes.get(process.pid, 0), process.usedGpuMemory or 0)
    return tuple(sorted(sizes.items()))


def _process_list(kind: str, handle: Any) -> Iterable[Any]:
    for version in ("v3", "v2"):  # v3: drivers from 510 on
        running = _optional(getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_{version}"), handle)
        if running is not None:
            return list(running)
    return []


def _unusable(handle: Any) -> str | None:
    mode = _optional(pynvml.nvmlDeviceGetMigMode, handle)
    if mode and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
        return "it is split by MIG, and mmq places jobs on whole GPUs only"
    return None


def _warnings(handle: Any) -> Iterable[str]:
    errors = _optional(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    if errors:
        yield f"{errors} uncorrected memory errors since the driver was loaded"
    reasons = _optional(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    yield from (sentence for bit, sentence in _SLOWED.items() if reasons & bit)


def _optional(query: Callable[..., Any], *arguments: Any) -> Any:
    """Query what not every GPU, driver or container supports: None then. A lost GPU is still an error."""
    try:
        return query(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _GONE:
            raise
        return None


def _sentence(error: Any) -> str:
    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "NVML: the driver was updated, and the kernel still runs the old one: reboot (code 18)"
    return f"NVML: {error} (code {error.value})"


if __name__ == "__main__":
    main()
