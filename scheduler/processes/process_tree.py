"""The tree of processes: children that end with their parent, orphans that are inherited, descendants.

Linux only. Standard library only.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

from scheduler.processes.liveness import PROC, process_started

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def dies_with_parent() -> Callable[[], None]:
    """Return what a child runs before its program: ask for TERM when we die, and exit if we have died already.

    The signal comes when the *thread* that started the child ends, so children are started from the main thread only.
    Never used for shims or trainers, which outlive everybody.
    """
    parent = os.getpid()

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def inherit_orphans() -> None:
    """Become the parent of our children's orphans: they go to the nearest ancestor that is a subreaper."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> set[int]:
    """The living descendants of a process, also those that left its group or its session."""
    below: set[int] = set()
    pending = [pid]
    while pending:
        children = _children(pending.pop()) - below
        below |= children
        pending += children
    return {child for child in below if process_started(child) is not None}


def _children(pid: int) -> set[int]:
    children: set[int] = set()
    with contextlib.suppress(OSError):  # it has ended
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                children.update(map(int, (thread / "children").read_text().split()))
    return children
