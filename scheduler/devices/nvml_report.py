"""What the NVML probe says to its parent: one JSON line, of these shapes."""

from typing import Annotated

import msgspec
from msgspec import Meta

Amount = Annotated[int, Meta(ge=0, lt=1 << 62)]  # what a database can hold


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. Without a `uuid` nothing but `index` and `error` means anything."""

    index: Amount  # in PCI bus order
    uuid: str | None = None
    name: str = ""
    total_bytes: Amount = 0  # without what the driver keeps for itself, as CUDA counts it
    used_bytes: Amount = 0
    capability: str | None = None
    processes: tuple[tuple[Amount, Amount], ...] = ()
    utilisation: float | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    driver: str | None = None
    gpus: tuple[GpuReport, ...] = ()
    absent: bool = False  # no NVIDIA driver or no GPU: nothing is wrong, there is nothing
    error: str | None = None  # NVML as a whole does not work
