"""Signals that reach the very process they are meant for, and never one that has its pid by now."""

import contextlib
import os
import signal
from collections.abc import Callable

from scheduler.processes.liveness import process_started


def send(pid: int, started: int | None, number: int) -> bool:
    """Signal the process of this pid and start time; False if it is gone."""
    return bool(send_each(lambda: {pid} if process_started(pid) == started else set(), number))


def send_each(find: Callable[[], set[int]], number: int) -> set[int]:
    """Signal each process that `find` returns both before and after its pidfd is opened; return their pids."""
    with contextlib.ExitStack() as opened:
        descriptors: dict[int, int] = {}
        for pid in find():
            with contextlib.suppress(ProcessLookupError):
                descriptors[pid] = os.pidfd_open(pid)
                opened.callback(os.close, descriptors[pid])
        signalled = find() & descriptors.keys()
        for pid in signalled:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptors[pid], number)
    return signalled


def signal_name(number: int) -> str:
    """Return a signal's name, as SIGKILL; real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
