"""What others' processes hold on a device, and may come to hold again: the recent peak of each, and a tenth more.

A process that is known not to grow can be named, and counts as it is; so does one of an attempt that has ended. Keeps
in memory what it saw of each pid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scheduler.controller.holdings import attempt_of
from scheduler.devices.device import DeviceReading
from scheduler.processes.liveness import parent_of

RECENT_SECONDS = 600.0
GROWTH = 1.1


@dataclass
class _Seen:
    peak_bytes: int
    peak_at: float  # monotonic


@dataclass
class Foreign:
    monotonic: Callable[[], float]
    ignored: frozenset[int] = frozenset()
    was_ours: Callable[[int], bool] = lambda pid: False
    parent: Callable[[int], int | None] = parent_of
    _seen: dict[tuple[str, int], _Seen] = field(default_factory=dict)

    def look(self, reading: DeviceReading | None, roots: Mapping[int, int]) -> int:
        """Return the bytes to be left to others on a device; `roots` are the pids of ours, by attempt."""
        if reading is None or reading.error is not None:
            return 0
        others = {pid: size for pid, size in reading.processes if attempt_of(pid, roots, self.parent) is None}
        gone = {key for key in self._seen if key[0] == reading.device_id and key[1] not in others}
        for key in gone:
            del self._seen[key]
        wanted = sum(self._wanted(reading.device_id, pid, size) for pid, size in others.items())
        return min(reading.total_bytes, wanted)

    def _wanted(self, device_id: str, pid: int, size: int) -> int:
        if pid in self.ignored or self.was_ours(pid):
            return size
        now = self.monotonic()
        seen = self._seen.get((device_id, pid))
        if seen is None or size >= seen.peak_bytes or now - seen.peak_at > RECENT_SECONDS:
            seen = self._seen[device_id, pid] = _Seen(size, now)
        return int(seen.peak_bytes * GROWTH)
