"""The process behind `mmq up`: starts its children, and restarts those that end, until it is told to stop.

Owns no job and no state but its locks. Killed at any moment, it takes its children with it; jobs go on, and the next
supervisor starts afresh.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from scheduler.processes.liveness import process_started
from scheduler.processes.locks import take_lock
from scheduler.processes.signalling import send
from scheduler.service.child import Child, Role
from scheduler.service.lock import ServiceLock
from scheduler.service.logs import last_line, rotate

LOOK_SECONDS = 0.1  # until all are ready
REST_SECONDS = 2.0  # from then on; the end of a child wakes us at once
TERM_SECONDS = 15.0
HEAD_START_SECONDS = 10.0  # the broker's, before the others start without it
ORPHAN_SECONDS = 15.0


class Supervisor:
    """Runs the roles in the calling thread, which must be the main one."""

    def __init__(
        self, roles: Iterable[Role], lock: ServiceLock, *, children: Path, log: Path, say: Callable[[str], None]
    ) -> None:
        self._lock = lock
        self._log = log  # where we ourselves write, if not to a terminal
        self._say = say
        self._children_lock = wait_for_orphans(children, say)
        self._children = [Child(role, say, self._children_lock) for role in roles]
        self._signals: list[int] = []
        self._written_pids: list[int | None] = []
        self._ready = False

    def run(self, announce: Callable[[], None]) -> None:
        """Tend the children until TERM or INT; `announce` is called each time all of them have become ready."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._caught)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        began = time.monotonic()
        try:
            while not {signal.SIGTERM, signal.SIGINT} & {*self._signals}:
                self._signals.clear()
                self._tend(time.monotonic() - began)
                self._report(announce)
                select.select([reading], [], [], REST_SECONDS if self._ready else LOOK_SECONDS)
                with contextlib.suppress(BlockingIOError):
                    os.read(reading, 4096)
        finally:
            self._stop()
            signal.set_wakeup_fd(-1)
            os.close(reading)
            os.close(writing)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _tend(self, age_seconds: float) -> None:
        for child in self._children:
            child.tend()
            if child.role.goes_first and not child.ready and age_seconds < HEAD_START_SECONDS:
                break
        rotate(self._log)
        pids = [child.pid for child in self._children]
        if pids != self._written_pids and _write_pids(self._children_lock, [pid for pid in pids if pid is not None]):
            self._written_pids = pids

    def _report(self, announce: Callable[[], None]) -> None:
        ready = all(child.ready for child in self._children)
        failing = [c for c in self._children if not c.ready and c.failures >= 2]
        problem = "; ".join(f"{c.role.name}: {last_line(c.role.log)}" for c in failing) or None
        waiting = ", ".join(c.role.name for c in self._children if not c.ready)
        if ready != self._ready or failing or not ready:
            reason = problem or (f"waiting for {waiting}" if waiting else None)
            if not self._lock.write_state(ready=ready, problem=reason, failing=bool(failing)):
                return  # no room on the disk: written at the next look
        if ready and not self._ready:
            announce()
        self._ready = ready

    def _stop(self) -> None:
        self._say("stopping; running jobs go on")
        for child in reversed(self._children):  # the broker last: the others still speak to it
            child.terminate()
            child.wait(TERM_SECONDS)
        os.close(self._children_lock)


def wait_for_orphans(path: Path, say: Callable[[str], None]) -> int:
    """Take the lock that children inherit, once the children of a service that was killed have ended.

    The kernel has sent them TERM; one that does not end is killed, after making sure that it is one of them.
    """
    while (descriptor := take_lock(path, patience_seconds=ORPHAN_SECONDS)) is None:
        _kill_recorded(path, say)
    os.ftruncate(descriptor, 0)
    return descriptor


def _kill_recorded(path: Path, say: Callable[[str], None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for pid, started in json.loads(path.read_text()):
            if send(pid, started, signal.SIGKILL):
                say(f"process {pid} of a service that is gone does not end: killed")


def _write_pids(descriptor: int, pids: list[int]) -> bool:
    text = json.dumps([[pid, process_started(pid)] for pid in pids]).encode()
    try:
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    except OSError:
        return False  # no room on the disk: it may have some at the next look
    return True
