"""Locks that die with their holders: flocks taken, probed, and traced to the processes that hold them.

Owns the names of a run directory's two locks, which the worker takes and others look at. Standard library only.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from scheduler.processes.liveness import PROC, processes

TRAINER_LOCK = "lock"  # in a run directory: held by the shim and, inherited, by the trainer
SHIM_LOCK = "shim.lock"  # held by the shim alone
PROBE_SECONDS = 0.2  # a probe (`lock_held`) holds a lock for a moment, shared


def take_lock(path: Path, *, patience_seconds: float = PROBE_SECONDS) -> int | None:
    """Take the exclusive flock of a file and return its descriptor; None if another holds it all this while."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def lock_held(path: Path) -> bool:
    """Whether somebody holds an exclusive flock on this file. Takes a shared one for a moment to find out."""
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
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
        status = path.stat()
    except FileNotFoundError:
        return []
    return sorted(pid for pid in processes() if _holds(pid, (status.st_dev, status.st_ino)))


def _holds(pid: int, device_and_inode: tuple[int, int]) -> bool:
    process = PROC / str(pid)
    with contextlib.suppress(OSError):  # it ended, or it is another user's
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                status = descriptor.stat()
                if (status.st_dev, status.st_ino) == device_and_inode:
                    locks = (process / "fdinfo" / descriptor.name).read_text()
                    if "FLOCK" in locks and "WRITE" in locks:
                        return True
    return False
