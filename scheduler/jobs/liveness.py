"""Who is alive: pids that can't be mistaken for another's, and locks that die with their holders.

Owns reading /proc and probing flocks, for the controller's reconcile and for the shim's adoption alike. Signals
nobody. Standard library only.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

TRAINER_LOCK = "lock"  # in a run directory: held by the shim and, inherited, by the trainer
SHIM_LOCK = "shim.lock"  # held by the shim alone

_PROC = Path("/proc")


def process_started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None if there is none, or just a zombie."""
    try:
        status = (_PROC / str(pid) / "stat").read_text()
    except (OSError, ValueError):
        return None
    fields = status[status.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def same_process(pid: int | None, started: int | None, boot: str | None) -> bool:
    """Whether the very process that was recorded lives: not a zombie, not a reused pid, not from before a reboot."""
    return pid is not None and started is not None and boot == boot_id() and process_started(pid) == started


def lock_held(path: Path) -> bool:
    """Whether somebody holds an exclusive flock on this file. Takes a shared one for a moment to find out."""
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(probe)
    return False


def attended(run_dir: Path) -> bool:
    """Whether a shim looks after this run's trainer."""
    return lock_held(run_dir / SHIM_LOCK)


def holders(path: Path) -> list[int]:
    """The processes of ours that hold the exclusive flock of this file, be it inherited; a mere reader is none."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    return sorted(pid for pid in _processes() if _holds(pid, (wanted.st_dev, wanted.st_ino)))


def group_members(group: int, session: int) -> list[int]:
    """The living processes of a process group, if it is still the one of that session."""
    members = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group and os.getsid(pid) == session and process_started(pid) is not None:
                members.append(pid)
    return members


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())


def _holds(pid: int, wanted: tuple[int, int]) -> bool:
    process = _PROC / str(pid)
    with contextlib.suppress(OSError):  # it ended, or it is another user's
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found = descriptor.stat()
                if (found.st_dev, found.st_ino) == wanted:
                    locks = (process / "fdinfo" / descriptor.name).read_text()
                    if "FLOCK" in locks and "WRITE" in locks:
                        return True
    return False
