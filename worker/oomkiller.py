"""Whether the kernel killed a process for memory: what it writes and counts of that, as far as we may read it.

Owns the kernel's files and their forms. The strongest evidence first: its log names the process; the count of the
process's control group rose in the last seconds; where there is no such count, the host's did.
"""

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scheduler.units import format_bytes

RECENT_SECONDS = 15.0  # a large process counts as killed some seconds before it is gone
RECORD_BYTES = 8192  # a read gives one whole record of the log, or fails
MOST_RECORDS = 100_000
_KILLED = re.compile(rb"Killed process (\d+) \(.*anon-rss:(\d+)kB")


@dataclass(frozen=True, kw_only=True)
class KernelFiles:
    """Where the kernel tells it."""

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")
    log: Path = Path("/dev/kmsg")


@dataclass
class OomKiller:
    """Watches for one process. Look often while it lives: what counts is what rose just before its end."""

    pid: int
    started: int  # clock ticks since boot: an older process may have had the same number
    files: KernelFiles = field(default_factory=KernelFiles)
    clock: Callable[[], float] = time.monotonic
    _seen: deque[tuple[float, Path, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Note how many were killed by now, where the process is: it may be moved to another group while it runs."""
        now = self.clock()
        for path in self._counters():
            if (count := _count(path)) is not None:
                self._seen.append((now, path, count))
                break
        while len(self._seen) > 1 and self._seen[1][0] <= now - RECENT_SECONDS:
            self._seen.popleft()

    def evidence(self) -> str | None:
        """Say what speaks for it, now that the process is gone; None if nothing does."""
        held_bytes = named_in_log(self.files.log, self.pid, self.started)
        if held_bytes is not None:
            return f"its log names process {self.pid}, which held {format_bytes(held_bytes)}"
        self.look()
        least: dict[Path, int] = {}
        now = ((path, _count(path) or 0) for path in {path for _, path, _ in self._seen})  # it may have left a group
        for path, count in (*((path, count) for _, path, count in self._seen), *now):
            if count > least.setdefault(path, count):
                return f"{path} counts one more process killed for memory just then"
        return None

    def _counters(self) -> Iterator[Path]:
        """The files that may count it, from the group of the process alone to the whole host."""
        with contextlib.suppress(OSError):
            for line in (self.files.proc / str(self.pid) / "cgroup").read_text().splitlines():
                number, controllers, path = [*line.split(":", 2), "", ""][:3]
                if number == "0":
                    yield self.files.cgroups / path.lstrip("/") / "memory.events"
                elif "memory" in controllers.split(","):
                    yield self.files.cgroups / "memory" / path.lstrip("/") / "memory.oom_control"
        yield self.files.proc / "vmstat"


def named_in_log(log: Path, pid: int, started: int) -> int | None:
    """The bytes that a process held when the kernel's log says that it was killed for memory; None if it does not."""
    since_seconds = started / os.sysconf("SC_CLK_TCK")
    for line in _lines(log):
        head, _, text = line.partition(b";")
        match = _KILLED.search(text)
        if match and int(match[1]) == pid and _seconds(head) >= since_seconds:
            return int(match[2]) * 1024
    return None


def _seconds(head: bytes) -> float:
    """When a record was written, since boot: its third field, in microseconds."""
    fields = head.split(b",")
    return int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else 0.0


def _lines(log: Path) -> Iterator[bytes]:
    """The lines that the kernel still has; none where we may not read them."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(MOST_RECORDS):
            try:
                record = os.read(descriptor, RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten while we read
            if not record:
                return
            yield from record.split(b"\n")
    except OSError:
        return
    finally:
        os.close(descriptor)


def _count(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None
