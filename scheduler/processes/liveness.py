"""Who is alive: pids that can't be mistaken for another's. Reads /proc; signals nobody. Standard library only."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_STATE, _PARENT, _START_TICKS = 0, 1, 19  # fields 3, 4 and 22 of /proc/PID/stat, counted after the command's name


def process_started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None if there is none, or just a zombie."""
    fields = _status(pid)
    return None if fields is None or fields[_STATE] in "ZX" else int(fields[_START_TICKS])


def age_seconds(started: int) -> float:
    """How long ago a process of this boot and start began, whatever has become of the clock since."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int | None:
    fields = _status(pid)
    return None if fields is None else int(fields[_PARENT])


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def same_process(pid: int | None, started: int | None, boot: str | None) -> bool:
    """Whether the very process that was recorded lives: not a zombie, not a reused pid, not from before a reboot."""
    return pid is not None and started is not None and boot == boot_id() and process_started(pid) == started


def group_members(group: int, session: int) -> list[int]:
    """The living processes of a process group, if it is still the one of that session."""
    members = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group and os.getsid(pid) == session and process_started(pid) is not None:
                members.append(pid)
    return members


def processes() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())


def _status(pid: int) -> list[str] | None:
    try:
        status = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return status[status.rindex(")") + 2 :].split()  # the name before it may hold anything
