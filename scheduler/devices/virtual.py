"""Virtual devices: CPU trainers that account memory as CUDA's allocator would, on devices of any size.

Each trainer writes how much it holds into the device's ledger directory; this reads it. Every live process counts,
whoever started it.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.devices.device import DeviceInfo, DeviceReading, Launch
from scheduler.devices.host_cores import usable_cores
from scheduler.devices.ledger import read_ledger
from scheduler.errors import UsageError
from scheduler.footprint.context import VIRTUAL_CONTEXT_BYTES
from scheduler.units import format_bytes, parse_bytes

_SPEC = re.compile(r"(\d{1,3})x(.+)")


def parse_virtual(text: str) -> tuple[int, int]:
    """Read `2x20GiB` as (number of devices, bytes each)."""
    match = _SPEC.fullmatch(text.strip())
    try:
        count, total_bytes = (int(match[1]), parse_bytes(match[2])) if match else (0, 0)
    except ValueError:
        count, total_bytes = 0, 0
    if count < 1 or total_bytes <= VIRTUAL_CONTEXT_BYTES:
        raise UsageError(
            f"virtual:{text} names no virtual devices: it takes a count and a size above "
            f"{format_bytes(VIRTUAL_CONTEXT_BYTES)}",
            hint="write it like virtual:2x20GiB",
        )
    return count, total_bytes


class VirtualDevices:
    kind = "virtual"

    def __init__(
        self,
        count: int,
        total_bytes: int,
        *,
        ledger_dir: Path,
        host: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._count = count
        self._total_bytes = total_bytes
        self._ledger_dir = ledger_dir
        self._host = host
        self._clock = clock

    def discover(self) -> list[DeviceInfo]:
        return [
            DeviceInfo(
                id=f"virtual-{number}@{self._host}",
                kind=self.kind,
                number=number,
                name=f"virtual {format_bytes(self._total_bytes)}",
                total_bytes=self._total_bytes,
                capability=None,
            )
            for number in range(self._count)
        ]

    def read(self) -> list[DeviceReading]:
        return [self._read(info) for info in self.discover()]

    def launch(self, info: DeviceInfo, limit_bytes: int | None) -> Launch:
        device = {
            "kind": self.kind,
            "ledger": str(self._ledger(info)),
            "total_bytes": info.total_bytes,
            "context_bytes": VIRTUAL_CONTEXT_BYTES,
            "limit_bytes": limit_bytes,
        }
        # The host's cores are shared out: trainers that each take them all spend their time waiting for one another.
        threads = max(1, usable_cores() // self._count)
        return Launch(device=device, environment={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)})

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self, info: DeviceInfo) -> DeviceReading:
        holdings = read_ledger(self._ledger(info))
        unreadable = ", ".join(holdings.unreadable)
        return DeviceReading(
            device_id=info.id,
            at=self._clock(),
            total_bytes=info.total_bytes,
            used_bytes=holdings.used_bytes,
            processes=holdings.processes,
            utilisation=None,
            error=f"ledger entries hold no number: {unreadable}" if unreadable else None,
        )

    def _ledger(self, info: DeviceInfo) -> Path:
        return self._ledger_dir / f"virtual-{info.number}"
