"""How much memory this host has in all and available, within the limits of our cgroups. Reads /proc and /sys."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    total_bytes: int
    available_bytes: int  # without swapping


def read_host_memory(*, root: Path = Path("/")) -> HostMemory:
    """Read the host's memory, or what its tightest enclosing cgroup (v2 or v1) leaves of it."""
    host = _meminfo(root / "proc/meminfo")
    total, available = host["MemTotal"], host["MemAvailable"]
    for limit, used in _cgroups(root):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return HostMemory(total_bytes=total, available_bytes=available)


def _meminfo(path: Path) -> dict[str, int]:
    pairs = (line.split(":") for line in path.read_text().splitlines())
    return {name: int(rest.split()[0]) * 1024 for name, rest in pairs}


def _cgroups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes used that can't be reclaimed) of each cgroup around us that has a limit."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = mount / path.lstrip("/")
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount):
                yield from _limit(directory, *names)


def _limit(directory: Path, limit_name: str, usage_name: str) -> Iterator[tuple[int, int]]:
    limit, usage = _text(directory / limit_name).strip(), _text(directory / usage_name).strip()
    if limit.isdecimal() and usage.isdecimal():
        yield int(limit), max(0, int(usage) - _page_cache(directory / "memory.stat"))


def _page_cache(path: Path) -> int:
    """Bytes of the cgroup's use that the kernel gives back when asked: its inactive file pages."""
    for line in _text(path).splitlines():
        name, value = line.split()
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
