"""What the NVML probe says to its parent: one JSON line, of these shapes."""

import msgspec


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. Without a `uuid` nothing but `index` and `error` means anything."""

    index: int  # in PCI bus order
    uuid: str | None = None
    name: str = ""
    total_bytes: int = 0  # without what the driver keeps for itself, as CUDA counts it
    used_bytes: int = 0
    capability: str | None = None
    processes: tuple[tuple[int, int], ...] = ()
    utilisation: float | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    driver: str | None = None
    gpus: tuple[GpuReport, ...] = ()
    absent: bool = False  # no NVIDIA driver or no GPU: nothing is wrong, there is nothing
    error: str | None = None  # NVML as a whole does not work
