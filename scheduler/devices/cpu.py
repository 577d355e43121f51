"""The host's memory as one device with a budget, for a machine without a GPU.

The device's processes are those with its mark in their environment, which `launch()` sets: so no knowledge of jobs is
needed, and a trainer's children count too. Memory of other programs counts as used once the host has less left than
the budget.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.devices.device import DeviceInfo, DeviceReading, Launch
from scheduler.devices.host_cores import usable_cores
from scheduler.devices.host_memory import HostMemory, read_host_memory
from scheduler.errors import UsageError
from scheduler.footprint.context import CPU_CONTEXT_BYTES
from scheduler.units import format_bytes, parse_bytes

MARK = "MMQ_DEVICE"


class CpuDevices:
    kind = "cpu"

    def __init__(
        self,
        budget_bytes: int,
        *,
        host: str,
        clock: Callable[[], float] = time.time,
        host_memory: Callable[[], HostMemory] = read_host_memory,
        proc: Path = Path("/proc"),
    ) -> None:
        self._budget_bytes = budget_bytes
        self._id = f"cpu@{host}"
        self._clock = clock
        self._host_memory = host_memory
        self._proc = proc

    def discover(self) -> list[DeviceInfo]:
        name = f"host memory, {format_bytes(self._budget_bytes)} of it"
        return [
            DeviceInfo(
                id=self._id,
                kind=self.kind,
                number=0,
                name=name,
                total_bytes=self._budget_bytes,
                capability=None,
            )
        ]

    def read(self) -> list[DeviceReading]:
        processes = tuple(_marked(self._proc, f"{MARK}={self._id}".encode()))
        own_bytes = sum(resident_bytes for _, resident_bytes in processes)
        missing_bytes = self._budget_bytes - self._host_memory().available_bytes
        reading = DeviceReading(
            device_id=self._id,
            at=self._clock(),
            total_bytes=self._budget_bytes,
            used_bytes=max(own_bytes, missing_bytes),
            processes=processes,
            utilisation=None,
        )
        return [reading]

    def launch(self, info: DeviceInfo, limit_bytes: int | None) -> Launch:
        return Launch(
            device={"kind": self.kind, "limit_bytes": limit_bytes, "context_bytes": CPU_CONTEXT_BYTES},
            # All cores for each: how many trainers will share them is not known yet, and one alone should use them.
            environment={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(usable_cores()), MARK: info.id},
        )

    def close(self) -> None:
        """Nothing is held open."""


def parse_budget(text: str, *, host_memory: Callable[[], HostMemory] = read_host_memory) -> int:
    """Read the budget of `cpu:BYTES`; empty text means half of what the host or its cgroup allows."""
    if not text:
        return host_memory().total_bytes // 2
    try:
        budget_bytes = parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"cpu:{text}: {error}", hint="write it like cpu:8GiB") from error
    if budget_bytes <= 0:
        raise UsageError(f"cpu:{text} leaves no memory for jobs", hint="write it like cpu:8GiB")
    return budget_bytes


def _marked(proc: Path, mark: bytes) -> list[tuple[int, int]]:
    """Find the processes with `mark` in their environment, each with its resident bytes."""
    marked = []
    for directory in proc.iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            if mark in (directory / "environ").read_bytes().split(b"\0"):
                marked.append((int(directory.name), _resident_bytes(directory)))
        except OSError:  # it has just ended, or it is another user's
            continue
    return sorted(marked)


def _resident_bytes(directory: Path) -> int:
    return int((directory / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
