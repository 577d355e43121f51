"""The trainer's process as its shim sees it: started by it, or adopted from a dead one.

Owns signals to it and its group. No pid is ever signalled that has not been checked to be the very process. Both
kinds have a `fileno()` that becomes readable when the process ends.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from scheduler.processes.liveness import group_members, process_started
from scheduler.processes.locks import holders
from scheduler.processes.process_tree import descendants
from scheduler.processes.signalling import send_each
from worker.classification import Exit


class Process(Protocol):
    pid: int
    started: int  # clock ticks since boot
    session: int

    def fileno(self) -> int: ...

    def ended(self) -> Exit | None:
        """How it ended; None while it lives."""
        ...


class OwnProcess:
    """A child. It is never waited for, so that its pid stays its own until the shim, its parent, is gone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started = process_started(pid) or 0  # 0: it has ended already
        self.session = os.getsid(pid)
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def start(
        cls, command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path, lock: int
    ) -> "OwnProcess":
        """Start it in a process group of its own, its output to the log, heir to the lock; OSError if it can't be."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=dict(environment),
                process_group=0,
                pass_fds=[lock],
            )
        child.returncode = 0  # from here on it is ours and not Popen's to wait for
        return cls(child.pid)

    def fileno(self) -> int:
        return self._pidfd

    def ended(self) -> Exit | None:
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        return Exit(code=status.si_status) if status.si_code == os.CLD_EXITED else Exit(signal=status.si_status)


class AdoptedProcess:
    """Another process's child: we see that it ended, and not how."""

    def __init__(self, pid: int, started: int) -> None:
        self.pid = pid
        self.started = started
        self._pidfd = os.pidfd_open(pid)
        self.session = os.getsid(pid)

    @classmethod
    def adopt(cls, pid: int, started: int) -> "AdoptedProcess | None":
        """Watch a process, after making sure that the watched one is the recorded one."""
        try:
            process = cls(pid, started)
        except ProcessLookupError:
            return None
        if process_started(pid) == started:
            return process
        os.close(process.fileno())
        return None

    def fileno(self) -> int:
        return self._pidfd

    def ended(self) -> Exit | None:
        return Exit() if select.select([self._pidfd], [], [], 0)[0] else None


def terminate(process: Process) -> None:
    """Ask the process to end; just it, so that it may still use its own children to save."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(process.fileno(), signal.SIGTERM)


def kill_group(process: Process) -> None:
    """Kill the living process with all its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.ended() is None:
            os.killpg(process.pid, signal.SIGKILL)


def sweep(process: Process, lock: Path) -> int:
    """After the process has ended: kill what it left behind: in its group, with its lock, or as orphans of ours.

    How many those were.
    """

    def left() -> set[int]:
        pids = {*group_members(process.pid, process.session), *others_with(lock), *descendants(os.getpid())}
        return pids - {process.pid}

    return _kill_until_none(left)


def evict(lock: Path, *, grace_seconds: float) -> int:
    """End whoever holds a run's lock though nobody looks after it: TERM, then KILL. How many those were.

    Without any grace no TERM is sent: a trainer killed while it saves would end differently each time.
    """
    holding = send_each(lambda: others_with(lock), signal.SIGTERM) if grace_seconds > 0 else others_with(lock)
    deadline = time.monotonic() + grace_seconds
    while others_with(lock) and time.monotonic() < deadline:
        time.sleep(0.1)
    _kill_until_none(lambda: others_with(lock))
    return len(holding)


def others_with(lock: Path) -> set[int]:
    return {*holders(lock)} - {os.getpid()}


def _kill_until_none(left: Callable[[], set[int]], *, limit_seconds: float = 5) -> int:
    killed: set[int] = set()
    deadline = time.monotonic() + limit_seconds
    while left() and time.monotonic() < deadline:
        killed |= send_each(left, signal.SIGKILL)
        time.sleep(0.02)
    return len(killed)
