"""Which device a run has, as its configuration says. Each kind is imported only where it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.memory.device import Device


def open_device(config: Mapping[str, Any]) -> Device:
    """Open the device that a configuration names; torch.OutOfMemoryError if not even the context fits."""
    kind, limit_bytes, context_bytes = config["kind"], config.get("limit_bytes"), config.get("context_bytes", 0)
    if kind == "cuda":
        from trainer.memory.cuda import CudaDevice

        return CudaDevice(config.get("number", 0), limit_bytes, context_bytes=context_bytes)
    if kind == "cpu":
        from trainer.memory.cpu import CpuDevice

        return CpuDevice(limit_bytes, context_bytes=context_bytes)
    if kind == "virtual":
        from trainer.memory.virtual import VirtualDevice

        return VirtualDevice(
            Path(config["ledger"]),
            total_bytes=config["total_bytes"],
            limit_bytes=limit_bytes,
            context_bytes=context_bytes,
        )
    raise ValueError(f"no such kind of device: {kind!r}; there are cuda, cpu and virtual")
