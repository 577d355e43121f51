"""One service a home: a flock, and in its file who holds it.

Owns the lock files. The kernel drops a lock with its holder, so a crash leaves none behind.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from scheduler.processes.liveness import process_started
from scheduler.processes.locks import lock_held, take_lock


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What the holder of the lock says of itself."""

    pid: int
    started: int  # clock ticks since boot
    since: float  # epoch
    devices: str = "auto"  # as they were chosen
    ready: bool = False
    problem: str | None = None  # why it isn't ready
    failing: bool = False  # a child keeps ending


class ServiceLock:
    """The lock, taken. `write_state` changes what others read of us."""

    def __init__(self, descriptor: int, devices: str) -> None:
        self._descriptor = descriptor
        self._devices = devices
        self._since = time.time()
        self.write_state(ready=False)

    @classmethod
    def take(cls, path: Path, devices: str) -> "ServiceLock | None":
        """Take it, for a service on these devices; None if another has it."""
        descriptor = take_lock(path)
        return None if descriptor is None else cls(descriptor, devices)

    def write_state(self, *, ready: bool, problem: str | None = None, failing: bool = False) -> bool:
        """Change what others read of us; False if the disk is full, and the state before stands."""
        pid, since = os.getpid(), self._since
        started = process_started(pid) or 0
        state = Holder(
            pid=pid,
            started=started,
            since=since,
            devices=self._devices,
            ready=ready,
            problem=problem,
            failing=failing,
        )
        text = json.dumps(asdict(state)).encode()
        try:
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))
        except OSError:
            return False
        return True

    def release(self) -> None:
        os.close(self._descriptor)


def holder(path: Path) -> Holder | None:
    """Who holds the lock; None if nobody does."""
    for _ in range(100):  # until it has written its own: at first the file has the state of the holder before
        if not lock_held(path):
            return None
        with contextlib.suppress(OSError, ValueError, TypeError):
            process = Holder(**json.loads(path.read_text()))
            if process_started(process.pid) == process.started:
                return process
        time.sleep(0.01)
    return None


def last_devices(path: Path) -> str | None:
    """The devices of the service that has the lock, or had it last; None where there was none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(path.read_text())).devices
    return None
